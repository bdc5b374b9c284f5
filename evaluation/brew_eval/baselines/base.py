"""The interface of baselines."""

from typing import Any, Protocol

import numpy as np

from brew_eval.baselines.interactions import Array, Queries, TaskInteractions

__all__ = ["Baseline", "Calibration"]


class Baseline(Protocol):
    """A model that is fitted on the interactions of one task before a cut, and scores candidates.

    It is fitted once. What a query's member and entity did afterwards, but strictly before the query, is an input of
    `score` and not of `fit`, as for a language model that reads the history in its prompt.
    """

    name: str

    def fit(self, rows: TaskInteractions, cut: int) -> None:
        """Fit the model, and choose its settings, on the interactions up to a time.

        Args:
            rows: Interactions; those after the cut are not read.
            cut: Microseconds since 1970, UTC, inclusive.

        Raises:
            UserError: There are no interactions before the cut.
        """

    def score(self, rows: TaskInteractions, queries: Queries) -> Array:
        """Compute the probability of a positive outcome for each query.

        Args:
            rows: The history. Of each query only the interactions strictly before its time are used.
            queries: The candidates.

        Returns:
            float64, shape (queries,), from 0 to 1.
        """


class Calibration:
    """Maps scores to probabilities with a logistic regression (Platt 1999).

    Args:
        score_N: Finite numbers of rows that the scoring model was not fitted on, shape (rows,).
        label_N: bool, shape (rows,). With one class, all probabilities are its smoothed share.
    """

    def __init__(self, score_N: Array, label_N: Array) -> None:
        from sklearn.linear_model import LogisticRegression

        self._mean, self._scale = float(np.mean(score_N)), float(np.std(score_N)) or 1.0
        self._share = (label_N.sum() + 1) / (len(label_N) + 2)
        self._model: Any = None
        if label_N.any() and not label_N.all():
            self._model = LogisticRegression(C=100.0).fit(self._column(score_N), label_N)

    def __call__(self, score_Q: Array) -> Array:
        """Return probabilities, float64, shape (queries,)."""
        if self._model is None or not len(score_Q):
            return np.full(len(score_Q), self._share)
        return np.asarray(self._model.predict_proba(self._column(score_Q))[:, 1])

    def _column(self, score_N: Array) -> Array:
        return ((score_N - self._mean) / self._scale)[:, None]
