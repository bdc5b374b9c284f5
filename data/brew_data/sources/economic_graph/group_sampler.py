"""Draws rows from weighted groups, for many draws at once."""

from typing import Any

import numpy as np

__all__ = ["Array", "GroupSampler"]

Array = np.ndarray[Any, Any]


class GroupSampler:
    """Draws a row from a range of groups with the probability of its weight.

    Shape suffixes: R rows, N draws.

    Args:
        group_R: The group of each row, from 0 to `groups` - 1.
        weight_R: Weights, more than 0.
        groups: The number of groups; some may be empty.
        row_R: What a draw returns; None: the number of the row.
    """

    def __init__(self, group_R: Array, weight_R: Array, groups: int, row_R: Array | None = None) -> None:
        order = np.argsort(group_R, kind="stable")
        self._row = order if row_R is None else row_R[order]
        self._first = np.searchsorted(group_R[order], np.arange(groups + 1))
        self._total = np.concatenate([[0.0], np.cumsum(weight_R[order])])

    def is_empty(self, first_N: Array, last_N: Array | None = None) -> Array:
        """Whether the groups from `first_N` to `last_N` (inclusive; None: `first_N` only) have no row; bool, (N,)."""
        return self._first[first_N] == self._first[(first_N if last_N is None else last_N) + 1]

    def draw(self, uniform_N: Array, first_N: Array, last_N: Array | None = None) -> Array:
        """Draw one row per number.

        Args:
            uniform_N: Random numbers, at least 0 and below 1.
            first_N: The first group to draw from.
            last_N: The last group, inclusive; None: `first_N` only. Some group from first to last is not empty.
        """
        start_N = self._first[first_N]
        end_N = self._first[(first_N if last_N is None else last_N) + 1]
        low_N, high_N = self._total[start_N], self._total[end_N]
        index_N = np.searchsorted(self._total, low_N + uniform_N * (high_N - low_N), side="right") - 1
        return self._row[np.clip(index_N, start_N, end_N - 1)]
