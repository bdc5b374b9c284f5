"""Formats of input files: CSV, JSON lines and Parquet as batches of raw columns, with the line of every row.

CSV files are parsed by pyarrow. From the first row on that pyarrow cannot parse or decode, Python's csv module reads
the file and tells the line and the fault of each row.
"""

import codecs
import csv
import io
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Any, BinaryIO, Literal, NamedTuple, Protocol

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from brew_data.prompts.fields import field_text
from brew_data.sources.locations import BLOCK_BYTES, Location
from brew_platform.errors import DataError, UserError

__all__ = ["BadRow", "Batch", "DelimitedFile", "InputFile", "JsonLinesFile", "ParquetFile", "TextFormat", "load_json"]

ROWS_PER_BATCH = 50_000
LONGEST_VALUE = 2**31 - 1  # characters of a CSV value
JSON_SAMPLE = 10_000  # lines whose keys count as the columns of a JSONL file
SEPARATOR = "\x1f"  # replaces a delimiter of several characters
_REMEDIES = {  # by the first bytes of a file that is not text in its encoding
    codecs.BOM_UTF16_LE: "set `encoding` to that of the file (utf-16)",
    codecs.BOM_UTF16_BE: "set `encoding` to that of the file (utf-16)",
    b"\x1f\x8b": "the file is compressed by gzip; name it .gz",
    b"PK\x03\x04": "the file is a ZIP archive or an Excel sheet; extract or export the table",
    b"PAR1": "the file is Parquet; set `format` to parquet",
}
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
            lines = _NumberedLines(stream, self.format.encoding, self.location.name)
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
    def _lines(self) -> "_LineFinder":
        return _LineFinder(self.rows)

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
            yield from self._parsed(_NumberedLines(stream, self.format.encoding, self.location.name))

    def _parsed(self, lines: "_NumberedLines") -> Iterator[tuple[int, list[str] | BadRow]]:
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


class _NumberedLines:
    """The decoded lines of a stream. Lines that cannot be decoded are left out and appended to `bad`.

    As for pyarrow, a line ends with LF, CRLF or CR.
    """

    def __init__(self, stream: BinaryIO, encoding: str, name: str) -> None:
        self.number = 0  # of the last line that was read
        self.start = 0  # of the first line since it was set to 0
        self.bad: list[BadRow] = []
        self._encoding, self._name = encoding, name
        self._is_ascii_compatible = "\n".encode(encoding) == b"\n"
        self._lines: Iterator[bytes | str] = (
            _split_lines(stream)
            if self._is_ascii_compatible
            else io.TextIOWrapper(stream, encoding=encoding, newline="")
        )

    def __iter__(self) -> Iterator[str]:
        return self

    def is_at_end(self) -> bool:
        """Whether no line is left; the next line is kept for the reader."""
        line = next(self._lines, None)
        if line is not None:
            self._lines = itertools.chain([line], self._lines)
        return line is None

    def __next__(self) -> str:
        while True:
            try:
                line = next(self._lines)
                self.number += 1
                text = line if isinstance(line, str) else line.decode(self._encoding)
                self.start = self.start or self.number
                return text.removeprefix("\ufeff") if self.number == 1 else text
            except UnicodeError as error:
                if not isinstance(error, UnicodeDecodeError) or not self._is_ascii_compatible:
                    raise DataError(
                        f"{self._name}: the text after line {self.number} is not {self._encoding} ({error}). It is cut "
                        f"short or damaged, or `encoding` is not that of the file."
                    ) from error
                detail = f"byte 0x{error.object[error.start]:02x} at position {error.start}"
                raw = error.object[:TEXT_LIMIT].decode("latin-1").rstrip("\r\n")
                remedy = "set `encoding` to that of the file (e.g. latin-1)"
                if self.number == 1:
                    remedy = next((r for start, r in _REMEDIES.items() if error.object.startswith(start)), remedy)
                reason = f"the line is not {self._encoding} text; {remedy}"
                self.bad.append(BadRow(self.number, reason, detail, raw))


def _split_lines(stream: BinaryIO) -> Iterator[bytes]:
    for line in stream:
        yield from (line.splitlines(keepends=True) if b"\r" in line else (line,))


class _LineFinder:
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


