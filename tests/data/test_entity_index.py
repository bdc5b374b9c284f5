"""The index of entities: the rows of the ids that are looked up, and no others."""

from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from brew_data import entity_index
from brew_data.entity_index import ENTITY_FILE, EntityIndex, batch_count
from brew_data.schema import INTERACTIONS, TIMESTAMP, Tables, write_tables
from brew_data.table_shards import BUCKETS
from brew_platform.errors import DataError


def write_entities(folder: Path, count: int) -> pa.Table:
    entities = pa.table(
        {
            "entity_id": [f"e{i}" for i in range(count)],
            "entity_type": ["job"] * count,
            "created_at": pa.array(range(count), TIMESTAMP),
            "fields": [{"title": f"job {i}", "text": "x" * i} for i in range(count)],
        }
    )
    members = {"member_id": ["a"], "profile": [{"title": "b"}], "locale": ["en"], "opted_out": [False]}
    interactions = pa.Table.from_pylist([], pa.schema(INTERACTIONS))
    write_tables(Tables(members=pa.table(members), entities=entities, interactions=interactions), folder)
    return entities


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tables")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(entity_index, "ROWS_PER_BATCH", 512)
        write_entities(folder, 1_500)
    return folder


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(numbers=st.sets(st.integers(0, 1_600), max_size=40))
def test_the_rows_of_the_ids_are_found(folder: Path, numbers: set[int]) -> None:
    rows = EntityIndex(folder).take([f"e{i}" for i in numbers]).to_pylist()
    expected = {f"e{i}": {"title": f"job {i}", "text": "x" * i} for i in numbers if i < 1_500}
    assert {row["entity_id"]: row["fields"] for row in rows} == expected
    assert len(rows) == len(expected)


def test_columns_are_chosen_and_the_file_is_divided(folder: Path) -> None:
    with pa.memory_map(str(folder / ENTITY_FILE)) as source, pa.ipc.open_file(source) as file:
        assert file.num_record_batches == 4
    assert [batch_count(rows) for rows in (0, 1, 16_384, 16_385, 10**9)] == [1, 1, 1, 2, BUCKETS]
    rows = EntityIndex(folder).take(["e7", "nobody"], ["entity_id", "entity_type"])
    assert rows.to_pylist() == [{"entity_id": "e7", "entity_type": "job"}]


def test_ids_with_one_hash_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def hash_badly(ids: list[str]) -> object:
        return entity_index.np.array([len(id_) for id_ in ids], entity_index.np.uint64)

    monkeypatch.setattr(entity_index, "hash_ids", hash_badly)
    entities = write_entities(tmp_path, 20)
    found = EntityIndex(tmp_path).take(["e3", "e12"])
    assert found.num_rows == 20  # all ids of both lengths, so that the caller finds its own
    assert {"e3", "e12"} <= set(found["entity_id"].to_pylist())
    assert found.sort_by("entity_id") == entities.sort_by("entity_id")


def test_a_missing_or_damaged_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist: the tables are of another release"):
        EntityIndex(tmp_path)
    (tmp_path / ENTITY_FILE).write_bytes(b"torn")
    with pytest.raises(DataError, match="is damaged"):
        EntityIndex(tmp_path).take(["a"])
