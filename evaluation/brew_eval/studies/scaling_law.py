"""Scaling laws: fits of a power law that saturates, with bootstrap intervals and a point that is held out.

Loss falls towards a floor and AUC rises towards a ceiling, both called the limit c:

    loss(x) = c + a x^-b,  c >= 0        AUC(x) = c - a x^-b,  c <= 1        a >= 0,  b > 0

For a fixed exponent b, the best c and a are a linear least-squares solution. So the squared error is a function of b
alone, which is minimised over a grid that is refined around its best value (variable projection; Golub and Pereyra
1973). Sources of the forms: Kaplan et al. 2020 (arXiv 2001.08361); Hoffmann et al. 2022 (arXiv 2203.15556), section
3.3.

Legend of shape suffixes: P points, R replicates, B exponents.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from brew_eval.intervals import Figure, Replicates
from brew_eval.metrics.base import Array
from brew_platform.errors import UserError

__all__ = ["MIN_POINTS", "HeldOut", "ScalingLaw", "fit_scaling_law", "replicates_of_intervals"]

Form = Literal["loss", "auc"]
MIN_POINTS = 4  # three parameters, and one point more
_EXPONENTS = (0.01, 5.0)  # a fit at a bound has no meaningful limit
_GRID, _ROUNDS = 101, 4  # each round divides the distance between exponents by 50
_NORMAL = 1.959964  # half of a 95% interval, in standard deviations


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """The last point, predicted by the law of the points before it."""

    x: float
    predicted: Figure
    measured: float

    @property
    def is_inside(self) -> bool | None:
        """Whether the measured value lies in the interval of the prediction; None if there is no interval."""
        if self.predicted.low is None or self.predicted.high is None:
            return None
        return self.predicted.low <= self.measured <= self.predicted.high


@dataclass(frozen=True, kw_only=True, eq=False)
class ScalingLaw:
    """A fitted law.

    Args:
        form: `loss` falls, `auc` rises.
        limit: c, the floor of a loss or the ceiling of an AUC.
        scale: a.
        exponent: b.
        is_identified: Whether the exponent lies inside its bounds. Otherwise the points are nearly a line in log x, or
            a step, and the limit means nothing.
        held_out: None with fewer than five points, because three points determine the law exactly.
        parameters: c, a, b of the points, float64, shape (3,).
        parameters_R: The same of the replicates, shape (R, 3).
    """

    form: Form
    limit: Figure
    scale: Figure
    exponent: Figure
    is_identified: bool
    held_out: HeldOut | None
    parameters: Array
    parameters_R: Array

    def at(self, x: float, *, level: float = 0.95) -> Figure:
        """Return the value of the law at `x` with its interval."""
        value = float(_values(self.form, self.parameters[None], np.array([x]))[0, 0])
        return Replicates(value, _values(self.form, self.parameters_R, np.array([x]))[:, 0]).figure(level)


def fit_scaling_law(
    x: Sequence[float], replicates: Sequence[Replicates], *, form: Form, level: float = 0.95
) -> ScalingLaw:
    """Fit a law to points.

    Every replicate is fitted too, so replicates that are paired over the points (the same members, drawn once) give
    intervals that do not contain the noise that the points share.

    Args:
        x: Positive numbers, all different, such as tokens or parameters; P of them, in any order.
        replicates: A figure at each x, with R replicates.
        form: `loss` or `auc`.
        level: Share of the replicates in an interval.

    Raises:
        UserError: There are fewer than four points, a number is not positive or finite, or an x is repeated.
    """
    if len(x) != len(replicates) or len(x) < MIN_POINTS:
        raise UserError(
            f"a scaling law has three parameters, so it needs at least {MIN_POINTS} points, but there are {len(x)}. "
            f"Add points to the study."
        )
    values_P = np.array([part.value for part in replicates], np.float64)
    x_P = np.array(x, np.float64)
    if not (np.isfinite(x_P).all() and (x_P > 0).all() and np.isfinite(values_P).all()):
        raise UserError(
            "a scaling law needs a positive x and a finite figure at each point. Leave out the points that have none."
        )
    if len(np.unique(x_P)) < len(x_P):
        raise UserError("a scaling law has two points with the same x. Average them, or leave one out.")
    order = np.argsort(x_P)
    x_P, values_P = x_P[order], values_P[order]
    values_RP = np.stack([replicates[place].value_R for place in order], axis=1)
    values_RP = values_RP[np.isfinite(values_RP).all(axis=1)]
    parameters = _fit(form, x_P, values_P[None])[0]
    parameters_R = _fit(form, x_P, values_RP)
    figures = [Replicates(float(parameters[k]), parameters_R[:, k]).figure(level) for k in range(3)]
    low, high = _EXPONENTS
    return ScalingLaw(
        form=form,
        limit=figures[0],
        scale=figures[1],
        exponent=figures[2],
        is_identified=bool(low * 1.01 < parameters[2] < high * 0.99),
        held_out=_hold_out(form, x_P, values_P, values_RP, level) if len(x_P) > MIN_POINTS else None,
        parameters=parameters,
        parameters_R=parameters_R,
    )


def replicates_of_intervals(figures: Sequence[Figure], *, count: int = 1000, seed: int = 0) -> list[Replicates]:
    """Return normal replicates for figures of which only the 95% intervals are known.

    They are independent, so intervals of a law that is fitted to them are wider than those of paired replicates. A
    figure without an interval has equal replicates.

    Args:
        figures: Each has a value.
        count: R.
        seed: Of the draws.
    """
    random = np.random.default_rng(seed)
    found = []
    for figure in figures:
        value = float("nan") if figure.value is None else figure.value
        known = figure.low is not None and figure.high is not None
        deviation = (figure.high - figure.low) / (2 * _NORMAL) if known else 0.0  # type: ignore[operator]
        found.append(Replicates(value, value + deviation * random.standard_normal(count)))
    return found


def _hold_out(form: Form, x_P: Array, values_P: Array, values_RP: Array, level: float) -> HeldOut:
    before, last = slice(0, -1), x_P[-1:]
    predicted = _values(form, _fit(form, x_P[before], values_P[None, before]), last)[0, 0]
    predicted_R = _values(form, _fit(form, x_P[before], values_RP[:, before]), last)[:, 0]
    # A new measurement has noise of its own, which the prediction does not contain.
    noise_R = values_RP[:, -1] - values_P[-1]
    return HeldOut(
        x=float(last[0]),
        predicted=Replicates(float(predicted), predicted_R + noise_R[::-1]).figure(level),
        measured=float(values_P[-1]),
    )


def _values(form: Form, parameters_R: Array, x_P: Array) -> Array:
    """Return the values of laws, shape (R, P)."""
    c, a, b = (parameters_R[:, k, None] for k in range(3))
    change = a * x_P[None] ** -b
    return c + change if form == "loss" else c - change


def _fit(form: Form, x_P: Array, values_RP: Array) -> Array:
    """Return c, a, b of each row of values, shape (R, 3)."""
    falling_RP = values_RP if form == "loss" else 1.0 - values_RP  # 1 - AUC falls towards 1 - c, which is not negative
    middle = float(np.exp(np.log(x_P).mean()))
    low, high = (np.full(len(falling_RP), bound) for bound in _EXPONENTS)
    rows = np.arange(len(falling_RP))
    for _ in range(_ROUNDS):
        b_RB = np.exp(np.linspace(np.log(low), np.log(high), _GRID, axis=1))
        error_RB, _, _ = _solve(x_P / middle, falling_RP, b_RB)
        best_R = np.argmin(error_RB, axis=1)
        low = b_RB[rows, np.maximum(best_R - 1, 0)]
        high = b_RB[rows, np.minimum(best_R + 1, _GRID - 1)]
    b_R = b_RB[rows, best_R]
    _, c_RB, a_RB = _solve(x_P / middle, falling_RP, b_R[:, None])
    c_R, a_R = c_RB[:, 0], a_RB[:, 0] * middle**b_R
    return np.stack([c_R if form == "loss" else 1.0 - c_R, a_R, b_R], axis=1)


def _solve(x_P: Array, values_RP: Array, b_RB: Array) -> tuple[Array, Array, Array]:
    """Return squared error, c and a of the best law c + a x^-b, c, a >= 0, of each exponent, shape (R, B)."""
    power_RBP = np.exp(-b_RB[:, :, None] * np.log(x_P))
    values_R1P = values_RP[:, None]
    mean_RB, mean_R1 = power_RBP.mean(axis=2), values_R1P.mean(axis=2)
    centred_RBP = power_RBP - mean_RB[:, :, None]
    a_RB = (centred_RBP * values_R1P).sum(axis=2) / (centred_RBP**2).sum(axis=2)
    a_RB = np.maximum(a_RB, 0.0)
    c_RB = mean_R1 - a_RB * mean_RB
    without = (power_RBP * values_R1P).sum(axis=2) / (power_RBP**2).sum(axis=2)  # with c = 0
    is_negative = c_RB < 0
    a_RB, c_RB = np.where(is_negative, np.maximum(without, 0.0), a_RB), np.where(is_negative, 0.0, c_RB)
    error_RB = ((c_RB[:, :, None] + a_RB[:, :, None] * power_RBP - values_R1P) ** 2).sum(axis=2)
    return error_RB, c_RB, a_RB
