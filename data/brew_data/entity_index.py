"""Looks up entities by id in `entities.arrow`, which all processes of a machine share in memory.

The file is an uncompressed Arrow IPC file. Its record batches are equal ranges of the hash of the id
(`brew_data.split.hash_ids`), 2**n of them, and the rows of each are sorted by the hash. A lookup maps the file into
memory and reads the pages of the rows that it takes: neither memory nor time grows with the number of entities.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from brew_data.split import hash_ids
from brew_data.table_shards import BUCKETS, as_batch, restore_structs
from brew_platform.errors import DataError

__all__ = ["ENTITY_FILE", "EntityIndex", "batch_count", "write_index"]

ENTITY_FILE = "entities.arrow"
ROWS_PER_BATCH = 16_384
_HASH = pa.field("_hash", pa.uint64())


def batch_count(rows: int) -> int:
    """Return the number of record batches for a number of entities: a power of two, at most `BUCKETS`."""
    return min(BUCKETS, 1 << max(0, (rows - 1) // ROWS_PER_BATCH).bit_length())


def write_index(path: Path, ranges: Iterable[pa.Table], schema: pa.Schema) -> None:
    """Write the file.

    Args:
        path: The file.
        ranges: The entities of each range of the hash, in order; a power of two of them.
        schema: Of the ranges.
    """
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema.insert(0, _HASH)) as writer:
        for rows in ranges:
            hash_N = hash_ids(rows["entity_id"].to_pylist())
            order_N = np.argsort(hash_N, kind="stable")
            sorted_rows = rows.take(pa.array(order_N)).add_column(0, _HASH, pa.array(hash_N[order_N]))
            writer.write_batch(as_batch(sorted_rows))


class EntityIndex:
    """The entities of a folder of tables.

    Args:
        folder: The folder of the file.
        name: The name of the file.

    Raises:
        DataError: The file is missing.
    """

    def __init__(self, folder: Path, name: str = ENTITY_FILE) -> None:
        self._path = folder / name
        if not self._path.is_file():
            raise DataError(
                f"{self._path} does not exist: the tables are of another release, or were not written by "
                f"`write_tables` or `TableWriter`. Write them again."
            )

    def take(self, ids: Sequence[str], columns: Sequence[str] | None = None) -> pa.Table:
        """Read the entities with these ids.

        Args:
            ids: Distinct ids.
            columns: The columns to read; None: all.

        Returns:
            Rows of the entities table in no particular order. Unknown ids have no row.

        Raises:
            DataError: The file is damaged.
        """
        hash_N = np.sort(hash_ids(ids))
        try:
            with pa.memory_map(str(self._path)) as source, pa.ipc.open_file(source) as file:
                schema = file.schema.remove(0)
                if columns is not None:
                    schema = pa.schema([schema.field(name) for name in columns])
                batches = list(_rows(file, hash_N, schema.names))
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{self._path} is damaged ({error}). Write the tables again.") from error
        return restore_structs(pa.Table.from_batches(batches, schema))


def _rows(file: pa.ipc.RecordBatchFileReader, hash_N: np.ndarray, columns: list[str]) -> Iterator[pa.RecordBatch]:
    """Take the rows with these ascending hashes from the batches of a file."""
    shift = np.uint64(65 - file.num_record_batches.bit_length())
    batch_N = (hash_N >> shift).astype(np.int64) if shift < 64 else np.zeros(len(hash_N), np.int64)
    for index in np.unique(batch_N).tolist():
        searched = hash_N[np.searchsorted(batch_N, index) : np.searchsorted(batch_N, index, side="right")]
        batch = file.get_batch(index)
        stored = batch.column(0).to_numpy()
        first, last = np.searchsorted(stored, searched), np.searchsorted(stored, searched, side="right")
        # Different ids can have one hash. Each row is taken once.
        places = np.unique(np.concatenate([np.arange(start, end) for start, end in zip(first, last, strict=True)]))
        if len(places):
            yield batch.select(columns).take(pa.array(places.astype(np.int64)))
