"""The files of a folder of tables, and which rows they hold.

A small table is one file, `members.parquet`. A large one is a folder of that name, with one file per shard,
`members.parquet/part-00003-of-00064.parquet`. Shard k of n of the members, interactions and connections has the members
whose hash begins with k, in n equal ranges of the hash (`brew_data.split.hash_ids`). So a shard has all rows of its
members, and a part of the members (`is_in_part`) is a range of shards. `TableWriter` writes these files.
"""

import hashlib
import json
import math
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from brew_data.packed_bins.plan import digest_file
from brew_platform.errors import DataError

__all__ = [
    "BUCKETS",
    "ROWS_PER_SHARD",
    "TableShards",
    "as_batch",
    "read_files",
    "restore_structs",
    "shard_count",
    "shard_file",
    "storable",
    "table_files",
]

BUCKETS = 1024  # the largest number of shards
ROWS_PER_SHARD = 16_384  # interactions, so that two cores share the work on small data
FEW_SHARDS = 256  # from here on a shard has up to 4 times as many rows; a shard is what one task holds in memory
_NO_FIELDS = pa.struct([("_no_fields", pa.null())])  # a profile or an entity without fields, in a file


def shard_count(rows: int, rows_per_shard: int = ROWS_PER_SHARD) -> int:
    """Return the number of shards of a table: a power of two, which depends on the number of rows only."""
    few, many = (1 << max(0, (rows - 1) // size).bit_length() for size in (rows_per_shard, 4 * rows_per_shard))
    return min(BUCKETS, max(min(few, FEW_SHARDS), many))


def shard_file(folder: Path, name: str, shard: int, count: int) -> Path:
    """Return the path of one shard of a table."""
    path = folder / f"{name}.parquet"
    return path if count == 1 else path / f"part-{shard:05d}-of-{count:05d}.parquet"


def table_files(folder: Path, name: str) -> list[Path]:
    """Return the files of a table, in the order of their shards.

    Raises:
        DataError: The table is missing, or its shards are incomplete.
    """
    path = folder / f"{name}.parquet"
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise DataError(f"{path} does not exist. A folder of tables needs {name}.parquet; write it.")
    found = sorted(file.name for file in path.glob("*.parquet"))
    expected = [shard_file(folder, name, shard, len(found)) for shard in range(len(found))]
    if len(found) < 2 or found != [file.name for file in expected]:
        raise DataError(
            f"{path} has the files {', '.join(found[:3]) or 'none'}{', ...' if len(found) > 3 else ''}, which are not "
            f"all shards of a table, part-00000-of-00002.parquet to part-00001-of-00002.parquet or more. Copy the "
            f"folder again, or write the tables again."
        )
    return expected


def read_files(files: Sequence[Path]) -> pa.Table:
    """Read files of one table.

    Raises:
        DataError: A file is missing or is not Parquet.
    """
    tables = []
    for file in files:
        try:
            tables.append(restore_structs(pq.read_table(file)))
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{file} cannot be read as Parquet ({error}). Write it again.") from error
    return pa.concat_tables(tables)


def as_batch(rows: pa.Table) -> pa.RecordBatch:
    """Return a table as one record batch, also if it has no rows."""
    batches = rows.combine_chunks().to_batches()
    return batches[0] if batches else pa.RecordBatch.from_pylist([], schema=rows.schema)


def storable(table: pa.Table) -> pa.Table:
    """Replace structs without fields, which Parquet cannot store; `restore_structs` reverses it."""
    return _replace_structs(table, pa.struct([]), _NO_FIELDS)


def restore_structs(table: pa.Table) -> pa.Table:
    """Reverse `storable`."""
    return _replace_structs(table, _NO_FIELDS, pa.struct([]))


def _replace_structs(table: pa.Table, before: pa.StructType, after: pa.StructType) -> pa.Table:
    """Replace columns of the type `before`, whose values have no content, by columns of the type `after`."""
    for index, field in enumerate(table.schema):
        if field.type == before:
            table = table.set_column(index, field.name, pa.array([{}] * table.num_rows, after))
    return table


@dataclass(frozen=True)
class TableShards:
    """The shards of the members and their interactions in a folder of tables.

    Args:
        folder: The folder of the tables.
        count: The number of shards.
    """

    folder: Path
    count: int

    @staticmethod
    def open(folder: Path) -> "TableShards":
        """List the shards.

        Raises:
            DataError: A table is missing or incomplete, or members and interactions have different numbers of shards.
        """
        members, interactions = (len(table_files(folder, name)) for name in ("members", "interactions"))
        if members != interactions:
            raise DataError(
                f"{folder} has {members} shards of the members and {interactions} of the interactions, so that they "
                f"were not written together. Write the tables again."
            )
        return TableShards(folder, interactions)

    def read(self, name: str, shard: int) -> pa.Table:
        """Read one shard of the members, the interactions or the connections.

        Raises:
            DataError: The file is missing or is not Parquet.
        """
        return read_files([shard_file(self.folder, name, shard, self.count)])

    def of_part(self, part: tuple[float, float]) -> range:
        """Return the shards that can have members of a part (`brew_data.split.is_in_part`)."""
        return range(int(part[0] * self.count), math.ceil(min(part[1], 1.0) * self.count))

    def fingerprint(self, shards: Iterable[int]) -> str:
        """Return a hash of the contents of some shards and of all entities.

        Raises:
            DataError: A file cannot be read.
        """
        files = [
            shard_file(self.folder, name, shard, self.count) for shard in shards for name in ("members", "interactions")
        ]
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as threads:
            digests = list(threads.map(digest_file, [*files, self.folder / "entities.arrow"]))
        return hashlib.sha256(json.dumps(digests).encode()).hexdigest()
