"""Writes the tables of a data set together with the rows of a further day."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from brew_data.schema import OPTIONAL_TABLES, TABLES, micros
from brew_data.table_shards import read_files, table_files
from brew_data.table_writer import TableWriter, WrittenTables
from brew_platform.errors import DataError

__all__ = ["append_tables"]

_KEYS = {"members": "member_id", "entities": "entity_id"}
_NUMBERED = ("interactions", "oracle")  # tables with an interaction_id
_CONNECTION = ["member_id", "other_id", "kind"]


def append_tables(folder: Path, added: Path, out: Path, *, after: int, computed: Collection[str] = ()) -> WrittenTables:
    """Write the tables of a folder and those of a further day as one set of tables.

    A member or an entity of the further day replaces the row with the same id, so that profiles are the newest ones.
    Its interactions get new ids, after those that exist. A connection that exists is kept once.

    Args:
        folder: The tables that exist.
        added: The tables of the further day, with the members and entities of their interactions.
        out: The folder to write.
        after: All interactions of the further day are later (microseconds since 1970, UTC).
        computed: Fields of profiles that are left out, because they are computed from the rows of all days.

    Raises:
        DataError: An interaction of the further day is not later, or one of the two has an oracle and the other has
            none.
    """
    names = [name for name in TABLES if name not in OPTIONAL_TABLES or _exists(folder, name) or _exists(added, name)]
    if _exists(folder, "oracle") != _exists(added, "oracle"):
        raise DataError(
            f"one of {folder} and {added} has an oracle, and the other has none, so that the true probabilities of all "
            f"interactions are not known. Append rows of the source that the data were built from."
        )
    _require_later(added, after)
    shift = _id_bounds(folder)[1] + 1 - _id_bounds(added)[0]
    writer = TableWriter(out)
    for name in names:
        existing, further = _rows(folder, name), _rows(added, name)
        if name in _NUMBERED:
            further = _shifted(further, shift)
        if name in _KEYS:
            existing = _without(existing, _KEYS[name], added, name)
        elif name == "connections":
            further = _new_connections(further, folder)
        columns = _columns(
            [*_schemas(folder, name), *_schemas(added, name)], without=computed if name == "members" else ()
        )
        for part in (existing, further):
            for rows in part:
                writer.write(name, _with_columns(rows, columns))
    return writer.finish()


def _exists(folder: Path, name: str) -> bool:
    return (folder / f"{name}.parquet").exists()


def _rows(folder: Path, name: str) -> Iterator[pa.Table]:
    """Yield the rows of each file of a table, which can be missing."""
    if _exists(folder, name):
        for file in table_files(folder, name):
            yield read_files([file])


def _schemas(folder: Path, name: str) -> list[pa.Schema]:
    """Return the schema of a table, whose files have the same one; none if the table is missing."""
    return [rows.schema for rows in islice(_rows(folder, name), 1)]


def _require_later(added: Path, after: int) -> None:
    for rows in _rows(added, "interactions"):
        is_late = pc.less_equal(micros(rows), after)
        if (row := pc.index(is_late, True).as_py()) >= 0:
            raise DataError(
                f"table interactions: {pc.sum(is_late).as_py():,} interactions of the further day, e.g. that of member "
                f"{rows['member_id'][row].as_py()!r} at {rows['timestamp'][row].as_py().isoformat()}, are not later "
                f"than the training rows that exist. Remove them, or build the data again."
            )


def _id_bounds(folder: Path) -> tuple[int, int]:
    """Return the smallest and the largest interaction id of a folder; 0 and -1 if there are no interactions."""
    bounds = [pc.min_max(rows["interaction_id"]).as_py() for rows in _rows(folder, "interactions") if rows.num_rows]
    return min((found["min"] for found in bounds), default=0), max((found["max"] for found in bounds), default=-1)


def _shifted(parts: Iterable[pa.Table], shift: int) -> Iterator[pa.Table]:
    for rows in parts:
        index = rows.column_names.index("interaction_id")
        yield rows.set_column(index, rows.schema.field(index), pc.add(rows["interaction_id"], shift))


def _without(parts: Iterable[pa.Table], key: str, added: Path, name: str) -> Iterator[pa.Table]:
    """Yield the rows whose id the further day does not have."""
    ids = pa.concat_arrays([rows[key].combine_chunks() for rows in _rows(added, name)])
    for rows in parts:
        yield rows.filter(pc.invert(pc.is_in(rows[key], value_set=ids)))


def _new_connections(parts: Iterable[pa.Table], folder: Path) -> Iterator[pa.Table]:
    """Yield the connections that a folder does not have."""
    for rows in parts:
        for existing in _rows(folder, "connections"):
            rows = rows.join(existing.select(_CONNECTION), _CONNECTION, join_type="left anti")
        yield rows


_Columns = Mapping[str, pa.DataType | Mapping[str, pa.DataType]]
"""The type of each column, or those of the fields of a struct."""


def _columns(schemas: Sequence[pa.Schema], without: Collection[str] = ()) -> _Columns:
    """Return the columns and fields of several schemas; a type is that of the first schema which has it.

    Args:
        schemas: The schemas.
        without: Fields that are left out.
    """
    columns: dict[str, pa.DataType | dict[str, pa.DataType]] = {}
    for field in (field for schema in schemas for field in schema):
        if pa.types.is_struct(field.type):
            fields = columns.setdefault(field.name, {})
            assert isinstance(fields, dict)
            left_out = {*fields, *without}
            fields.update({child.name: child.type for child in field.type if child.name not in left_out})
        else:
            columns.setdefault(field.name, field.type)
    return columns


def _with_columns(rows: pa.Table, columns: _Columns) -> pa.Table:
    """Return rows with these columns and fields; those that the rows lack are null."""
    arrays = {}
    for name, kind in columns.items():
        if not isinstance(kind, pa.DataType):
            arrays[name] = _with_fields(rows[name], kind)
        else:
            arrays[name] = rows[name] if name in rows.column_names else pa.nulls(rows.num_rows, kind)
    return pa.table(arrays)


def _with_fields(structs: pa.ChunkedArray, types: Mapping[str, pa.DataType]) -> pa.Array:
    if not types:
        return pa.array([{}] * len(structs), pa.struct([]))
    present = {field.name for field in structs.type}
    values = [
        pc.struct_field(structs, [name]).combine_chunks() if name in present else pa.nulls(len(structs), type_)
        for name, type_ in types.items()
    ]
    return pa.StructArray.from_arrays(values, names=list(types))
