"""Bootstrap over members: intervals, pairs, and their reproducibility."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from brew_eval.intervals import Bootstrap, Figure, Replicates, mean_of
from brew_eval.metrics.base import Ratio
from brew_eval.metrics.ranking import Auc
from brew_platform.errors import UserError


@given(st.integers(0, 2**32 - 1), st.integers(2, 30))
def test_the_difference_of_equal_models_is_0(seed: int, members: int) -> None:
    random = np.random.default_rng(seed)
    score, member = random.normal(size=100), random.integers(members, size=100)
    label = (score + random.normal(size=100) > 0).astype(float)
    bootstrap = Bootstrap(members, replicates=20, seed=seed)
    a, b = (bootstrap.replicate(Auc(label, scores, member)) for scores in (score, 2 * score + 1))
    assert (a - b).figure(0.95) == Figure(0.0, 0.0, 0.0)


def test_the_interval_of_a_mean_is_that_of_the_normal_approximation() -> None:
    value = np.random.default_rng(0).normal(size=2_000)
    figure = Bootstrap(2_000, replicates=2_000).replicate(Ratio(value, np.ones(2_000))).figure(0.95)
    assert figure.value == pytest.approx(value.mean())
    assert figure.low is not None
    assert figure.high is not None
    assert (figure.high - figure.low) / 2 == pytest.approx(1.96 * value.std() / np.sqrt(2_000), rel=0.1)


def test_an_interval_is_wider_when_members_have_equal_rows() -> None:
    """Rows of a member repeat each other, so 20 rows are worth one."""
    score = np.random.default_rng(1).normal(size=100)
    label = (score + np.random.default_rng(2).normal(size=100) > 0).astype(float)
    rows = np.repeat(np.arange(100), 20)
    by_member = Bootstrap(100).replicate(Auc(label[rows], score[rows], rows)).figure(0.95)
    by_row = Bootstrap(2000, replicates=200).replicate(Auc(label[rows], score[rows], np.arange(2000))).figure(0.95)
    assert by_member.high - by_member.low > 3 * (by_row.high - by_row.low)  # type: ignore[operator]


def test_the_same_seed_draws_the_same_replicates() -> None:
    mean = Ratio(np.arange(50.0), np.ones(50))
    first, again, other = (Bootstrap(50, replicates=30, seed=seed).replicate(mean) for seed in (1, 1, 2))
    assert np.array_equal(first.value_R, again.value_R)
    assert not np.array_equal(first.value_R, other.value_R)


def test_an_interval_that_is_not_known_is_none() -> None:
    assert Replicates(np.nan, np.ones(4)).figure(0.9) == Figure(None)
    assert Replicates(0.5, np.array([np.nan, np.nan, np.nan, 1.0])).figure(0.9) == Figure(0.5)
    assert Bootstrap(1, replicates=5).replicate(Ratio(np.ones(1), np.ones(1))).figure(0.9) == Figure(1.0)


def test_a_mean_leaves_out_figures_that_are_not_defined() -> None:
    parts = [Replicates(1.0, np.ones(3)), Replicates(np.nan, np.full(3, np.nan)), Replicates(2.0, np.zeros(3))]
    mean = mean_of(parts)
    assert (mean.value, mean.value_R.tolist()) == (1.5, [0.5, 0.5, 0.5])
    assert np.isnan(mean_of(parts[1:2]).value)


@pytest.mark.parametrize(("members", "replicates"), [(0, 10), (10, 0)])
def test_nothing_to_draw_is_refused(members: int, replicates: int) -> None:
    with pytest.raises(UserError, match="nothing to draw"):
        Bootstrap(members, replicates=replicates)