@dataclass(frozen=True)
class JsonLinesFile:
    """A file with one JSON object per line."""

    location: Location
    encoding: str = "utf-8"

    def columns(self) -> list[str]:
        names: dict[str, None] = {}
        first: BadRow | None = None
        for count, (_, row) in enumerate(self._rows(), 1):
            if isinstance(row, BadRow):
                first = first or row
            else:
                names.update(dict.fromkeys(_paths(row)))
            if count == JSON_SAMPLE:
                break
        if names:
            return list(names)
        if first is None:
            raise DataError(f"{self.location.name} is empty. A file needs a JSON object on each line.")
        raise DataError(
            f"{self.location.name} has no line with a JSON object; line {first.line}: {first.reason} ({first.detail}). "
            f"Write each row as one object on a line of its own."
        )

    def batches(self, columns: Sequence[str]) -> Iterator[Batch]:
        paths = [(name, name.split(".")) for name in dict.fromkeys(columns)]
        values: dict[str, list[Any]] = {name: [] for name, _ in paths}
        bad: list[BadRow] = []
        index = pending = 0
        for _, row in self._rows():
            if isinstance(row, BadRow):
                bad.append(row)
            else:
                index += 1
                pending += 1
                for name, path in paths:
                    values[name].append(_at(row, name, path))
            if pending + len(bad) >= ROWS_PER_BATCH:
                yield _json_batch(values, index - pending, bad)
                values, bad, pending = {name: [] for name, _ in paths}, [], 0
        if pending or bad:
            yield _json_batch(values, index - pending, bad)

    def lines(self, rows: Sequence[int]) -> list[int]:
        return self._lines.find(rows)

    @cached_property
    def _lines(self) -> "_LineFinder":
        return _LineFinder(self._rows)

    def _rows(self) -> Iterator[tuple[int, dict[str, Any] | BadRow]]:
        with self.location.open_stream() as stream:
            lines = _NumberedLines(stream, self.encoding, self.location.name)
            for text in lines:
                yield from ((problem.line, problem) for problem in lines.bad)
                lines.bad.clear()
                if not text.strip():
                    continue
                try:
                    row = load_json(text)
                    reason, detail = "the line is not a JSON object", f"a {type(row).__name__}"
                except (ValueError, RecursionError) as error:
                    row, reason, detail = None, "the line is not valid JSON", str(error)
                if not isinstance(row, dict):
                    row = BadRow(lines.number, reason, detail, text.strip()[:TEXT_LIMIT])
                yield lines.number, row
            yield from ((problem.line, problem) for problem in lines.bad)


def _paths(row: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in row.items():
        yield f"{prefix}{key}"
        if isinstance(value, dict):
            yield from _paths(value, f"{prefix}{key}.")


def _at(row: dict[str, Any], name: str, path: list[str]) -> Any:
    if name in row:  # a key whose own name has a dot comes before a path
        return row[name]
    value: Any = row
    for key in path:
        if not isinstance(value, dict):
            return None
        value = value.get(key)
    return value


def load_json(text: str) -> Any:
    """Parse a JSON text.

    Raises:
        ValueError: It is not JSON, an object has a key twice, or a text has half of a character.
        RecursionError: It is nested too deeply.
    """
    value = json.loads(text, object_pairs_hook=_unique)
    if "\\ud" in text or "\\uD" in text:
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise ValueError("half of a surrogate pair is not text") from None
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        names = [name for name, _ in pairs]
        repeated = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {repeated!r} occurs more than once")
    return row


def _json_batch(columns: dict[str, list[Any]], first: int, bad: list[BadRow]) -> Batch:
    arrays: dict[str, pa.Array] = {}
    faults: dict[int, tuple[str, str]] = {}
    for name, values in columns.items():
        try:
            arrays[name] = pa.array(values)
        except (pa.ArrowException, OverflowError, ValueError, TypeError):  # values of several types, or large integers
            written: list[str | None] = []
            for row, value in enumerate(values):
                try:
                    written.append(value if isinstance(value, str) else field_text(name, value) or None)
                except UserError:  # an object, a nested list, or an infinite number
                    written.append(None)
                    faults[row] = (f"column {name!r} has a value without a text form", repr(value))
            arrays[name] = pa.array(written, pa.string())
    return Batch(pa.table(arrays), first, bad, faults)


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
