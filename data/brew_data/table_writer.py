"""Writes tables of any size from batches of rows, checks them, and divides them into shards.

Batches are collected into runs: files of bounded size whose rows are sorted into buckets of the hash of their key. When
all rows are there, the buckets of a shard are read from all runs, and what concerns several rows is checked: repeated
ids, and members and entities that do not exist. Neither step holds more than one run or one shard in memory.
"""

import shutil
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from brew_data.entity_index import ENTITY_FILE, EntityIndex, batch_count, write_index
from brew_data.schema import (
    OPTIONAL_TABLES,
    TABLES,
    check_connections_once,
    check_rows,
    check_unique,
    micros,
    unknown_id,
)
from brew_data.split import hash_ids, hash_integers
from brew_data.table_shards import BUCKETS, ROWS_PER_SHARD, as_batch, shard_count, shard_file, storable
from brew_platform.errors import DataError

__all__ = ["TableWriter", "WrittenTables"]

RUN_BYTES = 64 * 2**20
_ROW = "_row"  # column of the runs: number of the row in its table
_KEYS = {  # by table: the column that decides the shard
    "members": "member_id",
    "entities": "entity_id",
    "interactions": "member_id",
    "oracle": "interaction_id",
    "connections": "member_id",
}
_OF_MEMBERS = ("members", "interactions", "connections")  # their shards have the rows of the same members


@dataclass(frozen=True, kw_only=True)
class WrittenTables:
    """What `TableWriter` wrote."""

    rows: dict[str, int]  # by table
    shards: int  # of the members and interactions
    earliest: int | None  # timestamp of the first interaction, microseconds since 1970, UTC
    latest: int | None  # and of the last one


