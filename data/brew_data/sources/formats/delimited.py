"""CSV, TSV and similar files.

pyarrow parses them. From the first row on that pyarrow cannot parse or decode, Python's csv module reads the file and
tells the line and the fault of each row.
"""

import codecs
import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, BinaryIO, Literal

import pyarrow as pa
import pyarrow.csv as pa_csv

from brew_data.sources.formats.base import ROWS_PER_BATCH, TEXT_LIMIT, BadRow, Batch, LineFinder
from brew_data.sources.formats.text_lines import NumberedLines
from brew_data.sources.locations import BLOCK_BYTES, Location
from brew_platform.errors import DataError

__all__ = ["DelimitedFile", "TextFormat"]

LONGEST_VALUE = 2**31 - 1  # characters of a CSV value
SEPARATOR = "\x1f"  # replaces a delimiter of several characters


@dataclass(frozen=True, kw_only=True)
class TextFormat:
    """The layout of a delimited text file.

    Args:
        delimiter: Between values; one or more characters.
        quote: Around values that contain the delimiter; "": values are never quoted.
        encoding: Of the text, a name that Python knows.
        header: Names of the columns, for a file without a header line.
    """

    delimiter: str = ","
    quote: str = '"'
    encoding: str = "utf-8"
    header: Sequence[str] = ()


@dataclass(frozen=True)
class DelimitedFile:
    """A CSV, TSV or similar file."""

    location: Location
    format: TextFormat = field(default_factory=TextFormat)

    def columns(self) -> list[str]:
        return list(self.format.header) or self._header[0]

    @cached_property
    def _header(self) -> tuple[list[str], int]:
        """The names of the columns, and the number of lines up to the end of the header; ([], 0) without a header."""
        if self.format.header:
            return [], 0
        with self._open() as stream:
            lines = NumberedLines(stream, self.format.encoding, self.location.name)
            for _, row in self._parsed(lines):
                if isinstance(row, BadRow):
                    raise DataError(
                        f"{self.location.name} line {row.line}: {row.reason}: {row.detail}. Correct the header."
                    )
                return row, lines.number
        raise DataError(f"{self.location.name} is empty. A file needs a header line and rows.")

    def batches(self, columns: Sequence[str]) -> Iterator[Batch]:
        names = self.columns()
        read = 0
        try:
            for table in self._fast_tables(names, columns):
                yield Batch(table, read, [])
                read += table.num_rows
        except (pa.ArrowInvalid, UnicodeError):
            yield from self._slow_batches(names, columns, start=read)

    def lines(self, rows: Sequence[int]) -> list[int]:
        return self._lines.find(rows)

    @cached_property
    def _lines(self) -> LineFinder:
        return LineFinder(self.rows)

    def _fast_tables(self, names: list[str], columns: Sequence[str]) -> Iterator[pa.Table]:
        encoding = codecs.lookup(self.format.encoding).name
        delimiter = SEPARATOR if len(self.format.delimiter) > 1 else self.format.delimiter
        with self._open() as stream:
            counted = _Counted(stream, self.format.quote.encode())
            try:
                reader = pa_csv.open_csv(
                    pa.PythonFile(counted, mode="r"),
                    read_options=pa_csv.ReadOptions(
                        block_size=BLOCK_BYTES,
                        encoding="utf8" if encoding == "utf-8" else encoding,
                        column_names=names,
                        skip_rows=self._header[1],
                    ),
                    parse_options=pa_csv.ParseOptions(
                        delimiter=delimiter,
                        quote_char=self.format.quote or False,
                        newlines_in_values=bool(self.format.quote),
                    ),
                    convert_options=pa_csv.ConvertOptions(
                        include_columns=list(dict.fromkeys(columns)),
                        column_types={name: pa.binary() for name in columns},
                        strings_can_be_null=False,
                    ),
                )
            except pa.ArrowInvalid as error:
                if "Empty CSV" in str(error):
                    return
                raise
            for batch in reader:
                # Binary columns make the check of the encoding ours, a batch at a time.
                table = pa.Table.from_batches([batch])
                yield pa.table({name: table[name].cast(pa.string()) for name in table.column_names})
            if counted.count % 2:  # an unclosed quote, or a lone quote inside a value
                for _ in self._rows():
                    pass

    def _slow_batches(self, names: list[str], columns: Sequence[str], *, start: int) -> Iterator[Batch]:
        places = [names.index(name) for name in columns]
        values: list[list[str]] = []
        bad: list[BadRow] = []
        index = 0
        for _, row in self.rows():
            if isinstance(row, BadRow):
                bad.append(row)
            else:
                index += 1
                if index > start:
                    values.append([row[place] for place in places])
            if len(values) + len(bad) >= ROWS_PER_BATCH:
                yield Batch(_text_table(columns, values), index - len(values), bad)
                values, bad = [], []
        if values or bad:
            yield Batch(_text_table(columns, values), index - len(values), bad)

    def rows(self) -> Iterator[tuple[int, list[str] | BadRow]]:
        """Yield the rows after the header with the line that each starts on, parsed by Python."""
        rows = self._rows()
        expected = len(self.format.header or self.columns())
        if not self.format.header:
            next(rows)
        for line, row in rows:
            if not isinstance(row, BadRow) and len(row) != expected:
                text = self.format.delimiter.join(row)[:TEXT_LIMIT]
                detail = f"{len(row)} instead of {expected}"
                yield line, BadRow(line, "the row has another number of values than the header", detail, text)
            else:
                yield line, row

    def _rows(self) -> Iterator[tuple[int, list[str] | BadRow]]:
        """Yield each non-empty row with the line that it starts on, parsed by Python."""
        with self._open() as stream:
            yield from self._parsed(NumberedLines(stream, self.format.encoding, self.location.name))

    def _parsed(self, lines: NumberedLines) -> Iterator[tuple[int, list[str] | BadRow]]:
        delimiter = SEPARATOR if len(self.format.delimiter) > 1 else self.format.delimiter
        quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if self.format.quote else csv.QUOTE_NONE
        csv.field_size_limit(LONGEST_VALUE)  # Python's own limit is 131,072 characters
        quote = self.format.quote or None
        reader = csv.reader(lines, delimiter=delimiter, quotechar=quote, quoting=quoting, strict=False)
        while True:
            lines.start = 0
            try:
                row = next(reader, None)
            except csv.Error as error:
                row = []
                lines.bad.append(BadRow(lines.start, "the row cannot be parsed", str(error), ""))
            yield from ((problem.line, problem) for problem in lines.bad)
            lines.bad.clear()
            if row is None:
                return
            if lines.start < lines.number and any(value.endswith(("\n", "\r")) for value in row) and lines.is_at_end():
                raise DataError(
                    f"{self.location.name} line {lines.start}: a quote opens in this row and is not closed before the "
                    f"end of the file, so that the rows after it would be read as one value. Close it, or set "
                    f'`quote: ""` if values are not quoted.'
                )
            if row:
                yield lines.start, row

    def _open(self) -> BinaryIO:
        stream = self.location.open_stream()
        if len(self.format.delimiter) > 1:
            return io.BufferedReader(_Replaced(stream, self.format.delimiter.encode(), SEPARATOR.encode()), BLOCK_BYTES)
        return stream


