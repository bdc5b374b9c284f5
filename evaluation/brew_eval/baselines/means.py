"""Popularity, and the smoothed mean label of an entity."""

import numpy as np

from brew_eval.baselines.base import Calibration
from brew_eval.baselines.interactions import Array, Queries, TaskInteractions
from brew_eval.baselines.key_history import KeyHistory

__all__ = ["EntityMean", "Popularity"]


class Popularity:
    """The number of past interactions with the entity, mapped to a probability."""

    name = "popularity"

    def fit(self, rows: TaskInteractions, cut: int) -> None:
        """Fit the map from the logarithm of the number to the probability (`Baseline`)."""
        train = rows.until(cut)
        self._map = Calibration(self._scores(train, train.streaming()), train.label_N)

    def score(self, rows: TaskInteractions, queries: Queries) -> Array:
        """Score as in `Baseline`."""
        return self._map(self._scores(rows, queries))

    def _scores(self, rows: TaskInteractions, queries: Queries) -> Array:
        history = KeyHistory(rows.entity_N, rows.time_N, rows.label_N[:, None])
        return np.asarray(np.log1p(history.sums(queries.entity_Q, queries.before_Q)[0]))


class EntityMean:
    """(sum of past labels of the entity + prior * mean) / (their number + prior).

    Args:
        prior: Weight of the mean of the training labels, in interactions.
    """

    name = "entity_mean"

    def __init__(self, prior: float = 5.0) -> None:
        self.prior = prior

    def fit(self, rows: TaskInteractions, cut: int) -> None:
        """Compute the mean of all training labels (`Baseline`)."""
        self._mean = float(rows.until(cut).label_N.mean())

    def score(self, rows: TaskInteractions, queries: Queries) -> Array:
        """Score as in `Baseline`."""
        history = KeyHistory(rows.entity_N, rows.time_N, rows.label_N[:, None])
        count_Q, sum_QF = history.sums(queries.entity_Q, queries.before_Q)
        return np.asarray((sum_QF[:, 0] + self.prior * self._mean) / (count_Q + self.prior))
