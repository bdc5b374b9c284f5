"""Sums over the past events of a key, at any time, by binary search.

Shape suffixes: N events, Q queries, F values per event.
"""

import numpy as np

from brew_eval.baselines.interactions import Array

__all__ = ["KeyHistory"]

_RESOLUTION = 2.0**20  # values are rounded to multiples of its inverse, so that sums are exact in float64


class KeyHistory:
    """Counts and sums of the events of keys in spans of time.

    The result of a query does not depend on events at or after the end of its span, to the last bit: values are rounded
    to 2**-20, so differences of cumulative sums have no rounding error.

    Args:
        key_N: int64; a member, an entity, or a code of both.
        time_N: int64 microseconds.
        value_NF: Finite numbers; their sums are below 2**33.
    """

    def __init__(self, key_N: Array, time_N: Array, value_NF: Array) -> None:
        self._key_K, self._time_T = np.unique(key_N), np.unique(time_N)
        code_N = self._codes(np.searchsorted(self._key_K, key_N), time_N)
        order_N = np.argsort(code_N, kind="stable")
        self._code_N, self._sorted_time_N = code_N[order_N], time_N[order_N]
        exact_NF = np.round(value_NF[order_N] * _RESOLUTION) / _RESOLUTION
        counted_NF = np.concatenate([np.ones((len(order_N), 1)), exact_NF], axis=1)
        self._sum_NF = np.concatenate([np.zeros((1, counted_NF.shape[1])), np.cumsum(counted_NF, axis=0)])

    def sums(
        self, key_Q: Array, before_Q: Array, *, since_Q: Array | None = None, last: int | None = None
    ) -> tuple[Array, Array]:
        """Sum the events of each query's key that are strictly before its time.

        Args:
            key_Q: int64; a key without events has the sum 0.
            before_Q: int64 microseconds, exclusive.
            since_Q: int64 microseconds, inclusive; None: from the first event on.
            last: Only so many events, the newest ones; None: all.

        Returns:
            The number of events, shape (queries,), and the sums of the values, shape (queries, values), float64.
        """
        low_Q, high_Q = self._span(key_Q, before_Q)
        if since_Q is not None:
            low_Q = np.maximum(low_Q, self._span(key_Q, since_Q)[1])
        if last is not None:
            low_Q = np.maximum(low_Q, high_Q - last)
        low_Q = np.minimum(low_Q, high_Q)
        total_QF = self._sum_NF[high_Q] - self._sum_NF[low_Q]
        return total_QF[:, 0], total_QF[:, 1:]

    def first_and_last(self, key_Q: Array, before_Q: Array) -> tuple[Array, Array]:
        """Return the times of the oldest and the newest event strictly before each query, float64; NaN without one."""
        low_Q, high_Q = self._span(key_Q, before_Q)
        has_Q = high_Q > low_Q
        first_Q, last_Q = np.full((2, len(key_Q)), np.nan)
        first_Q[has_Q] = self._sorted_time_N[low_Q[has_Q]]
        last_Q[has_Q] = self._sorted_time_N[high_Q[has_Q] - 1]
        return first_Q, last_Q

    def _codes(self, place_Q: Array, time_Q: Array) -> Array:
        rank_Q = np.searchsorted(self._time_T, time_Q, side="left")
        return np.asarray(place_Q * (len(self._time_T) + 1) + rank_Q)

    def _span(self, key_Q: Array, before_Q: Array) -> tuple[Array, Array]:
        """Return the positions of the key's first event, and of its first event at or after the time."""
        if not len(self._key_K):
            return np.zeros((2, len(key_Q)), dtype=np.int64)[0], np.zeros(len(key_Q), dtype=np.int64)
        place_Q = np.minimum(np.searchsorted(self._key_K, key_Q), len(self._key_K) - 1)
        low_Q = np.searchsorted(self._code_N, place_Q * (len(self._time_T) + 1), side="left")
        high_Q = np.searchsorted(self._code_N, self._codes(place_Q, before_Q), side="left")
        return low_Q, np.where(self._key_K[place_Q] == key_Q, high_Q, low_Q)
