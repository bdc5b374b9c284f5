"""Logged answers of a service: reads the files, finds what the callers received, and attributes interactions to it.

No result depends on the order of the files or of their rows.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from brew_eval.online import EVENTS
from brew_platform.errors import DataError
from brew_platform.storage.base import ObjectStore
from brew_serve.ranking.answer_log import LOGGED_ANSWERS

__all__ = ["ReceivedAnswers", "attribute_interactions", "read_answers", "received_answers", "versions_of"]


def read_answers(store: ObjectStore) -> pa.Table:
    """Read all files of a log of answers (`brew_serve.ranking.answer_log`).

    Returns:
        The rows, with the columns of `LOGGED_ANSWERS`.

    Raises:
        DataError: There are no files, or one is not a file of such a log.
        StorageError: The store failed.
    """
    tables = []
    for key in store.list():
        if not key.endswith(".parquet"):
            continue
        try:
            table = pq.read_table(pa.BufferReader(store.get(key)))
        except (pa.ArrowInvalid, OSError) as error:
            raise DataError(f"{store.url}/{key} is not a Parquet file ({error}). Remove it.") from error
        if not table.schema.equals(LOGGED_ANSWERS) or table.schema.metadata != LOGGED_ANSWERS.metadata:
            raise DataError(
                f"{store.url}/{key} is not a file of this release's log of answers. Pass the folder that "
                f"answer_log.url names."
            )
        tables.append(table)
    if not tables:
        raise DataError(f"{store.url} has no logged answers. Pass the folder that answer_log.url names.")
    return pa.concat_tables(tables)


@dataclass(frozen=True, kw_only=True)
class ReceivedAnswers:
    """The candidates that callers received, as each version scored them.

    Args:
        table: Columns of `LOGGED_ANSWERS`, one row per request, candidate, version and role.
        replaced: Rows of answers that the caller did not receive: of a canary that was too late, so that production
            answered, and of a request that was sent again with the same id.
        not_received: Further rows of candidates that the response did not contain, because of `top_k` or of the
            deadline, and of shadows whose request has no other logged answer. No event can follow them.
    """

    table: pa.Table
    replaced: int
    not_received: int


def received_answers(table: pa.Table) -> ReceivedAnswers:
    """Find the answer of each request that its caller received: the latest, and production's before a canary's.

    Args:
        table: Columns of `LOGGED_ANSWERS`.
    """
    table = table.sort_by([(name, "ascending") for name in _SORT_KEYS])
    table = table.combine_chunks()
    request_N, version_N = _codes(table["request_id"]), table["version"].to_numpy()
    time_N = pc.cast(table["time"], pa.int64()).to_numpy()
    is_shadow_N = pc.equal(table["role"], "shadow").to_numpy()
    # The key within which one answer counts: the request, and for a shadow also its version.
    shadow_N = np.where(is_shadow_N, version_N, -1)
    rank_N = np.stack([time_N, pc.equal(table["role"], "production").to_numpy(), version_N])
    order = np.lexsort((rank_N[2], rank_N[1], rank_N[0], shadow_N, request_N))
    group_N = np.zeros(len(order), np.int64)
    keys = np.stack([request_N, shadow_N])[:, order]
    group_N[order[1:]] = np.cumsum(np.any(keys[:, 1:] != keys[:, :-1], axis=0))
    last_of_group = np.zeros(len(order), np.int64)
    last_of_group[group_N[order]] = order  # the last assignment of a group counts
    is_latest_N = np.all(rank_N == rank_N[:, last_of_group[group_N]], axis=0) if len(order) else np.zeros(0, bool)
    candidate_N = _pairs(group_N, _codes(table["entity_id"]))
    _, first = np.unique(candidate_N[is_latest_N], return_index=True)
    chosen_N = np.flatnonzero(is_latest_N)[np.sort(first)]

    latest = table.take(pa.array(chosen_N))
    pair_N = _pairs(_codes(latest["request_id"]), _codes(latest["entity_id"]))
    is_live_N = ~is_shadow_N[chosen_N]
    received_N = np.isin(pair_N, pair_N[is_live_N & latest["returned"].to_numpy()])
    return ReceivedAnswers(
        table=latest.filter(pa.array(received_N)),
        replaced=table.num_rows - len(chosen_N),
        not_received=int((~received_N).sum()),
    )


def versions_of(table: pa.Table) -> list[tuple[str, int]]:
    """Return the role and version of the answers, sorted: canaries, production, shadows."""
    pairs = table.group_by(["role", "version"]).aggregate([]).to_pylist()
    return sorted((pair["role"], pair["version"]) for pair in pairs)


def attribute_interactions(interactions: pa.Table, answers: pa.Table) -> pa.Table:
    """Return interactions as events: each belongs to the last answer before it that contained its entity.

    For tables of interactions without request ids. An interaction of a surface with several tasks is an event of each.

    Args:
        interactions: Columns member, entity_id (hashed as in the answers), surface, action, and time in microseconds
            since 1970.
        answers: `ReceivedAnswers.table`.

    Returns:
        Columns `EVENTS`; interactions that no answer contained are left out.
    """
    live = answers.filter(pc.not_equal(answers["role"], "shadow"))
    parts = [pa.table({name: pa.array([], kind) for name, kind in zip(EVENTS, _EVENT_TYPES, strict=True)})]
    for task in sorted(pc.unique(live["task"]).to_pylist()):
        shown = live.filter(pc.equal(live["task"], task))
        later = interactions.filter(pc.is_in(interactions["surface"], pc.unique(shown["surface"])))
        count, acted = shown.num_rows, later.num_rows
        both = pa.concat_tables([part.select(["member", "entity_id"]) for part in (shown, later)])
        pair_N = _pairs(_codes(both["member"]), _codes(both["entity_id"]))
        shown_time = pc.cast(shown["time"], pa.int64()).to_numpy()
        _, time_N = np.unique(np.concatenate([shown_time, later["time"].to_numpy()]), return_inverse=True)
        place_N = pair_N * (count + acted) + time_N  # sorts by pair, then by time
        order = np.argsort(place_N[:count], kind="stable")
        last = np.searchsorted(place_N[:count][order], place_N[count:], side="right") - 1
        answer = order[np.maximum(last, 0)]
        known = (last >= 0) & (pair_N[answer] == pair_N[count:])
        found = later.filter(pa.array(known))
        request = shown["request_id"].take(pa.array(answer[known]))
        columns = [request, found["entity_id"], found["action"], found["time"]]
        parts.append(pa.table(dict(zip(EVENTS, columns, strict=True))))
    return pa.concat_tables(parts)


_SORT_KEYS = ("request_id", "entity_id", "version", "role", "time", "returned", "score", "history")
_EVENT_TYPES = (pa.string(), pa.string(), pa.string(), pa.int64())


def _codes(column: pa.ChunkedArray) -> np.ndarray:
    """Return numbers by the first place of each text, int64, shape (N,)."""
    encoded = column.combine_chunks().dictionary_encode()
    return pc.cast(encoded.indices, pa.int64()).to_numpy()


def _pairs(first_N: np.ndarray, second_N: np.ndarray) -> np.ndarray:
    """Return numbers below N that are equal for equal pairs, int64, shape (N,)."""
    width = int(second_N.max(initial=0)) + 1
    return np.unique(first_N * width + second_N, return_inverse=True)[1].astype(np.int64)