class TableWriter:
    """Writes the files of one folder of tables (`brew_data.table_shards`).

    The rows of a table can come in batches of any size, and the tables in any order. Equal rows in equal order give
    equal tables, whatever the batches. Interactions are sorted by time if they are not.

    Args:
        folder: The folder; it is created. Tables that it has are removed.
        rows_per_shard: The number of rows above which a table has several files.
        run_bytes: The size of a run in memory.
        is_checked: The rows are those of a `Tables`, and are not checked again.
    """

    def __init__(
        self,
        folder: Path,
        *,
        rows_per_shard: int = ROWS_PER_SHARD,
        run_bytes: int = RUN_BYTES,
        is_checked: bool = False,
    ) -> None:
        self._folder, self._rows_per_shard, self._is_checked = folder, rows_per_shard, is_checked
        self._run_folder, self._run_bytes = folder / ".runs", run_bytes
        folder.mkdir(parents=True, exist_ok=True)
        for path in (self._run_folder, folder / ENTITY_FILE, *(folder / f"{name}.parquet" for name in TABLES)):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        self._runs: dict[str, _Runs] = {}
        self._rows: Counter[str] = Counter()
        self._bounds: list[int] = []  # of the timestamps

    def write(self, name: str, rows: pa.Table) -> None:
        """Append rows to a table.

        Args:
            name: The name of the table.
            rows: The rows, with the columns of `brew_data.schema.Tables`. All batches of a table have the same schema.

        Raises:
            DataError: A row breaks the schema. The message has its table, its number in the table, and the value.
        """
        first = self._rows[name]
        if not self._is_checked:
            check_rows(name, rows, first=first)
        self._rows[name] += rows.num_rows
        if name == "interactions" and rows.num_rows:
            bounds = pc.min_max(micros(rows)).as_py()
            times = [*self._bounds, bounds["min"], bounds["max"]]
            self._bounds = [min(times), max(times)]
        rows = storable(rows).append_column(_ROW, pa.array(np.arange(first, first + rows.num_rows)))
        self._append(name, _KEYS[name], rows)
        if not self._is_checked and name == "interactions":
            self._append("interaction ids", "interaction_id", rows.select(["interaction_id", _ROW]))
        if not self._is_checked and name == "connections":
            self._append("connected members", "other_id", rows.select(["other_id", _ROW]))

    def finish(self) -> WrittenTables:
        """Divide the tables into shards, and check what concerns several rows.

        Raises:
            DataError: A table that is not optional was not written, an id is repeated, or a row names a member or an
                entity that does not exist.
        """
        for name in TABLES:
            if name not in self._runs and name not in OPTIONAL_TABLES:
                raise DataError(f"table {name} is missing: the source has no rows of it. Write it, even if empty.")
        for name in ("entities", "oracle"):
            count = self._count(name)
            for shard in range(count if name in self._runs else 0):
                rows = self._shard(name, shard, count)
                if not self._is_checked and name == "entities":
                    check_unique(name, rows, "entity_id")
                self._save(name, rows, shard, count)
        self._runs.pop("oracle", None)
        entities = self._runs.pop("entities")
        ranges = batch_count(self._rows["entities"])
        write_index(
            self._folder / ENTITY_FILE,
            (entities.read(index, ranges).drop_columns(_ROW) for index in range(ranges)),
            entities.schema.remove(entities.schema.get_field_index(_ROW)),
        )
        del entities  # up to a run of it is in memory
        count = self._count("interactions")
        for shard in range(count):
            shards = {name: self._shard(name, shard, count) for name in _OF_MEMBERS if name in self._runs}
            if not self._is_checked:
                self._check_members(shards, shard, count)
            for name, rows in shards.items():
                self._save(name, _in_time(rows) if name == "interactions" else rows, shard, count)
        shutil.rmtree(self._run_folder, ignore_errors=True)
        earliest, latest = self._bounds or (None, None)
        return WrittenTables(rows=dict(self._rows), shards=count, earliest=earliest, latest=latest)

    def _append(self, name: str, key: str, rows: pa.Table) -> None:
        if name not in self._runs:
            self._runs[name] = _Runs(self._run_folder / name, key, rows.schema, self._run_bytes)
        schema = self._runs[name].schema
        if not rows.schema.equals(schema):
            raise DataError(
                f"table {name}: some rows have the columns {_text(rows.schema)}, but the rows before them have "
                f"{_text(schema)}. Give all batches of a table the same columns and types."
            )
        self._runs[name].append(rows)

    def _count(self, name: str) -> int:
        return shard_count(self._rows[name], self._rows_per_shard)

    def _shard(self, name: str, shard: int, count: int) -> pa.Table:
        return self._runs[name].read(shard, count)

    def _check_members(self, shards: dict[str, pa.Table], shard: int, count: int) -> None:
        """Check the members of one shard, what belongs to them, and as many interaction ids."""
        check_unique("members", shards["members"], "member_id")
        check_unique("interactions", self._shard("interaction ids", shard, count), "interaction_id")
        members = shards["members"]["member_id"].combine_chunks()
        _require("interactions", "member_id", shards["interactions"], members)
        named = pc.unique(shards["interactions"]["entity_id"])
        entities = EntityIndex(self._folder).take(named.to_pylist(), ["entity_id"])
        _require("interactions", "entity_id", shards["interactions"], entities["entity_id"].combine_chunks())
        if "connections" in shards:
            _require("connections", "member_id", shards["connections"], members)
            _require("connections", "other_id", self._shard("connected members", shard, count), members)
            check_connections_once(shards["connections"])

    def _save(self, name: str, rows: pa.Table, shard: int, count: int) -> None:
        path = shard_file(self._folder, name, shard, count)
        path.parent.mkdir(exist_ok=True)
        pq.write_table(rows.drop_columns(_ROW).combine_chunks(), path, compression="zstd")


class _Run(NamedTuple):
    """Rows that are sorted into buckets, those of one bucket in the order in which they were appended."""

    rows: pa.RecordBatch
    bucket_B: np.ndarray  # the buckets that have rows, ascending
    first_B: np.ndarray  # the first row of each, and the number of all rows

    def range(self, low: int, high: int) -> tuple[int, int]:
        """Return the places in `bucket_B` of the buckets from `low` to `high - 1`: the first one, and the end."""
        first, end = np.searchsorted(self.bucket_B, [low, high]).tolist()
        return first, end


