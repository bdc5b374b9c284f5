"""The tables of a further day are added: the newest members and entities stay, and all interactions."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from brew_data.schema import TIMESTAMP, Tables, read_tables, write_tables
from brew_data.table_append import append_tables
from brew_platform.errors import DataError


def members(profiles: dict[str, dict[str, str]]) -> pa.Table:
    return pa.table(
        {
            "member_id": pa.array(list(profiles), pa.string()),
            "profile": pa.array(list(profiles.values())),
            "locale": pa.array(["en"] * len(profiles), pa.string()),
            "opted_out": pa.array([False] * len(profiles), pa.bool_()),
        }
    )


def entities(fields: dict[str, dict[str, str]], **columns: list[str]) -> pa.Table:
    return pa.table(
        {
            "entity_id": pa.array(list(fields), pa.string()),
            "entity_type": ["job"] * len(fields),
            "created_at": pa.array([0] * len(fields), TIMESTAMP),
            "fields": pa.array(list(fields.values())),
            **columns,
        }
    )


def interactions(rows: list[tuple[int, str, str, int]]) -> pa.Table:
    """Rows of id, member, entity and time."""
    ids, member_ids, entity_ids, times = zip(*rows, strict=True)
    return pa.table(
        {
            "interaction_id": pa.array(ids, pa.int64()),
            "member_id": pa.array(member_ids, pa.string()),
            "entity_id": pa.array(entity_ids, pa.string()),
            "surface": ["jobs"] * len(rows),
            "action": ["apply"] * len(rows),
            "timestamp": pa.array(times, TIMESTAMP),
        }
    )


def connections(rows: list[tuple[str, str]]) -> pa.Table:
    return pa.table(
        {
            "member_id": [first for first, _ in rows],
            "other_id": [second for _, second in rows],
            "kind": ["follow"] * len(rows),
            "timestamp": pa.array([0] * len(rows), TIMESTAMP),
        }
    )


def first_days(**changes: Any) -> Tables:
    values = {
        "members": members({"ada": {"title": "nurse"}, "ben": {"title": "cook"}}),
        "entities": entities({"a": {"title": "Nurse"}, "b": {"title": "Cook"}}),
        "interactions": interactions([(0, "ada", "a", 10), (1, "ben", "b", 20), (7, "ada", "b", 30)]),
    }
    return Tables(**values | changes)


def further_day(**changes: Any) -> Tables:
    values = {
        "members": members(
            {"ada": {"title": "head nurse", "city": "Berlin"}, "eve": {"title": "pilot", "city": "Rome"}}
        ),
        "entities": entities({"c": {"title": "Pilot", "pay": "high"}, "b": {"title": "Chef", "pay": "low"}}),
        "interactions": interactions([(3, "ada", "c", 31), (4, "eve", "b", 40)]),
    }
    return Tables(**values | changes)


def append(first: Tables, further: Tables, folder: Path, *, after: int = 20, rows_per_shard: int = 65_536) -> Tables:
    write_tables(first, folder / "first", rows_per_shard=rows_per_shard)
    write_tables(further, folder / "further")
    append_tables(folder / "first", folder / "further", folder / "out", after=after)
    return read_tables(folder / "out")


@pytest.mark.parametrize("rows_per_shard", [65_536, 1])
def test_members_and_entities_are_the_newest_and_interactions_get_new_ids(tmp_path: Path, rows_per_shard: int) -> None:
    tables = append(first_days(), further_day(), tmp_path, rows_per_shard=rows_per_shard)
    assert {row["member_id"]: row["profile"] for row in tables.members.to_pylist()} == {
        "ben": {"title": "cook", "city": None},
        "ada": {"title": "head nurse", "city": "Berlin"},
        "eve": {"title": "pilot", "city": "Rome"},
    }
    assert {row["entity_id"]: row["fields"] for row in tables.entities.to_pylist()} == {
        "a": {"title": "Nurse", "pay": None},
        "c": {"title": "Pilot", "pay": "high"},
        "b": {"title": "Chef", "pay": "low"},
    }
    rows = [(row["interaction_id"], row["member_id"], row["entity_id"]) for row in tables.interactions.to_pylist()]
    assert rows == [(0, "ada", "a"), (1, "ben", "b"), (7, "ada", "b"), (8, "ada", "c"), (9, "eve", "b")]


def test_the_oracle_follows_the_ids_and_connections_are_kept_once(tmp_path: Path) -> None:
    def oracle(ids: list[int]) -> pa.Table:
        return pa.table({"interaction_id": ids, "action": ["apply"] * len(ids), "probability": [i / 10 for i in ids]})

    first = first_days(oracle=oracle([0, 1, 7]), connections=connections([("ada", "ben")]))
    further = further_day(oracle=oracle([3, 4]), connections=connections([("eve", "ada"), ("ada", "eve")]))
    tables = append(first, further, tmp_path)
    assert tables.oracle is not None
    found = sorted((row["interaction_id"], row["probability"]) for row in tables.oracle.to_pylist())
    assert found == [(0, 0.0), (1, 0.1), (7, 0.7), (8, 0.3), (9, 0.4)]
    tables = append(
        first_days(connections=connections([("ada", "ben"), ("ben", "ada")])),
        further_day(connections=connections([("eve", "ada")])), tmp_path / "again",
    )  # fmt: skip
    assert tables.connections is not None
    assert tables.connections.num_rows == 3
    append_tables(tmp_path / "again/out", tmp_path / "again/further", tmp_path / "third", after=20)
    again = read_tables(tmp_path / "third")
    assert again.connections is not None
    assert again.connections.num_rows == 3
    assert again.interactions.num_rows == tables.interactions.num_rows + 2


def test_columns_and_fields_that_one_day_lacks_are_null(tmp_path: Path) -> None:
    authored = entities({"c": {"title": "Pilot"}, "b": {"title": "Chef"}}, author_id=["ada", "eve"])
    bare = pa.table({**dict(zip(("member_id", "locale"), (["ada", "eve"], ["en", "en"]), strict=True)),
                     "profile": pa.array([{}, {}], pa.struct([])), "opted_out": [False, False]})  # fmt: skip
    tables = append(first_days(), further_day(entities=authored, members=bare), tmp_path)
    assert {row["entity_id"]: row["author_id"] for row in tables.entities.to_pylist()} == {
        "a": None, "b": "eve", "c": "ada",
    }  # fmt: skip
    assert {row["member_id"]: row["profile"]["title"] for row in tables.members.to_pylist()} == {
        "ada": None, "ben": "cook", "eve": None,
    }  # fmt: skip


def test_days_that_cannot_be_appended_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"1 interactions of the further day, e\.g\. that of member 'ada'.*not later"):
        append(first_days(), further_day(), tmp_path / "late", after=31)
    oracle = pa.table({"interaction_id": [3, 4], "action": ["apply"] * 2, "probability": [0.5, 0.5]})
    with pytest.raises(DataError, match="has an oracle, and the other has none"):
        append(first_days(), further_day(oracle=oracle), tmp_path / "oracle")
    assert not (tmp_path / "oracle" / "out").exists()
