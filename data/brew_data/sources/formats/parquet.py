"""Parquet files."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from brew_data.sources.formats.base import ROWS_PER_BATCH, Batch
from brew_data.sources.locations import Location
from brew_platform.errors import DataError

__all__ = ["ParquetFile"]


@dataclass(frozen=True)
class ParquetFile:
    """A Parquet file; the line of a row is its number, from 1."""

    location: Location

    def columns(self) -> list[str]:
        with self._open() as file:
            return [name for field_ in file.schema_arrow for name in _schema_paths(field_)]

    def batches(self, columns: Sequence[str]) -> Iterator[Batch]:
        with self._open() as file:
            top = set(file.schema_arrow.names)
            # A column whose own name has a dot comes before a path into a struct.
            paths = {name: [name] if name in top else name.split(".") for name in dict.fromkeys(columns)}
            read = 0
            batches = file.iter_batches(
                batch_size=ROWS_PER_BATCH, columns=list(dict.fromkeys(path[0] for path in paths.values()))
            )
            while True:
                try:
                    batch = next(batches, None)
                except (OSError, pa.ArrowException) as error:
                    raise self._unreadable(error) from error
                if batch is None:
                    return
                table = pa.Table.from_batches([batch])
                yield self._valid_batch({name: _nested(table, path) for name, path in paths.items()}, read)
                read += batch.num_rows

    def lines(self, rows: Sequence[int]) -> list[int]:
        return [row + 1 for row in rows]

    def _open(self) -> pq.ParquetFile:
        try:
            return pq.ParquetFile(self.location.filesystem.open_input_file(self.location.path))
        except (OSError, pa.ArrowException) as error:
            raise self._unreadable(error) from error

    def _unreadable(self, error: Exception) -> DataError:
        return DataError(f"{self.location.name} cannot be read as Parquet ({error}). Write it again, or set `format`.")

    def _valid_batch(self, columns: dict[str, pa.ChunkedArray], first: int) -> Batch:
        """Return a batch; texts that are not UTF-8, which pyarrow does not check, become null and faults."""
        faults: dict[int, tuple[str, str]] = {}
        for name, column in columns.items():
            try:
                column.validate(full=True)
            except pa.ArrowInvalid:
                if not pa.types.is_string(column.type) and not pa.types.is_large_string(column.type):
                    raise DataError(
                        f"{self.location.name}: column {name!r} has text that is not UTF-8. Write the file again."
                    ) from None
                texts: list[str | None] = []
                for row, value in enumerate(column.cast(pa.large_binary()).to_pylist()):
                    try:
                        texts.append(None if value is None else value.decode())
                    except UnicodeDecodeError:
                        texts.append(None)
                        faults[row] = (f"column {name!r} has text that is not UTF-8", repr(value))
                columns[name] = pa.chunked_array([pa.array(texts, pa.string())])
        return Batch(pa.table(columns), first, [], faults)


def _schema_paths(field_: pa.Field, prefix: str = "") -> Iterator[str]:
    yield f"{prefix}{field_.name}"
    if pa.types.is_struct(field_.type):
        for inner in field_.type:
            yield from _schema_paths(inner, f"{prefix}{field_.name}.")


def _nested(table: pa.Table, path: list[str]) -> pa.ChunkedArray:
    column = table[path[0]]
    return pc.struct_field(column, path[1:]) if len(path) > 1 else column