def _text_table(columns: Sequence[str], rows: list[list[str]]) -> pa.Table:
    lists = list(zip(*rows, strict=True)) if rows else [()] * len(columns)
    return pa.table({name: pa.array(values, pa.string()) for name, values in zip(columns, lists, strict=True)})


class _Counted(io.RawIOBase):
    """A stream that counts a byte."""

    def __init__(self, stream: BinaryIO, byte: bytes) -> None:
        self._stream = stream
        self._byte = byte
        self.count = 0

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        block = self._stream.read(size)
        self.count += block.count(self._byte) if self._byte else 0
        return block


class _Replaced(io.RawIOBase):
    """A stream in which a sequence of bytes is replaced by another."""

    def __init__(self, stream: BinaryIO, old: bytes, new: bytes) -> None:
        self._stream, self._old, self._new = stream, old, new
        self._pending = b""
        self._rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._pending:
            block = self._stream.read(BLOCK_BYTES)
            *parts, last = (self._rest + block).split(self._old)
            keep = len(self._old) - 1 if block else 0  # the start of a sequence that the next block ends
            keep = min(keep, len(last))
            self._rest = last[len(last) - keep :] if keep else b""
            self._pending = self._new.join([*parts, last[: len(last) - keep]])
            if not block:
                break
        size = min(len(buffer), len(self._pending))
        buffer[:size] = self._pending[:size]
        self._pending = self._pending[size:]
        return size

    def close(self) -> None:
        if not self.closed:
            self._stream.close()
        super().close()
