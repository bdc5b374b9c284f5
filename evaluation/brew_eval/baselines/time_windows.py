"""Features of a candidate: counts and means of the past over several windows of time.

This is the feature engineering that a language model over histories replaces. Each feature of a query is a function of
what happened strictly before the query.

Shape suffixes: N interactions, Q queries, V values of a field, F features.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from brew_eval.baselines.interactions import Array, Fields, Queries, TaskInteractions
from brew_eval.baselines.key_history import KeyHistory

__all__ = ["FeatureTable", "window_features"]

DAY = 86_400_000_000  # microseconds
WINDOWS = (1, 7, 30)  # days, besides the whole past
LAST = (5, 20)  # interactions of a member
PRIOR = 5.0  # weight, in interactions, of the mean that a mean is smoothed with


class FeatureTable(NamedTuple):
    """Features by column."""

    names: list[str]
    value_QF: Array  # float32; NaN: unknown
    categorical: list[str]  # names of the columns that are codes


def window_features(rows: TaskInteractions, queries: Queries) -> FeatureTable:
    """Compute the features of queries.

    Keys are the member, the entity, its author, the member with the author, the member with the type of the entity, and
    for each categorical field of the entity its values, alone and with the member. For each key there is the number of
    interactions and the smoothed means of the label, of the value (stars, for ratings), and of the *excess*: the value
    minus the smoothed mean of the entity before that interaction. Of member and entity there are also windows of 1, 7
    and 30 days, the last 5 and 20 interactions, and the days since the first and last one. The fields of member and
    entity are columns, too.

    Args:
        rows: The history.
        queries: The candidates.
    """
    builder = _Builder(rows, queries)
    builder.add_key("member", rows.member_N, queries.member_Q, windows=WINDOWS, last=LAST, is_dated=True)
    builder.add_key("entity", rows.entity_N, queries.entity_Q, windows=WINDOWS, last=LAST, is_dated=True)
    builder.add_key("all", np.zeros(len(rows), np.int64), np.zeros(len(queries), np.int64), windows=(7,))
    for name, code_E in [("author", rows.author_E), ("type", rows.type_E)]:
        if len(np.unique(code_E[rows.entity_N])) < 2:
            continue
        code_N, code_Q = code_E[rows.entity_N], code_E[queries.entity_Q]
        builder.add_key(name, code_N, code_Q, windows=(30,))
        count = int(code_E.max()) + 2
        builder.add_key(
            f"member_{name}",
            rows.member_N * count + code_N + 1,
            queries.member_Q * count + code_Q + 1,
            windows=(30,),
            is_dated=True,
        )
    for name, values in rows.entities.values.items():
        event_V, event_code_V = values.pairs(rows.entity_N)
        query_V, query_code_V = values.pairs(queries.entity_Q)
        count = len(values.names)
        builder.add_values(name, event_V, event_code_V, query_V, query_code_V)
        builder.add_values(
            f"member_{name}",
            event_V,
            rows.member_N[event_V] * count + event_code_V,
            query_V,
            queries.member_Q[query_V] * count + query_code_V,
        )
    builder.add_fields("profile", rows.members, queries.member_Q)
    builder.add_fields("entity", rows.entities, queries.entity_Q)
    return FeatureTable(builder.names, np.stack(builder.columns, axis=1).astype(np.float32), builder.categorical)


class _Builder:
    """Collects columns."""

    def __init__(self, rows: TaskInteractions, queries: Queries) -> None:
        self._queries, self._time_N = queries, rows.time_N
        self.names: list[str] = []
        self.columns: list[Array] = []
        self.categorical: list[str] = []
        # The mean of everything before each time smooths all other means.
        plain_NF = np.stack([rows.label_N.astype(np.float64), rows.value_N], axis=1)
        everything = KeyHistory(np.zeros(len(rows), np.int64), rows.time_N, plain_NF)

        def means(before: Array) -> Array:
            count, total = everything.sums(np.zeros(len(before), np.int64), before)
            return np.asarray((total + np.array([0.5, 0.0])) / (count + 1)[:, None])

        mean_NF, self._mean_QF = means(rows.time_N), means(queries.before_Q)
        entity = KeyHistory(rows.entity_N, rows.time_N, plain_NF)
        count_N, sum_NF = entity.sums(rows.entity_N, rows.time_N)
        expected_N = (sum_NF[:, 1] + PRIOR * mean_NF[:, 1]) / (count_N + PRIOR)
        self._value_NF = np.concatenate([plain_NF, (rows.value_N - expected_N)[:, None]], axis=1)
        self._prior_QF = np.concatenate([self._mean_QF, np.zeros((len(queries), 1))], axis=1)

    def add_key(
        self,
        name: str,
        key_N: Array,
        key_Q: Array,
        *,
        windows: Sequence[int] = (),
        last: Sequence[int] = (),
        is_dated: bool = False,
    ) -> None:
        """Add the columns of one key per query."""
        history = KeyHistory(key_N, self._time_N, self._value_NF)
        before_Q = self._queries.before_Q
        spans = {"": history.sums(key_Q, before_Q)}
        spans |= {f"_{d}d": history.sums(key_Q, before_Q, since_Q=before_Q - d * DAY) for d in windows}
        spans |= {f"_last_{n}": history.sums(key_Q, before_Q, last=n) for n in last}
        for span, (count_Q, sum_QF) in spans.items():
            self._add(f"{name}_count{span}", count_Q)
            smooth_QF = (sum_QF + PRIOR * self._prior_QF) / (count_Q + PRIOR)[:, None]
            for index, what in enumerate(("label", "value", "excess")):
                self._add(f"{name}_{what}{span}", smooth_QF[:, index])
        if is_dated:
            first_Q, newest_Q = history.first_and_last(key_Q, before_Q)
            self._add(f"{name}_days_since_first", (before_Q - first_Q) / DAY)
            self._add(f"{name}_days_since_last", (before_Q - newest_Q) / DAY)

    def add_values(self, name: str, event_V: Array, key_V: Array, query_V: Array, query_key_V: Array) -> None:
        """Add the columns of a key that a query has several times: the mean over its values, and the least one."""
        history = KeyHistory(key_V, self._time_N[event_V], self._value_NF[event_V])
        count_V, sum_VF = history.sums(query_key_V, self._queries.before_Q[query_V])
        smooth_VF = (sum_VF + PRIOR * self._prior_QF[query_V]) / (count_V + PRIOR)[:, None]
        size = len(self._queries)
        values_Q = np.bincount(query_V, minlength=size)
        has_Q = values_Q > 0
        starts = np.searchsorted(query_V, np.flatnonzero(has_Q))
        self._add(f"{name}_count", np.bincount(query_V, weights=count_V, minlength=size))
        for index, what in enumerate(("label", "value", "excess")):
            mean_Q, least_Q = np.full((2, size), np.nan)
            if len(starts):
                mean_Q[has_Q] = np.add.reduceat(smooth_VF[:, index], starts) / values_Q[has_Q]
                least_Q[has_Q] = np.minimum.reduceat(smooth_VF[:, index], starts)
            self._add(f"{name}_{what}", mean_Q)
            self._add(f"{name}_least_{what}", least_Q)

    def add_fields(self, owner: str, fields: Fields, owner_Q: Array) -> None:
        """Add numbers; fields with one value each as codes; fields with several as one column per value."""
        for name, number_O in fields.numbers.items():
            self._add(f"{owner}.{name}", number_O[owner_Q])
        for name, values in fields.values.items():
            query_V, code_V = values.pairs(owner_Q)
            if len(np.unique(values.owner_V)) == len(values.owner_V):
                code_Q = np.full(len(owner_Q), np.nan)
                code_Q[query_V] = code_V
                self._add(f"{owner}.{name}", code_Q)
                self.categorical.append(f"{owner}.{name}")
            else:
                for code, value in enumerate(values.names):
                    self._add(f"{owner}.{name}={value}", np.isin(np.arange(len(owner_Q)), query_V[code_V == code]))

    def _add(self, name: str, column_Q: Array) -> None:
        self.names.append(name)
        self.columns.append(np.asarray(column_Q, dtype=np.float64))
