"""Bootstrap intervals over members, and paired differences.

Rows of a member are not independent, so a replicate draws members with replacement and takes all rows of each
(Efron and Tibshirani 1993, chapters 6 and 13: percentile intervals). Figures that are computed with the same weights
are paired: the interval of their difference does not contain the noise that they share.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from brew_eval.metrics.base import Array, Statistic
from brew_platform.errors import UserError

__all__ = ["Bootstrap", "Figure", "Replicates", "mean_of"]

_CHUNK = 4_000_000  # weights that are converted to float64 at once: 32 MB


@dataclass(frozen=True)
class Figure:
    """A figure with its interval. All are None if the figure is not defined; the bounds also if they are not known."""

    value: float | None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, eq=False)
class Replicates:
    """A figure and its replicates; a difference of two is paired.

    Args:
        value: The figure, or NaN if it is not defined.
        value_R: Of the replicates, float64, shape (R,), NaN where it is not defined.
    """

    value: float
    value_R: Array

    def __sub__(self, other: "Replicates") -> "Replicates":
        return Replicates(self.value - other.value, self.value_R - other.value_R)

    def figure(self, level: float) -> Figure:
        """Return the figure with its percentile interval.

        The interval is None if fewer than half of the replicates are defined: too few members have the rows.

        Args:
            level: Share of the replicates in the interval, as in .95.
        """
        if not np.isfinite(self.value):
            return Figure(None)
        defined = self.value_R[np.isfinite(self.value_R)]
        if not len(defined) or 2 * len(defined) < len(self.value_R):
            return Figure(float(self.value))
        low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
        return Figure(float(self.value), float(low), float(high))


class Bootstrap:
    """Weights of members, drawn once, so that all figures that use them are paired.

    Needs replicates x members bytes.

    Args:
        members: M.
        replicates: R.
        seed: Of the draws; the same seed draws the same weights on every machine.

    Raises:
        UserError: A number is not positive.
    """

    def __init__(self, members: int, *, replicates: int = 1000, seed: int = 0) -> None:
        if members < 1 or replicates < 1:
            raise UserError(
                f"a bootstrap of {members} members with {replicates} replicates has nothing to draw. Use at least one "
                f"of each."
            )
        self.members = members
        random = np.random.default_rng(seed)
        weights = np.empty((replicates, members), np.uint8)
        for row in weights:
            # A count above 255, which uint8 cannot hold, has a probability below 1e-500.
            row[:] = np.bincount(random.integers(members, size=members), minlength=members)
        self._weights_RM = weights

    def replicate(self, statistic: Statistic) -> Replicates:
        """Compute a statistic for weights of 1 and for all replicates.

        With fewer than two members the replicates are all the same, so they are not defined.
        """
        value = float(statistic.compute(np.ones((1, self.members), np.uint8))[0])
        if self.members < 2 or not np.isfinite(value):
            return Replicates(value, np.full(len(self._weights_RM), np.nan))
        return Replicates(value, np.concatenate([statistic.compute(weights_RM) for weights_RM in self._chunks()]))

    def _chunks(self) -> Iterator[np.ndarray]:
        step = max(_CHUNK // self.members, 1)
        for start in range(0, len(self._weights_RM), step):
            yield self._weights_RM[start : start + step]


def mean_of(replicates: list[Replicates]) -> Replicates:
    """Return the mean of figures that were computed with the same weights, such as the AUC of several tasks.

    Figures that are not defined are left out. A replicate is defined if all defined figures have it.
    """
    defined = [part for part in replicates if np.isfinite(part.value)]
    if not defined:
        return Replicates(float("nan"), np.full(len(replicates[0].value_R) if replicates else 0, np.nan))
    values_R = np.mean([part.value_R for part in defined], axis=0)
    return Replicates(float(np.mean([part.value for part in defined])), values_R)
