"""The mean of several baselines."""

from collections.abc import Sequence

import numpy as np

from brew_eval.baselines.base import Baseline
from brew_eval.baselines.interactions import Array, Queries, TaskInteractions

__all__ = ["Blend"]


class Blend:
    """The mean of the probabilities of baselines (`Baseline`).

    Args:
        name: The name of the baseline.
        parts: Its baselines. Those that are fitted already, on the same rows, may be passed with `is_fitted`.
        is_fitted: `fit` then does nothing.
    """

    def __init__(self, name: str, parts: Sequence[Baseline], *, is_fitted: bool = False) -> None:
        self.name, self._parts, self._is_fitted = name, parts, is_fitted

    def fit(self, rows: TaskInteractions, cut: int) -> None:
        """Fit the parts (`Baseline`)."""
        for part in () if self._is_fitted else self._parts:
            part.fit(rows, cut)

    def score(self, rows: TaskInteractions, queries: Queries) -> Array:
        """Score as in `Baseline`."""
        return np.asarray(np.mean([part.score(rows, queries) for part in self._parts], axis=0))
