"""The interface of a metric: a statistic of rows in which every member has a weight.

A bootstrap over members draws weights: how often each member is in a replicate. The figure itself has all weights 1. A
metric is prepared once (sorted, summed by member) and then computed for many weightings.
"""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from brew_platform.errors import UserError

__all__ = ["Array", "Ratio", "Statistic", "require_finite", "sums_by_member"]

Array = NDArray[np.float64]


class Statistic(Protocol):
    """A figure as a function of the members' weights."""

    def compute(self, weights_RM: np.ndarray) -> Array:
        """Compute the figure for each weighting.

        Args:
            weights_RM: Number of times that each member is drawn, any integer dtype, shape (R, M).

        Returns:
            float64, shape (R,); NaN where the figure is not defined, such as AUC without a positive row.
        """


class Ratio:
    """A mean over rows, slates or members: the sum of the members' numerators over that of their denominators.

    Args:
        numerator_M: float64, shape (M,).
        denominator_M: Weights of the mean, shape (M,); a member without a value has 0 in both.
    """

    def __init__(self, numerator_M: np.ndarray, denominator_M: np.ndarray) -> None:
        self._sums_2M = np.stack([numerator_M, denominator_M]).astype(np.float64)

    def compute(self, weights_RM: np.ndarray) -> Array:
        numerator_R, denominator_R = self._sums_2M @ weights_RM.astype(np.float64).T
        return np.divide(numerator_R, denominator_R, out=np.full(len(numerator_R), np.nan), where=denominator_R > 0)


def sums_by_member(values_N: np.ndarray, member_N: np.ndarray, members: int) -> Array:
    """Sum values by member; returns float64, shape (M,)."""
    return np.bincount(member_N, weights=values_N, minlength=members).astype(np.float64)


def require_finite(name: str, values_N: np.ndarray) -> Array:
    """Return values as float64.

    Raises:
        UserError: A value is not finite.
    """
    values_N = np.asarray(values_N, dtype=np.float64)
    if bad := int((~np.isfinite(values_N)).sum()):
        raise UserError(f"{name} has {bad} values that are not finite. Leave those rows out, and report their number.")
    return values_N
