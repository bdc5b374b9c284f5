"""What all baselines have in common, and popularity and means by hand."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from brew_eval.baselines.base import Baseline, Calibration
from brew_eval.baselines.blend import Blend
from brew_eval.baselines.boosted_trees import BoostedTrees, BoostedTreesSettings
from brew_eval.baselines.factorisation import Factorisation, FactorisationSettings
from brew_eval.baselines.hstu import Hstu
from brew_eval.baselines.matches import Matches
from brew_eval.baselines.means import EntityMean, Popularity
from brew_eval.baselines.sasrec import SasRec
from brew_eval.baselines.sequential import SequentialSettings
from brew_platform.errors import UserError
from brew_platform.metrics import auc

from .tiny import DAY, draw_rows, make_rows


def trees() -> BoostedTrees:
    pytest.importorskip("lightgbm")
    return BoostedTrees([BoostedTreesSettings(leaves=4, rows_per_leaf=10, most_trees=30, learning_rate=0.1)])


def factorisation() -> Factorisation:
    return Factorisation("matrix_factorisation", [FactorisationSettings(factors=2)])


SEQUENTIAL = SequentialSettings(hidden=8, heads=1, layers=1, length=16, most_epochs=6, learning_rate=0.05, dropout=0)


def sasrec() -> SasRec:
    return SasRec(SEQUENTIAL)


def hstu() -> Hstu:
    return Hstu(SEQUENTIAL)


BASELINES: list[Callable[[], Baseline]] = [
    Popularity,
    EntityMean,
    Matches,
    factorisation,
    trees,
    sasrec,
    hstu,
    lambda: Blend("blend", [EntityMean(), factorisation()]),
]


@pytest.mark.parametrize("make", BASELINES)
def test_scores_are_probabilities_of_the_past(make: Callable[[], Baseline]) -> None:
    rows = draw_rows(seed=2)
    cut = int(rows.time_N[300])
    later = rows.between(cut, int(rows.time_N.max()))
    model = make()
    model.fit(rows, cut)
    score_N = model.score(rows, later.streaming())
    assert score_N.shape == (len(later),)
    assert ((score_N >= 0) & (score_N <= 1)).all()
    if not isinstance(model, Popularity | Matches):
        assert (auc(later.label_N, score_N) or 0) > 0.6
    # Other labels after the cut change neither the fit nor frozen scores.
    late = rows.time_N > cut
    other = replace(rows, label_N=rows.label_N ^ late, value_N=np.where(late, 6 - rows.value_N, rows.value_N))
    again = make()
    again.fit(other, cut)
    frozen_N = model.score(rows, later.frozen(cut))
    np.testing.assert_allclose(again.score(other, later.frozen(cut)), frozen_N, atol=1e-6)
    # A streaming score depends on strictly earlier rows only.
    moment = later.time_N[len(later) // 2]
    early = later.take(later.time_N <= moment)
    np.testing.assert_allclose(
        model.score(rows.take(rows.time_N < moment), early.streaming()), score_N[later.time_N <= moment], atol=1e-6
    )


@pytest.mark.parametrize("make", BASELINES)
def test_no_interaction_before_the_cut_is_refused(make: Callable[[], Baseline]) -> None:
    with pytest.raises(UserError, match="before the cut"):
        make().fit(make_rows([0], [0], [5], [2]), DAY)


@pytest.mark.parametrize("make", BASELINES)
def test_a_label_that_never_varies_gives_finite_scores(make: Callable[[], Baseline]) -> None:
    rows = make_rows([0, 1, 2] * 4, [0, 1, 0, 1] * 3, [5] * 12, list(range(12)))
    model = make()
    model.fit(rows, 8 * DAY)
    assert np.isfinite(model.score(rows, rows.streaming())).all()


def test_the_mean_of_an_entity_by_hand() -> None:
    rows = make_rows([0, 1, 2, 3], [0, 0, 1, 0], [5, 2, 4, 4], [1, 2, 3, 4])
    model = EntityMean(prior=2)
    model.fit(rows, 3 * DAY)  # 2 of 3 are liked
    assert model.score(rows, rows.streaming()).tolist() == pytest.approx(
        [2 / 3, (1 + 4 / 3) / 3, 2 / 3, (1 + 4 / 3) / 4]
    )
    assert model.score(rows, rows.frozen(DAY))[3] == pytest.approx((1 + 4 / 3) / 3)


def test_popularity_ranks_by_the_number_of_interactions() -> None:
    rows = make_rows([0, 1, 2, 3, 4, 5], [0, 0, 0, 1, 0, 1], [2, 4, 5, 1, 5, 2], [1, 2, 3, 4, 5, 6])
    model = Popularity()
    model.fit(rows, 5 * DAY)
    score_N = model.score(rows, rows.frozen(6 * DAY))
    assert score_N[0] == score_N[4] > score_N[3] == score_N[5]


def test_a_calibration_follows_the_frequencies() -> None:
    score_N = np.repeat([-3.0, 7.0], 100)
    label_N = np.r_[np.arange(100) < 20, np.arange(100) < 70]
    assert Calibration(score_N, label_N)(np.array([-3.0, 7.0])).tolist() == pytest.approx([0.2, 0.7], abs=0.01)
    assert Calibration(score_N, np.ones(200, bool))(np.zeros(1)).tolist() == [201 / 202]


def test_a_blend_of_fitted_parts_is_their_mean() -> None:
    rows = draw_rows()
    cut = int(rows.time_N[300])
    parts = [EntityMean(1), EntityMean(50)]
    for part in parts:
        part.fit(rows, cut)
    blend = Blend("blend", parts, is_fitted=True)
    blend.fit(rows, cut)
    expected = (parts[0].score(rows, rows.streaming()) + parts[1].score(rows, rows.streaming())) / 2
    np.testing.assert_array_equal(blend.score(rows, rows.streaming()), expected)
