"""Network facts as fields of the members table."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from brew_data.member_network import add_network
from brew_data.prompts.suite import TaskSuite
from brew_data.prompts.templates import RecordTemplate
from brew_data.schema import CONNECTIONS, ENTITIES, INTERACTIONS, Tables, read_tables, write_tables
from brew_data.table_shards import table_files
from brew_data.table_writer import TableWriter

DAY = datetime(2025, 1, 1, tzinfo=UTC)
UNTIL = int(DAY.timestamp() * 1_000_000)


def make_suite(*fields: str) -> TaskSuite:
    profile = RecordTemplate(fields=["title", *fields], phrases=["{{ title }}"])
    return TaskSuite(name="network", profile=profile, entities={}, surfaces=[])


def make_tables(connections: pa.Table | None, **more: Any) -> Tables:
    ids = ["a", "b", "c", "out"]
    fields = pa.struct([("title", pa.string())])
    return Tables(
        members=pa.table(
            {
                "member_id": ids,
                "profile": [{"title": f"title of {id_}", **more} for id_ in ids],
                "locale": ["en"] * 4,
                "opted_out": [id_ == "out" for id_ in ids],
            }
        ),
        entities=pa.Table.from_pylist(
            [{"entity_id": "e", "entity_type": "job", "created_at": DAY, "fields": {"title": "nurse"}}],
            pa.schema(ENTITIES | {"fields": fields}),
        ),
        interactions=pa.Table.from_pylist(
            [
                {
                    "interaction_id": number,
                    "member_id": member,
                    "entity_id": "e",
                    "surface": "jobs",
                    "action": "apply",
                    "timestamp": DAY,
                }
                for number, member in enumerate(ids)
            ],
            pa.schema(INTERACTIONS),
        ),
        connections=connections,
    )


CONNECTED = pa.Table.from_pylist(
    [
        {"member_id": "a", "other_id": "b", "kind": "connection", "timestamp": DAY},
        {"member_id": "a", "other_id": "out", "kind": "connection", "timestamp": DAY},
        {"member_id": "c", "other_id": "a", "kind": "follow", "timestamp": DAY},
        {"member_id": "b", "other_id": "c", "kind": "connection", "timestamp": DAY + timedelta(days=1)},
    ],
    pa.schema(CONNECTIONS),
)
EXPECTED = {
    "a": {"title": "title of a", "connections": "1", "followers": "1", "connected_with": "title of b"},
    "b": {"title": "title of b", "connections": "1", "followers": None, "connected_with": "title of a"},
    "c": {"title": "title of c", "connections": None, "followers": None, "connected_with": None},
    "out": {"title": "title of out", "connections": None, "followers": None, "connected_with": None},
}


def profiles(folder: Path) -> dict[str, Any]:
    members = read_tables(folder).members
    return dict(zip(members["member_id"].to_pylist(), members["profile"].to_pylist(), strict=True))


@pytest.mark.parametrize("rows_per_shard", [1000, 1])
def test_the_declared_fields_are_added_as_of_the_end_of_training(tmp_path: Path, rows_per_shard: int) -> None:
    writer = TableWriter(tmp_path, rows_per_shard=rows_per_shard)
    for name, rows in make_tables(CONNECTED).present().items():
        writer.write(name, rows)
    writer.finish()
    before = read_tables(tmp_path)
    suite = make_suite("connections", "followers", "connected_with")
    add_network(tmp_path, suite, until=UNTIL)
    assert profiles(tmp_path) == EXPECTED
    after = read_tables(tmp_path)
    assert after.members.drop(["profile"]) == before.members.drop(["profile"])
    assert after.interactions == before.interactions
    times = [file.stat().st_mtime_ns for file in table_files(tmp_path, "members")]
    add_network(tmp_path, suite, until=UNTIL)  # nothing is left to add
    assert [file.stat().st_mtime_ns for file in table_files(tmp_path, "members")] == times


@pytest.mark.parametrize(
    ("connections", "fields"), [(CONNECTED, ["followers"]), (None, ["connections"]), (CONNECTED, [])]
)
def test_fields_that_exist_or_are_not_declared_are_left_alone(
    tmp_path: Path, connections: pa.Table | None, fields: list[str]
) -> None:
    write_tables(make_tables(connections, followers=9), tmp_path)
    before = (tmp_path / "members.parquet").read_bytes()
    add_network(tmp_path, make_suite(*fields), until=UNTIL)
    assert (tmp_path / "members.parquet").read_bytes() == before


def test_a_field_of_the_members_wins(tmp_path: Path) -> None:
    write_tables(make_tables(CONNECTED, followers=9), tmp_path)
    add_network(tmp_path, make_suite("followers", "connections"), until=UNTIL)
    assert profiles(tmp_path)["a"] == {"title": "title of a", "followers": 9, "connections": "1"}
