"""Fits of scaling laws: planted parameters, intervals, the point that is held out, and input that is refused."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brew_eval.intervals import Figure, Replicates
from brew_eval.studies.scaling_law import fit_scaling_law, replicates_of_intervals
from brew_platform.errors import UserError

X = [1e6, 3e6, 1e7, 3e7, 1e8, 3e8]


def exact(values: np.ndarray) -> list[Replicates]:
    return [Replicates(float(value), np.full(20, value)) for value in values]


@settings(max_examples=25, deadline=None)
@given(c=st.floats(0.05, 0.6), gain=st.floats(0.05, 0.3), b=st.floats(0.1, 1.5), form=st.sampled_from(["loss", "auc"]))
def test_planted_parameters_are_recovered(c: float, gain: float, b: float, form: str) -> None:
    a = gain * X[0] ** b
    limit = c if form == "loss" else 1 - c
    change = a * np.array(X) ** -b
    values = limit + change if form == "loss" else limit - change
    law = fit_scaling_law(X, exact(values), form=form)  # type: ignore[arg-type]
    assert law.is_identified
    assert law.limit.value == pytest.approx(limit, abs=2e-3)
    assert law.exponent.value == pytest.approx(b, rel=0.05)
    assert law.at(X[2]).value == pytest.approx(values[2], abs=1e-4)
    assert law.held_out is not None
    assert law.held_out.predicted.value == pytest.approx(values[-1], abs=1e-3)


def test_the_interval_of_the_limit_contains_it_and_shrinks_with_the_noise() -> None:
    values = 0.5 + 40 * np.array(X) ** -0.4
    widths = []
    for deviation in (0.002, 0.0002):
        random = np.random.default_rng(3)
        points = [Replicates(float(v), v + deviation * random.standard_normal(300)) for v in values]
        law = fit_scaling_law(X, points, form="loss")
        assert law.limit.low is not None
        assert law.limit.high is not None
        assert law.limit.low <= 0.5 <= law.limit.high
        assert law.held_out is not None
        assert law.held_out.is_inside
        widths.append(law.limit.high - law.limit.low)
    assert widths[1] < widths[0] / 3


def test_limits_are_possible_losses_and_aucs() -> None:
    falling = fit_scaling_law(X, exact(2.0 - 0.1 * np.log(X)), form="loss")
    rising = fit_scaling_law(X, exact(0.02 + 0.05 * np.log(X)), form="auc")
    assert falling.limit.value is not None
    assert falling.limit.value >= 0
    assert rising.limit.value is not None
    assert rising.limit.value <= 1


def test_a_curve_that_does_not_bend_has_no_identified_limit() -> None:
    flat = fit_scaling_law(X, exact(0.7 - 0.004 * np.log(X)), form="loss")
    assert not flat.is_identified


def test_points_may_have_any_order_and_four_have_no_held_out_point() -> None:
    values = 0.5 + 40 * np.array(X[:4]) ** -0.4
    law = fit_scaling_law(X[3::-1], exact(values[::-1]), form="loss")
    assert law.held_out is None
    assert law.limit.value == pytest.approx(0.5, abs=1e-3)


@pytest.mark.parametrize(
    ("x", "sentence"),
    [
        ([1, 2, 3], "needs at least 4 points, but there are 3"),
        ([0, 1, 2, 3], "a positive x"),
        ([1, 2, 3, float("nan")], "a positive x"),
        ([1, 2, 2, 3], "two points with the same x"),
    ],
)
def test_invalid_points_are_refused(x: list[float], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        fit_scaling_law(x, exact(np.linspace(0.6, 0.5, len(x))), form="loss")


def test_replicates_of_intervals_have_their_width() -> None:
    wide, none = replicates_of_intervals([Figure(0.7, 0.68, 0.72), Figure(0.7)], count=4000)
    found = wide.figure(0.95)
    assert found.low == pytest.approx(0.68, abs=2e-3)
    assert found.high == pytest.approx(0.72, abs=2e-3)
    assert np.ptp(none.value_R) == 0
