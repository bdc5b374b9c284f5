"""Logged answers: what callers received, interactions without request ids, and no dependence on the order of files."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brew_eval.answers import attribute_interactions, read_answers, received_answers, versions_of
from brew_eval.online import EVENTS, count_known, join_events
from brew_platform.errors import DataError
from brew_platform.storage.base import Keys
from brew_platform.storage.local import LocalStore
from brew_serve.ranking.answer_log import LOGGED_ANSWERS

from .rows import info

Row = dict[str, Any]


class Files(LocalStore):
    """A store of Parquet files in memory."""

    url = "memory"

    def __init__(self, *tables: pa.Table) -> None:
        super().__init__(Path("memory"))
        self._files: dict[str, bytes] = {}
        for number, table in enumerate(tables):
            sink = pa.BufferOutputStream()
            pq.write_table(table, sink)
            self._files[f"day/{number:03}.parquet"] = sink.getvalue().to_pybytes()

    def list(self, prefix: str = "") -> Keys:
        return sorted(self._files)

    def get(self, key: str) -> bytes:
        return self._files[key]


def row(request: str, entity: str, **changes: Any) -> Row:
    return {
        "request_id": request, "entity_id": entity, "time": 100, "version": 7, "role": "production", "task": "like",
        "surface": "feed", "is_trained": True, "member": "m", "history": 4, "locale": None, "score": 0.5,
        "probabilities": [0.5, 0.5], "returned": True, **changes,
    }  # fmt: skip


def table_of(rows: Sequence[Row]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=LOGGED_ANSWERS)


def received(*rows: Row) -> list[tuple[str, str, int, str]]:
    found = received_answers(table_of(rows)).table.to_pylist()
    return [(item["request_id"], item["entity_id"], item["version"], item["role"]) for item in found]


def test_production_replaces_a_canary_that_was_too_late_and_a_shadow_keeps_its_answer() -> None:
    rows = [row("r", "a"), row("r", "a", role="canary", version=8), row("r", "a", role="shadow", version=9)]
    assert received(*rows) == [("r", "a", 7, "production"), ("r", "a", 9, "shadow")]
    assert received_answers(table_of(rows)).replaced == 1
    assert versions_of(table_of(rows)) == [("canary", 8), ("production", 7), ("shadow", 9)]


def test_of_a_request_that_was_sent_again_the_last_answer_counts() -> None:
    rows = [row("r", "a", score=0.1), row("r", "b"), row("r", "a", time=200, score=0.9), row("r", "a", time=200)]
    found = received_answers(table_of(rows))
    assert [(item["entity_id"], item["time"].timestamp()) for item in found.table.to_pylist()] == [("a", 0.0002)]
    assert found.replaced == 3


def test_candidates_that_no_caller_received_are_left_out_of_all_versions() -> None:
    rows = [row("r", "a"), row("r", "b", returned=False)]
    rows += [row("r", name, role="shadow", version=9, returned=name == "b") for name in "ab"]
    rows.append(row("lost", "a", role="shadow", version=9))  # of a request whose answer was dropped
    found = received_answers(table_of(rows))
    assert set(found.table["entity_id"].to_pylist()) == {"a"}
    assert (found.table.num_rows, found.not_received, found.replaced) == (2, 3, 0)


def test_an_empty_log_has_no_answers() -> None:
    assert received_answers(LOGGED_ANSWERS.empty_table()).table.num_rows == 0


def interactions(*rows: tuple[str, str, str, str, int]) -> pa.Table:
    names = ("member", "entity_id", "surface", "action", "time")
    types = (*[pa.string()] * 4, pa.int64())
    return pa.table({name: pa.array([item[n] for item in rows], types[n]) for n, name in enumerate(names)})


def test_an_interaction_belongs_to_the_last_answer_before_it_that_contained_its_entity() -> None:
    answers = [row("r1", "a", time=100), row("r2", "a", time=200), row("r3", "b", time=300)]
    answers += [row("s", "a", time=250, role="shadow"), row("o", "a", time=250, member="n"), row("r2", "c", time=200)]
    answers += [row("t", "a", time=150, task="share")]
    table = received_answers(table_of(answers)).table
    acted = [("m", "a", "feed", "like", when) for when in (99, 100, 199, 200, 900)]
    acted += [("m", "a", "jobs", "like", 500), ("x", "a", "feed", "like", 500), ("m", "d", "feed", "like", 500)]
    events = attribute_interactions(interactions(*acted), table)
    assert events.column_names == list(EVENTS)
    found = sorted((event["time"], event["request_id"]) for event in events.to_pylist())
    likes = [(100, "r1"), (199, "r1"), (200, "r2"), (900, "r2")]
    assert found == sorted([*likes, (199, "t"), (200, "t"), (900, "t")])
    assert attribute_interactions(interactions(), table).num_rows == 0
    assert attribute_interactions(interactions(*acted), table.slice(0, 0)).num_rows == 0


def test_events_of_answers_that_are_not_logged_are_counted_apart() -> None:
    events = pa.table(
        {"request_id": ["r", "r", "x"], "entity_id": ["a", "b", "a"], "action": ["l"] * 3, "time": [1] * 3}
    )
    assert count_known(table_of([row("r", "a")]), events) == 1
    assert count_known(table_of([row("r", "a")]), events.slice(0, 0)) == 0


def test_files_that_are_no_answers_are_refused() -> None:
    with pytest.raises(DataError, match="memory has no logged answers"):
        read_answers(Files())
    with pytest.raises(DataError, match=r"memory/day/000\.parquet is not a file of this release's log"):
        read_answers(Files(pa.table({"request_id": ["r"]})))
    broken = Files(table_of([row("r", "a")]))
    broken._files["day/000.parquet"] = b"PAR1 half"
    with pytest.raises(DataError, match=r"000\.parquet is not a Parquet file"):
        read_answers(broken)


times = st.integers(0, 3).map(lambda hour: hour * 100)
logged = st.builds(
    row,
    st.sampled_from(["r1", "r2", "r3"]),
    st.sampled_from(["a", "b"]),
    time=times,
    version=st.sampled_from([7, 8]),
    role=st.sampled_from(["production", "canary", "shadow"]),
    returned=st.booleans(),
)
event = st.tuples(
    st.sampled_from(["r1", "r2", "r3", "r4"]),
    st.sampled_from(["a", "b"]),
    st.sampled_from(["like", "love", "skip", "hide"]),
    times,
)


@settings(max_examples=30)
@given(st.lists(logged, max_size=14), st.lists(event, max_size=10), st.randoms(use_true_random=False))
def test_the_joined_rows_do_not_depend_on_the_order_of_files_and_rows(
    rows: list[Row], events: list[tuple[str, str, str, int]], random: Any
) -> None:
    def joined(files: list[list[Row]], order: list[tuple[str, str, str, int]]) -> list[Any]:
        answers = received_answers(read_answers(Files(*map(table_of, files)))).table
        columns = zip(*order, strict=True) if order else [[]] * 4
        kinds = (pa.string(), pa.string(), pa.string(), pa.int64())
        table = pa.table({n: pa.array(c, k) for n, c, k in zip(EVENTS, columns, kinds, strict=True)})
        acted = table.rename_columns(["member", "entity_id", "action", "time"]).append_column(
            "surface", pa.array(["feed"] * len(order), pa.string())
        )
        acted = acted.set_column(0, "member", pa.array(["m"] * len(order), pa.string()))
        results = []
        for found in (table, attribute_interactions(acted, answers)):
            for role, version in versions_of(answers):
                mask = [(a["role"], a["version"]) == (role, version) for a in answers.to_pylist()]
                arm = answers.filter(pa.array(mask))
                positive = {"like": ["like", "love"]}
                results.append(
                    join_events(arm, found, info(), positive=positive, window=150, until=250).table.to_pylist()
                )
        return results

    first = joined([rows], events)
    shuffled, moved = list(rows), list(events)
    random.shuffle(shuffled)
    random.shuffle(moved)
    cut = random.randint(0, len(rows))
    assert joined([shuffled[:cut], shuffled[cut:]], moved) == first
