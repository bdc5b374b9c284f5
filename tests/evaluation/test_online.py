"""Logged answers get the labels of later events."""

from typing import Any

import pyarrow as pa
import pytest

from brew_data.schema import TIMESTAMP
from brew_eval.compare import compare
from brew_eval.evaluation import evaluate
from brew_eval.measurement import EvaluationConfig
from brew_eval.online import EVENTS, join_events
from brew_eval.scored_rows import ScoredRows
from brew_platform.errors import DataError, UserError

from .rows import info

Event = tuple[str, str, str, int]


def answers(requests: int = 3, **changes: Any) -> pa.Table:
    """Return answers with the candidates a and b; request r0 at time 0, r1 at 100, ..."""
    rows = 2 * requests
    data = {
        "request_id": [f"r{row // 2}" for row in range(rows)],
        "entity_id": ["a", "b"] * requests,
        "task": ["like"] * rows,
        "surface": ["feed"] * rows,
        "member": [f"m{row // 2}" for row in range(rows)],
        "time": [row // 2 * 100 for row in range(rows)],
        "score": [0.6, 0.3] * requests,
        "history": [4] * rows,
        "is_trained": [True] * rows,
    }
    return pa.table({**data, **changes})


def join(events: list[Event], *, table: pa.Table | None = None, **changes: Any) -> ScoredRows:
    columns = dict(zip(EVENTS, map(list, zip(*events, strict=True)), strict=True)) if events else {}
    types = (pa.string(), pa.string(), pa.string(), pa.int64())
    made_of = {name: pa.array(columns.get(name, []), kind) for name, kind in zip(EVENTS, types, strict=True)}
    settings: dict[str, Any] = {"positive": {"like": ["like"]}, "window": 50, "until": 1_000, **changes}
    return join_events(answers() if table is None else table, pa.table(made_of), info(), **settings)


def labels(rows: ScoredRows) -> dict[str, Any]:
    """Return the label by request and score."""
    found = rows.table.select(["request_id", "score", "label"]).to_pylist()
    return {f"{row['request_id']}{'a' if row['score'] > 0.5 else 'b'}": row["label"] for row in found}


def test_an_event_within_the_window_is_the_label() -> None:
    events = [("r0", "a", "like", 50), ("r1", "a", "like", 151), ("r2", "b", "like", 199), ("rx", "a", "like", 10)]
    assert labels(join(events)) == {"r0a": True, "r0b": False, "r1a": False, "r1b": False, "r2a": False, "r2b": False}


def test_labels_are_not_known_while_the_window_is_open() -> None:
    rows = join([("r2", "a", "like", 210), ("r2", "b", "skip", 205)], until=220)
    assert labels(rows) == {"r0a": False, "r0b": False, "r1a": False, "r1b": False, "r2a": True, "r2b": None}
    report = evaluate(rows, config=EvaluationConfig(replicates=5))
    assert report.tasks["like"].counts.without_label == 1


def test_a_positive_event_is_the_outcome_and_else_the_first() -> None:
    events = [("r0", "a", "skip", 1), ("r0", "a", "like", 2), ("r0", "b", "hide", 4), ("r0", "b", "skip", 3)]
    outcomes = {(row["request_id"], row["score"]): row["outcome"] for row in join(events).table.to_pylist()}
    assert (outcomes["r0", 0.6], outcomes["r0", 0.3], outcomes["r1", 0.6]) == ("like", "skip", None)


def test_versions_that_answered_the_same_requests_are_compared() -> None:
    events = [(f"r{number}", "a", "like", number * 100 + 1) for number in range(20)]
    production = join(events, table=answers(20), until=10_000)
    shadow = join(events, table=answers(20, score=[0.2, 0.4] * 20), until=10_000)
    auc = compare(production, shadow, EvaluationConfig(replicates=5)).tasks["like"].figures["auc"]
    assert (auc.a.value, auc.b.value) == (1.0, 0.0)
    assert production.codes("slate")[0].max() == 19


def test_timestamps_and_locales_are_read() -> None:
    table = answers(1, time=pa.array([7, 7], TIMESTAMP), locale=["de", "de"])
    rows = join([], table=table)
    assert rows.column("time").tolist() == [7, 7]
    assert rows.codes("locale")[1] == ["de"]


def test_invalid_logs_are_refused() -> None:
    with pytest.raises(DataError, match="a candidate twice"):
        join([], table=answers(entity_id=["a"] * 6))
    with pytest.raises(DataError, match="answers have no column 'score'"):
        join([], table=answers().drop_columns("score"))
    with pytest.raises(UserError, match="'like' has no positive actions"):
        join([], positive={"share": ["share"]})
    with pytest.raises(UserError, match="window is 0"):
        join([], window=0)


def test_ids_do_not_run_into_each_other() -> None:
    table = answers(1, request_id=["r:1", "r"], entity_id=["a", "1:a"])
    assert len(set(join([], table=table).column("row_id").tolist())) == 2
