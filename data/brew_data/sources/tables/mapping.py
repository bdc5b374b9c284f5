"""Maps batches of raw columns to the columns of a table, and sends rows that break the schema to the quarantine."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from brew_data.problems import Problem, suggest
from brew_data.sources.formats.base import Batch, InputFile
from brew_data.sources.quarantine import Quarantine
from brew_data.sources.tables.config import TableConfig
from brew_data.sources.time_values import times
from brew_data.sources.values import Converted, booleans, find_unwritable, floats, identifiers, texts

__all__ = ["FILE", "ROW", "drop_rows", "find_mapping_problems", "map_file"]

FILE, ROW = "__file", "__row"  # columns of the mapped tables: index of the file, and of the row in it
SAMPLE_ROWS = 1_000


_TYPES = {"timestamp": pa.int64(), "created_at": pa.int64(), "opted_out": pa.bool_()}  # of our columns; others are text


class _Output(NamedTuple):
    name: str  # of our column or field
    source: str | None  # column of the file
    constant: str | None
    is_field: bool


def _outputs(config: TableConfig) -> list[_Output]:
    return [
        *(_Output(name, source, None, False) for name, source in config.columns.items()),
        *(_Output(name, None, value, False) for name, value in config.constants.items()),
        *(_Output(name, source, None, True) for name, source in config.fields_mapping.items()),
    ]


def find_mapping_problems(table: str, config: TableConfig, file: InputFile) -> list[Problem]:
    """Check the columns of a file against the mapping, without reading all rows."""
    name = file.location.name
    known = file.columns()
    if repeated := sorted({column for column in known if known.count(column) > 1}):
        message = f"columns {', '.join(map(repr, repeated))} occur more than once in the header. Rename them."
        return [Problem(table=name, message=message)]
    if any("\x00" in column for column in known):
        message = "the header has NUL characters: the file is UTF-16. Set encoding to utf-16-le or utf-16-be."
        return [Problem(table=name, message=message)]
    if len(known) == 1 and (found := [separator for separator in ";\t|" if separator in known[0]]):
        message = f"the header is one column, {known[0]!r}. Set delimiter to {found[0]!r}."
        return [Problem(table=name, message=message)]
    problems = []
    present = []
    for output in _outputs(config):
        if output.source is None:
            continue
        if output.source not in known:
            message = f"{table}.{output.name}: column {output.source!r} is missing. {suggest(output.source, known)}"
            problems.append(Problem(table=name, message=message))
        else:
            present.append(output)
    batch = next(iter(file.batches([str(output.source) for output in present])), None) if present else None
    if batch is None:
        return problems
    for output in present:
        try:
            _convert(batch.table[output.source].slice(0, SAMPLE_ROWS), output, config)
        except TypeError as error:
            below = [column for column in known if column.startswith(f"{output.source}.")]
            hint = f" Name a column inside it: {', '.join(below)}." if below else " Convert it to text or numbers."
            message = (
                f"{table}.{output.name}: column {output.source!r} is of type {error}, which has no text form.{hint}"
            )
            problems.append(Problem(table=name, message=message))
    return problems


def map_file(
    table: str, config: TableConfig, file: InputFile, number: int, quarantine: Quarantine
) -> Iterator[pa.Table]:
    """Map all rows of a file.

    Args:
        table: interactions, entities, members or connections.
        config: The mapping.
        file: The file; `find_mapping_problems` found nothing.
        number: Index of the file, kept in column `FILE`.
        quarantine: Receives the rows that break the schema.

    Returns:
        Tables with our columns, the struct `fields` where the mapping has fields, and `FILE` and `ROW`.
    """
    outputs = _outputs(config)
    sources = list(dict.fromkeys(output.source for output in outputs if output.source is not None))
    for batch in file.batches(sources):
        quarantine.count_rows(table, batch.table.num_rows + len(batch.bad))
        for row in batch.bad:
            quarantine.add(
                table, file=file.location.name, line=row.line, reason=row.reason, detail=row.detail, values=row.text
            )
        if batch.table.num_rows or not sources:
            yield _map_batch(table, config, outputs, batch, file, number, quarantine)


def drop_rows(
    table: str,
    rows: pa.Table,
    keep: np.ndarray,
    reason: str,
    files: Sequence[InputFile],
    quarantine: Quarantine,
    key: str,
) -> pa.Table:
    """Quarantine mapped rows.

    Args:
        table: interactions, entities, members or connections.
        rows: With `FILE` and `ROW`.
        keep: bool [rows]; rows that stay.
        reason: Why the others go.
        files: The files of the table.
        quarantine: Receives the others.
        key: The column whose value is at fault.
    """
    if keep.all():
        return rows
    gone = rows.filter(pa.array(~keep))
    for number in sorted(set(gone[FILE].to_pylist())):
        of_file = gone.filter(pc.equal(gone[FILE], number))
        file = files[number]
        values = of_file.drop([FILE, ROW]).to_pylist()
        for line, row in zip(file.lines(of_file[ROW].to_pylist()), values, strict=True):
            quarantine.add(table, file=file.location.name, line=line, reason=reason, detail=repr(row[key]), values=row)
    return rows.filter(pa.array(keep))


def _map_batch(
    table: str,
    config: TableConfig,
    outputs: Sequence[_Output],
    batch: Batch,
    file: InputFile,
    number: int,
    quarantine: Quarantine,
) -> pa.Table:
    count = batch.table.num_rows
    columns: dict[str, pa.Array] = {}
    fields: dict[str, pa.Array] = {}
    faults: dict[int, tuple[str, str]] = dict(batch.faults)
    for output in outputs:
        if output.source is None:
            values = pa.repeat(pa.scalar(output.constant, pa.string()), count)
            converted = _typed(values, output, config)
        else:
            converted = _convert_any(batch.table[output.source], output, config)
        label = f"{output.name} (column {output.source!r})" if output.source else output.name
        for row, (reason, detail) in converted.faults.items():
            faults.setdefault(row, (f"{label} {reason}", detail))
        if output.name in config.REQUIRED and not output.is_field and converted.values.null_count:
            for row in np.flatnonzero(pc.is_null(converted.values).to_numpy(zero_copy_only=False)).tolist():
                faults.setdefault(row, (f"{label} is absent", ""))
        (fields if output.is_field else columns)[output.name] = converted.values
    if faults:
        rows = sorted(faults)
        raw = _raw_values(batch.table.take(rows))
        for row, line, values in zip(rows, file.lines([batch.first + row for row in rows]), raw, strict=True):
            reason, detail = faults[row]
            quarantine.add(table, file=file.location.name, line=line, reason=reason, detail=detail, values=values)
    mapped = pa.table(
        {
            **columns,
            **({"fields": _struct(fields)} if fields else {}),
            FILE: pa.repeat(pa.scalar(number, pa.int32()), count),
            ROW: pa.array(np.arange(batch.first, batch.first + count)),
        }
    )
    if faults:
        keep = np.ones(count, bool)
        keep[list(faults)] = False
        mapped = mapped.filter(pa.array(keep))
    return mapped


def _raw_values(rows: pa.Table) -> list[dict[str, Any]]:
    """Return rows as they were read; times that Python cannot represent become numbers in the unit of their type."""
    try:
        return list(rows.to_pylist())
    except (ValueError, OverflowError):
        return list(pa.table({name: _as_numbers(rows[name]) for name in rows.column_names}).to_pylist())


def _as_numbers(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if pa.types.is_date32(column.type):
        return column.cast(pa.int32())
    is_time = pa.types.is_timestamp(column.type) or pa.types.is_date64(column.type)
    return column.cast(pa.int64()) if is_time else column


def _struct(fields: Mapping[str, pa.Array]) -> pa.StructArray:
    return pa.StructArray.from_arrays(list(fields.values()), names=list(fields))


def _convert_any(column: pa.ChunkedArray, output: _Output, config: TableConfig) -> Converted:
    """Convert a column; every value of a type that has no text form is a fault."""
    try:
        return _convert(column, output, config)
    except TypeError as error:
        rows = np.flatnonzero(pc.is_valid(column).to_numpy()).tolist()
        kind = _TYPES.get("" if output.is_field else output.name, pa.string())
        return Converted(
            pa.nulls(len(column), kind), dict.fromkeys(rows, (f"is of type {error}, which has no text form", ""))
        )


def _convert(column: pa.ChunkedArray, output: _Output, config: TableConfig) -> Converted:
    if output.name in config.thresholds:
        numbers, faults = floats(column, config.missing)
        steps = config.thresholds[output.name]
        place = (
            np.searchsorted([step.at_least for step in steps], numbers.to_numpy(zero_copy_only=False), side="right") - 1
        )
        present = pc.is_valid(numbers).to_numpy(zero_copy_only=False)
        for row in np.flatnonzero(present & (place < 0)).tolist():
            faults[row] = (f"is below the first threshold, {steps[0].at_least:g}", repr(numbers[row].as_py()))
        chosen = pa.array(np.maximum(place, 0), mask=~(present & (place >= 0)))
        return Converted(pa.array([step.value for step in steps]).take(chosen), faults)
    if output.name in config.values:
        written = texts(column, config.missing)
        mapping = config.values[output.name]
        index = pc.index_in(written, value_set=pa.array(list(mapping), pa.string()))
        bad = np.flatnonzero(pc.and_(pc.is_valid(written), pc.is_null(index)).to_numpy(zero_copy_only=False))
        faults = {row: ("has a value that `values` does not list", repr(written[row].as_py())) for row in bad.tolist()}
        return _typed(pa.array(list(mapping.values()), pa.string()).take(index), output, config, faults)
    return _typed(column, output, config)


def _typed(
    column: pa.Array, output: _Output, config: TableConfig, faults: dict[int, tuple[str, str]] | None = None
) -> Converted:
    if output.is_field:
        converted = Converted(texts(column, config.missing), find_unwritable(column))
    elif output.name in ("timestamp", "created_at"):
        converted = times(column, config.time_format, config.missing)
    elif output.name == "opted_out":
        converted = booleans(column, config.missing)
    elif output.name in ("member_id", "entity_id", "author_id", "other_id"):
        converted = identifiers(column, config.missing)
    else:
        converted = Converted(texts(column, config.missing), {})
    return Converted(converted.values, {**converted.faults, **(faults or {})})
