"""Joins logged answers with later events, so that live traffic is evaluated like a benchmark.

The label of an answer is delayed: a positive event may follow until its window has passed. Answers whose window is
still open have no label, unless a positive event was seen; reports count them. Events depend on the version that ranked
the answer, so only versions that scored the same requests, such as a shadow, are compared in pairs.
"""

import hashlib
from collections.abc import Collection, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from brew_eval.scored_rows import ScoredRows, ScoredRowsInfo
from brew_platform.errors import DataError, UserError

__all__ = ["ANSWERS", "EVENTS", "count_known", "join_events"]

ANSWERS = (
    "request_id",
    "entity_id",
    "task",
    "surface",
    "member",
    "time",
    "score",
    "history",
    "is_trained",
)  # columns of logged answers, one row per candidate; `locale` and `probabilities` may be missing
EVENTS = ("request_id", "entity_id", "action", "time")  # columns of events


def join_events(
    answers: pa.Table,
    events: pa.Table,
    info: ScoredRowsInfo,
    *,
    positive: Mapping[str, Collection[str]],
    window: int,
    until: int,
) -> ScoredRows:
    """Return the answers as scored rows with the labels that are known.

    An event belongs to the candidate of its request and entity, if it happened within the window after the answer. A
    candidate with several events has the first positive one, or else the first. The candidates of a request are a
    slate.

    Args:
        answers: Columns `ANSWERS`, and `locale` and `probabilities` if there are any; `time` in
            microseconds since 1970 or as timestamps.
        events: Columns `EVENTS`. Events of other requests are ignored.
        info: Origin of the answers.
        positive: Actions that are positive, by task.
        window: Microseconds after an answer in which a positive event counts.
        until: Microseconds since 1970; all events up to this time are in `events`.

    Returns:
        Rows with ids that depend on request and entity only, so that the answers of two versions can be compared.

    Raises:
        DataError: A column is missing, or a request has a candidate twice.
        UserError: A task has no positive actions, or the window is not positive.
    """
    if window <= 0:
        raise UserError(f"the window is {window} microseconds, so no event could follow an answer. Use e.g. a day.")
    _require(answers, ANSWERS, "answers")
    _require(events, EVENTS, "events")
    tasks = pc.unique(answers["task"]).to_pylist()
    if missing := [task for task in tasks if not positive.get(task)]:
        raise UserError(f"the task {missing[0]!r} has no positive actions, so it has no labels. Pass them.")
    keys = _keys(answers)
    if len(pc.unique(keys)) < len(keys):
        raise DataError("a request has a candidate twice. Log each candidate of a request once.")
    time_N = _micros(answers)
    answer_E = pc.index_in(_keys(events), value_set=keys)
    action_E, when_E = events["action"].to_numpy(), _micros(events)
    known_E = answer_E.is_valid().to_numpy(zero_copy_only=False)
    answer_E = pc.fill_null(answer_E, 0).to_numpy(zero_copy_only=False)
    if len(keys):
        delay_E = when_E - time_N[answer_E]
        known_E &= (delay_E >= 0) & (delay_E <= window) & (when_E <= until)
    answer_E, action_E, when_E = answer_E[known_E], action_E[known_E], when_E[known_E]
    pairs = {(task, action) for task, actions in positive.items() for action in actions}
    task_N = answers["task"].to_numpy()
    positive_E = np.array([(task_N[at], action) in pairs for at, action in zip(answer_E, action_E, strict=True)], bool)

    outcome_N = np.full(len(keys), None, dtype=object)
    positive_N = np.zeros(len(keys), dtype=bool)
    _, name_E = np.unique(action_E.astype(str), return_inverse=True)  # of equal times, the first by name
    order = np.lexsort((name_E, when_E, ~positive_E, answer_E))
    first = order[np.unique(answer_E[order], return_index=True)[1]]
    outcome_N[answer_E[first]], positive_N[answer_E[first]] = action_E[first], positive_E[first]
    is_open_N = ~positive_N & (time_N + window > until)
    columns = {
        "row_id": pa.array([_number(key) for key in keys.to_pylist()], pa.int64()),
        "request_id": answers["request_id"],
        "slate": pa.array([_number(id_) for id_ in answers["request_id"].to_pylist()], pa.int64()),
        "label": pa.array(positive_N, mask=is_open_N),
        "outcome": pa.array(outcome_N, pa.string()),
        "time": pa.array(time_N),
        **{name: answers[name] for name in ("task", "surface", "member", "score", "history", "is_trained")},
    }
    columns |= {name: answers[name] for name in ("locale", "probabilities") if name in answers.column_names}
    return ScoredRows.of(pa.table(columns), info)


def count_known(answers: pa.Table, events: pa.Table) -> int:
    """Return the number of events whose request and entity were answered, however late they are.

    Raises:
        DataError: A column is missing.
    """
    _require(answers, ("request_id", "entity_id"), "answers")
    _require(events, EVENTS, "events")
    return int(pc.sum(pc.is_in(_keys(events), value_set=_keys(answers)), min_count=0).as_py())


def _require(table: pa.Table, columns: tuple[str, ...], name: str) -> None:
    if missing := [column for column in columns if column not in table.column_names]:
        raise DataError(f"the {name} have no column {missing[0]!r}; they need {', '.join(columns)}.")


def _keys(table: pa.Table) -> pa.Array:
    """Return request and entity as one text; the length of the request id makes it unambiguous."""
    request = table["request_id"].cast(pa.string())
    length = pc.utf8_length(request).cast(pa.string())
    joined = pc.binary_join_element_wise(length, request, table["entity_id"].cast(pa.string()), ":")
    return pa.concat_arrays(joined.chunks) if joined.num_chunks else pa.array([], pa.string())


def _micros(table: pa.Table) -> np.ndarray:
    column = table["time"]
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.timestamp("us", column.type.tz))
    return column.cast(pa.int64()).to_numpy()


def _number(text: str) -> int:
    """Return a number of 63 bits that is the same on every machine."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
