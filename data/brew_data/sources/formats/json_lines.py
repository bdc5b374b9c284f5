"""Files with one JSON object per line."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa

from brew_data.prompts.fields import field_text
from brew_data.sources.formats.base import ROWS_PER_BATCH, TEXT_LIMIT, BadRow, Batch, LineFinder
from brew_data.sources.formats.text_lines import NumberedLines
from brew_data.sources.locations import Location
from brew_platform.errors import DataError, UserError

__all__ = ["JsonLinesFile", "load_json"]

JSON_SAMPLE = 10_000  # lines whose keys count as the columns of a file


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
    def _lines(self) -> LineFinder:
        return LineFinder(self._rows)

    def _rows(self) -> Iterator[tuple[int, dict[str, Any] | BadRow]]:
        with self.location.open_stream() as stream:
            lines = NumberedLines(stream, self.encoding, self.location.name)
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
