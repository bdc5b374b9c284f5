"""The protocol of an input file, and what its readers share."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import pyarrow as pa

from brew_data.sources.locations import Location

__all__ = ["ROWS_PER_BATCH", "TEXT_LIMIT", "BadRow", "Batch", "InputFile", "LineFinder"]

ROWS_PER_BATCH = 50_000
TEXT_LIMIT = 200  # characters of a malformed row that are kept


class BadRow(NamedTuple):
    """A row that cannot be parsed."""

    line: int  # from 1
    reason: str
    detail: str
    text: str


class Batch(NamedTuple):
    """Consecutive rows of a file.

    `table` has the requested columns; `first` is the index of its first row among the rows of the file that can be
    parsed. `bad` are rows that cannot be parsed. `faults` are rows of the table, by their index in it, that have a
    value without a text form: the reason, and the value.
    """

    table: pa.Table
    first: int
    bad: list[BadRow]
    faults: Mapping[int, tuple[str, str]] = MappingProxyType({})


class InputFile(Protocol):
    """A file with rows."""

    @property
    def location(self) -> Location: ...

    def columns(self) -> list[str]:
        """Return the names of the columns; nested ones with dots, as `item.title`."""

    def batches(self, columns: Sequence[str]) -> Iterator[Batch]:
        """Read these columns of all rows. Columns keep the type that they have in the file; CSV columns are text."""

    def lines(self, rows: Sequence[int]) -> list[int]:
        """Return the line, from 1, of rows by their index among the rows that can be parsed."""


class LineFinder:
    """Finds the lines of rows by reading the file again; rows in rising order are found in one pass."""

    def __init__(self, read: Callable[[], Iterator[tuple[int, Any]]]) -> None:
        self._read = read
        self._index = -1  # of the row that was read last
        self._line = 0
        self._rows: Iterator[tuple[int, Any]] = iter(())

    def find(self, rows: Sequence[int]) -> list[int]:
        found: dict[int, int] = {}
        for target in sorted(set(rows)):
            if target < self._index or self._index < 0:
                self._rows, self._index = self._read(), -1
            while self._index < target:
                self._line, row = next(self._rows)
                self._index += not isinstance(row, BadRow)
            found[target] = self._line
        return [found[row] for row in rows]