class _Runs:
    """The rows of one table, sorted into buckets: runs in files, and the last run in memory.

    Args:
        folder: Folder of the files; it is created when the first one is written.
        key: The column whose hash decides the bucket: strings, or integers.
        schema: Of the rows, with `_ROW`.
        run_bytes: The size of a run in memory.
    """

    def __init__(self, folder: Path, key: str, schema: pa.Schema, run_bytes: int) -> None:
        self.schema = schema
        self._folder, self._key, self._run_bytes = folder, key, run_bytes
        self._files: list[tuple[Path, _Run]] = []  # without their rows
        self._last: _Run | None = None
        self._pending: list[pa.Table] = []
        self._bytes = 0

    def append(self, rows: pa.Table) -> None:
        """Append rows; not after `read`."""
        step = max(1, rows.num_rows * self._run_bytes // max(1, rows.nbytes))
        for start in range(0, max(1, rows.num_rows), step):
            part = rows.slice(start, step)
            self._pending.append(part)
            self._bytes += part.nbytes
            if self._bytes >= self._run_bytes:
                self._write()

    def read(self, index: int, count: int) -> pa.Table:
        """Return the rows of one of `count` equal ranges of the hash, in the order in which they were appended.

        Args:
            index: The number of the range.
            count: A power of two, at most `BUCKETS`.
        """
        if count == 1 and not self._files and self._last is None:
            return pa.concat_tables(self._pending)
        if self._pending:
            self._last = self._sort()
        width = BUCKETS // count
        low, high = index * width, (index + 1) * width
        batches: list[pa.RecordBatch] = []
        for path, run in self._files:
            first, end = run.range(low, high)
            if first < end:
                with pa.OSFile(str(path)) as source, pa.ipc.open_file(source) as file:
                    batches += [file.get_batch(place) for place in range(first, end)]
        if self._last is not None:
            first, end = self._last.range(low, high)
            start = int(self._last.first_B[first])
            batches.append(self._last.rows.slice(start, int(self._last.first_B[end]) - start))
        return pa.Table.from_batches(batches, self.schema).combine_chunks().sort_by(_ROW)

    def _sort(self) -> _Run:
        """Return the pending rows as a run."""
        rows = pa.concat_tables(self._pending).combine_chunks()
        self._pending, self._bytes = [], 0
        bucket_N = (_hashes(rows[self._key]) >> np.uint64(64 - BUCKETS.bit_length() + 1)).astype(np.int64)
        order_N = np.argsort(bucket_N, kind="stable")
        bucket_B, first_B = np.unique(bucket_N[order_N], return_index=True)
        return _Run(as_batch(rows.take(pa.array(order_N))), bucket_B, np.append(first_B, rows.num_rows))

    def _write(self) -> None:
        """Write the pending rows as a run, one record batch for each bucket."""
        run = self._sort()
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{len(self._files):06d}.arrow"
        options = pa.ipc.IpcWriteOptions(compression="lz4")
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, self.schema, options=options) as writer:
            for start, end in pairwise(run.first_B.tolist()):
                writer.write_batch(run.rows.slice(start, end - start))
        self._files.append((path, run._replace(rows=as_batch(self.schema.empty_table()))))


def _hashes(keys: pa.ChunkedArray) -> np.ndarray:
    """Return 64 bits of each key that are evenly distributed, uint64."""
    if pa.types.is_integer(keys.type):
        return hash_integers(keys.to_numpy())
    encoded = keys.combine_chunks().dictionary_encode()
    return hash_ids(encoded.dictionary.to_pylist())[encoded.indices.to_numpy()]


def _require(name: str, key: str, rows: pa.Table, known: pa.Array) -> None:
    """Check that all values of a column are known."""
    is_known = pc.is_in(rows[key], value_set=known)
    if (index := pc.index(is_known, False).as_py()) >= 0:
        raise unknown_id(name, key, rows[_ROW][index].as_py(), rows[key][index].as_py())


def _in_time(rows: pa.Table) -> pa.Table:
    """Return interactions in the order of their timestamps."""
    times = micros(rows).to_numpy()
    if np.all(times[1:] >= times[:-1]):
        return rows
    return rows.sort_by([("timestamp", "ascending"), ("interaction_id", "ascending")])


def _text(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name} {field.type}" for field in schema if field.name != _ROW)
