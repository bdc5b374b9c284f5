"""Tables that are written in batches: the same rows and the same errors as tables in memory, whatever the batches."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from brew_data.entity_index import EntityIndex
from brew_data.pipelines.member_groups import read_members
from brew_data.schema import TIMESTAMP, Tables, micros, read_table, read_tables, write_tables
from brew_data.split import hash_ids
from brew_data.table_shards import BUCKETS, TableShards, shard_count, table_files
from brew_data.table_writer import TableWriter
from brew_platform.errors import DataError

MEMBERS, ENTITIES, ROWS = 40, 30, 300
FIXTURE = settings(deadline=None, max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])


def make_tables(rows: int = ROWS) -> Tables:
    """Tables with connections and an oracle, whose members have very different numbers of rows."""
    random = np.random.default_rng(0)
    members = [f"m{i}" for i in range(MEMBERS)]
    entities = [f"e{i}" for i in range(ENTITIES)]
    chosen = np.minimum(random.geometric(0.1, rows) - 1, MEMBERS - 1)
    return Tables(
        members=pa.table(
            {
                "member_id": members,
                "profile": [{"title": f"title {i}", "skills": ["a", None]} for i in range(MEMBERS)],
                "locale": ["en"] * MEMBERS,
                "opted_out": [i % 7 == 0 for i in range(MEMBERS)],
            }
        ),
        entities=pa.table(
            {
                "entity_id": entities,
                "entity_type": ["job"] * ENTITIES,
                "created_at": pa.array(range(ENTITIES), TIMESTAMP),
                "fields": [{"title": f"job {i}", "pay": i / 2 if i % 2 else None} for i in range(ENTITIES)],
                "author_id": pa.array([members[i] if i % 3 else None for i in range(ENTITIES)]),
            }
        ),
        interactions=pa.table(
            {
                "interaction_id": pa.array(range(rows), pa.int64()),
                "member_id": [members[i] for i in chosen],
                "entity_id": [entities[i] for i in random.integers(0, ENTITIES, rows)],
                "surface": ["jobs"] * rows,
                "action": ["skip"] * rows,
                "timestamp": pa.array(range(rows), TIMESTAMP),
            }
        ),
        connections=pa.table(
            {
                "member_id": members[:-1],
                "other_id": members[1:],
                "kind": ["follow"] * (MEMBERS - 1),
                "timestamp": pa.array(range(MEMBERS - 1), TIMESTAMP),
            }
        ),
    )


def batches(tables: Tables, sizes: list[int]) -> Iterator[tuple[str, pa.Table]]:
    """The rows of each table in batches of these sizes, again and again."""
    for name, table in tables.present().items():
        start = number = 0
        while start < table.num_rows:
            size = sizes[number % len(sizes)]
            yield name, table.slice(start, size)
            start, number = start + size, number + 1


def write(tables: Tables, folder: Path, sizes: list[int], **arguments: int) -> TableWriter:
    writer = TableWriter(folder, **arguments)
    for name, rows in batches(tables, sizes):
        writer.write(name, rows)
    return writer


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@FIXTURE
@given(
    sizes=st.lists(st.integers(1, 120), min_size=1, max_size=4),
    rows_per_shard=st.sampled_from([40, 100, 10**6]),
    run_bytes=st.sampled_from([3_000, 20_000, 10**7]),
)
def test_batches_and_runs_do_not_change_the_files(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], rows_per_shard: int, run_bytes: int
) -> None:
    folder, tables = tmp_path_factory.mktemp("tables"), make_tables()
    write_tables(tables, folder / "whole", rows_per_shard=rows_per_shard)
    written = write(tables, folder / "parts", sizes, rows_per_shard=rows_per_shard, run_bytes=run_bytes).finish()
    assert content(folder / "parts") == content(folder / "whole")
    assert written.rows == {name: table.num_rows for name, table in tables.present().items()}
    assert (written.earliest, written.latest) == (0, ROWS - 1)
    read = read_tables(folder / "parts")
    assert read.interactions == tables.interactions
    for name, key in (("members", "member_id"), ("entities", "entity_id"), ("connections", "member_id")):
        assert getattr(read, name).sort_by(key) == getattr(tables, name).sort_by(key)


def test_a_shard_has_all_rows_of_its_members(tmp_path: Path) -> None:
    tables = make_tables()
    write_tables(tables, tmp_path, rows_per_shard=20)
    shards = TableShards.open(tmp_path)
    assert shards.count == 16
    seen: list[str] = []
    for shard in range(shards.count):
        ids = shards.read("members", shard)["member_id"].to_pylist()
        assert (hash_ids(ids) >> np.uint64(60)).tolist() == [shard] * len(ids)
        for name in ("interactions", "connections"):
            rows = shards.read(name, shard)
            assert set(rows["member_id"].to_pylist()) <= set(ids)
        times = micros(shards.read("interactions", shard)).to_pylist()
        assert times == sorted(times)
        seen += ids
    assert sorted(seen) == sorted(tables.members["member_id"].to_pylist())
    assert sum(pq.read_metadata(file).num_rows for file in table_files(tmp_path, "interactions")) == ROWS
    assert len(shards.of_part((0.0, 0.05))) == 1
    assert list(shards.of_part((0.05, 1.0))) == list(range(16))
    assert list(shards.of_part((0.25, 0.5))) == [4, 5, 6, 7]


def test_rows_that_are_not_in_time_are_sorted(tmp_path: Path) -> None:
    tables = make_tables()
    writer = TableWriter(tmp_path)
    for name, table in tables.present().items():
        order = range(table.num_rows - 1, -1, -1)
        writer.write(name, table.take(pa.array(order)))
    writer.finish()
    assert read_tables(tmp_path).interactions == tables.interactions


def test_small_and_empty_tables(tmp_path: Path) -> None:
    tables = make_tables(1)
    write_tables(tables, tmp_path / "one")
    assert read_tables(tmp_path / "one") == tables
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == [
        "connections.parquet", "entities.arrow", "entities.parquet", "interactions.parquet", "members.parquet",
    ]  # fmt: skip
    writer = TableWriter(tmp_path / "none", rows_per_shard=1)
    for name, table in tables.present().items():
        writer.write(name, table.slice(0, 0))
    assert writer.finish().earliest is None
    assert read_table(tmp_path / "none", "interactions").schema == tables.interactions.schema
    assert EntityIndex(tmp_path / "none").take(["e1"]).num_rows == 0


def test_records_without_fields_are_kept(tmp_path: Path) -> None:
    tables = make_tables()
    bare = pa.array([{}] * MEMBERS, pa.struct([]))
    members = tables.members.set_column(1, "profile", bare)
    entities = tables.entities.set_column(3, "fields", pa.array([{}] * ENTITIES, pa.struct([])))
    bare_tables = Tables(members=members, entities=entities, interactions=tables.interactions)
    write_tables(bare_tables, tmp_path, rows_per_shard=100)
    read = read_tables(tmp_path)
    assert read.members.schema == members.schema
    assert sorted(read.members["member_id"].to_pylist()) == sorted(members["member_id"].to_pylist())
    assert EntityIndex(tmp_path).take(["e3"]).schema == entities.schema
    [first, *_] = read_members(tmp_path, 0, until=10**6)
    assert (first.profile, first.history[0].entity.values) == ({}, {})


def change(table: pa.Table, column: str, row: int, value: object) -> pa.Table:
    values = table[column].to_pylist()
    values[row] = value
    place = table.column_names.index(column)
    return table.set_column(place, table.field(column), pa.array(values, table.field(column).type))


@pytest.mark.parametrize(
    ("name", "column", "row", "value", "message"),
    [
        ("members", "member_id", 33, "  ", "table members: row 33 has the member_id '  '"),
        ("entities", "entity_id", 21, "e2", "table entities: entity_id is repeated"),
        ("entities", "created_at", 21, -(10**17), "table entities: row 21 has the created_at -100000000000000000"),
        ("entities", "fields", 9, {"pay": float("inf")}, "table entities, 'e9': the field 'pay' of fields is inf"),
        ("interactions", "interaction_id", 250, 3, "table interactions: interaction_id is repeated"),
        (
            "interactions",
            "member_id",
            250,
            "m99",
            "table interactions: row 250 names member_id 'm99', which the members",
        ),
        ("interactions", "entity_id", 250, "e99", "table interactions: row 250 names entity_id 'e99', which the entit"),
        ("interactions", "timestamp", 250, 10**17, "table interactions: row 250 has the timestamp 100000000000000000"),
        ("connections", "member_id", 30, "m99", "table connections: row 30 names member_id 'm99'"),
        ("connections", "other_id", 30, "m99", "table connections: row 30 names other_id 'm99'"),
        ("connections", "other_id", 30, "m30", "table connections: row 30 connects member 'm30' with themselves"),
        ("connections", "kind", 30, "friend", "table connections: row 30 has the kind 'friend'"),
    ],
)
def test_faults_are_found_as_in_memory(
    name: str, column: str, row: int, value: object, message: str, tmp_path: Path
) -> None:
    tables = make_tables().present()
    tables[name] = change(tables[name], column, row, value)
    with pytest.raises(DataError, match=message) as in_memory:
        Tables(**tables)

    def stream() -> None:
        writer = TableWriter(tmp_path, rows_per_shard=50, run_bytes=2_000)
        for table, rows in tables.items():
            for start in range(0, rows.num_rows, 17):
                writer.write(table, rows.slice(start, 17))
        writer.finish()

    with pytest.raises(DataError) as streamed:
        stream()
    assert str(streamed.value) == str(in_memory.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [("members", "member_id is repeated"), ("connections", "member_id, other_id and kind are repeated")],
)
def test_rows_of_different_batches_that_are_equal_are_refused(name: str, message: str, tmp_path: Path) -> None:
    writer = write(make_tables(), tmp_path, [40], rows_per_shard=50)
    writer.write(name, make_tables().present()[name].slice(5, 1))
    with pytest.raises(DataError, match=f"table {name}: {message}"):
        writer.finish()


def test_batches_with_other_columns_and_missing_tables_are_refused(tmp_path: Path) -> None:
    tables = make_tables()
    writer = TableWriter(tmp_path)
    writer.write("members", tables.members)
    other = tables.members.set_column(1, "profile", pa.array([{"name": "x"}] * MEMBERS))
    with pytest.raises(DataError, match="table members: some rows have the columns .*struct<name: string>"):
        writer.write("members", other)
    with pytest.raises(DataError, match="table entities is missing: the source has no rows of it"):
        writer.finish()


def test_tables_that_were_there_are_replaced(tmp_path: Path) -> None:
    tables = make_tables()
    write_tables(tables, tmp_path, rows_per_shard=20)
    write_tables(Tables(members=tables.members, entities=tables.entities, interactions=tables.interactions), tmp_path)
    assert (tmp_path / "interactions.parquet").is_file()
    assert not (tmp_path / "connections.parquet").exists()


def test_the_number_of_shards_depends_on_the_rows_only() -> None:
    rows = (0, 1, 10, 11, 20, 21, 40, 41, 640, 641, 2_560, 2_561, 10_240, 10_241, 10**9)
    assert [shard_count(count, 10) for count in rows] == [1, 1, 1, 2, 2, 4, 4, 8, 64, 128, 256, 256, 256, 512, BUCKETS]


@pytest.mark.parametrize("fault", ["missing", "other count", "empty"])
def test_incomplete_shards_are_refused(fault: str, tmp_path: Path) -> None:
    write_tables(make_tables(), tmp_path, rows_per_shard=100)
    files = table_files(tmp_path, "interactions")
    assert len(files) == 4
    if fault == "missing":
        files[1].unlink()
    elif fault == "other count":
        files[0].rename(files[0].with_name("part-00000-of-00008.parquet"))
    else:
        for file in files:
            file.unlink()
    with pytest.raises(DataError, match="which are not all shards of a table"):
        TableShards.open(tmp_path)


def test_tables_of_different_runs_are_refused(tmp_path: Path) -> None:
    write_tables(make_tables(), tmp_path / "a", rows_per_shard=100)
    write_tables(make_tables(), tmp_path / "b", rows_per_shard=50)
    for file in table_files(tmp_path / "a", "members"):
        file.unlink()
    (tmp_path / "a" / "members.parquet").rmdir()
    (tmp_path / "b" / "members.parquet").rename(tmp_path / "a" / "members.parquet")
    with pytest.raises(DataError, match="8 shards of the members and 4 of the interactions"):
        TableShards.open(tmp_path / "a")
