"""The schema of the input tables: columns, types, and checks between the tables.

To use your own data, write these tables or a source that returns them (docs/how-to/add-a-source.md).
"""

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from brew_data.sources.values import EARLIEST_TIME, LATEST_TIME, LONGEST_ID, find_unwritable, has_text
from brew_platform.errors import DataError

__all__ = [
    "AUTHOR",
    "CONNECTIONS",
    "CONNECTION_KINDS",
    "INTERACTIONS",
    "ORACLE",
    "TIMESTAMP",
    "Tables",
    "micros",
    "read_table",
    "read_tables",
    "write_tables",
]

TIMESTAMP = pa.timestamp("us", tz="UTC")

# `profile` and `fields` are structs whose children differ by source; the others are fixed. A child has a type with a
# text form (`brew_data.sources.values.has_text`); prompts show the text.
MEMBERS = {"member_id": pa.string(), "profile": pa.struct, "locale": pa.string(), "opted_out": pa.bool_()}
ENTITIES = {"entity_id": pa.string(), "entity_type": pa.string(), "created_at": TIMESTAMP, "fields": pa.struct}
AUTHOR = "author_id"  # optional column of the entities, a member id as pa.string(); null without an author
INTERACTIONS = {
    "interaction_id": pa.int64(),
    "member_id": pa.string(),
    "entity_id": pa.string(),
    "surface": pa.string(),
    "action": pa.string(),
    "timestamp": TIMESTAMP,
}
ORACLE = {"interaction_id": pa.int64(), "probability": pa.float64()}
CONNECTIONS = {"member_id": pa.string(), "other_id": pa.string(), "kind": pa.string(), "timestamp": TIMESTAMP}
CONNECTION_KINDS = ("connection", "follow")  # mutual; and of member_id, who follows other_id
OPTIONAL_TABLES = ("oracle", "connections")


@dataclass(frozen=True, kw_only=True)
class Tables:
    """The tables of one source. They are checked on construction.

    Args:
        members: Columns member_id, profile (struct of strings, numbers, booleans, dates, or lists of them), locale,
            opted_out.
        entities: Columns entity_id, entity_type, created_at, fields (a struct as above; a field that a type does not
            have is null), and optionally author_id: the member who wrote the entity, or whom it describes. It may be
            null, and it may name a member that the members table does not have.
        interactions: Columns interaction_id, member_id, entity_id, surface, action, timestamp. Rows are sorted by
            timestamp.
        oracle: Columns interaction_id and probability: the true probability of the positive action; None if unknown. It
            is a separate table, so that it never reaches a prompt.
        connections: Columns member_id, other_id, kind (`CONNECTION_KINDS`), timestamp; None if unknown. A mutual
            connection is one row. The rows have no order.

    Raises:
        DataError: A column is missing or has another type, a text is not UTF-8, a field has no text form or an infinite
            number, an id is null, blank, too long, repeated or unknown, a time is not in the years 1800 to 2099, a
            probability is not one, rows are not sorted, or a connection has an unknown kind, is repeated, or connects a
            member with themselves.
    """

    members: pa.Table
    entities: pa.Table
    interactions: pa.Table
    oracle: pa.Table | None = None
    connections: pa.Table | None = None

    def __post_init__(self) -> None:
        _check_columns("members", self.members, MEMBERS)
        _check_columns("entities", self.entities, ENTITIES)
        _check_columns("interactions", self.interactions, INTERACTIONS)
        for name, table, key in [
            ("members", self.members, "member_id"),
            ("entities", self.entities, "entity_id"),
            ("interactions", self.interactions, "interaction_id"),
        ]:
            if key != "interaction_id":
                _check_ids(name, table[key], key)
            if pc.count_distinct(table[key], mode="all").as_py() != table.num_rows:
                raise DataError(f"table {name}: {key} is repeated, but must be unique. Remove the repeated rows.")
        _check_known("interactions", "member_id", self.interactions, self.members["member_id"])
        _check_known("interactions", "entity_id", self.interactions, self.entities["entity_id"])
        times = self.interactions["timestamp"]
        if len(times) > 1 and pc.any(pc.less(times.slice(1), times.slice(0, len(times) - 1))).as_py():
            raise DataError("table interactions: rows are not sorted by timestamp. Sort them before writing.")
        _check_times("interactions", self.interactions, "timestamp")
        _check_times("entities", self.entities, "created_at")
        _check_fields("members", self.members, "member_id", "profile")
        _check_fields("entities", self.entities, "entity_id", "fields")
        if self.oracle is not None:
            _check_columns("oracle", self.oracle, ORACLE)
            probability = self.oracle["probability"]
            right = pc.and_(pc.greater_equal(probability, 0.0), pc.less_equal(probability, 1.0))
            if (row := pc.index(right, False).as_py()) >= 0:
                raise DataError(
                    f"table oracle: row {row} has the probability {probability[row].as_py()}, which is not a number "
                    f"from 0 to 1. Correct it."
                )
        if AUTHOR in self.entities.column_names:
            _check_authors(self.entities)
        if self.connections is not None:
            _check_connections(self.connections, self.members)


def _check_columns(name: str, table: pa.Table, columns: dict) -> None:
    missing = [column for column in columns if column not in table.column_names]
    if missing:
        raise DataError(
            f"table {name}: column {missing[0]!r} is missing (it has {', '.join(table.column_names)}). "
            f"Write the columns {', '.join(columns)}."
        )
    for column, expected in columns.items():
        actual = table.schema.field(column).type
        if expected is pa.struct:
            if not pa.types.is_struct(actual):
                raise DataError(f"table {name}: column {column!r} is {actual}, but a struct of strings is needed.")
        elif actual != expected:
            raise DataError(f"table {name}: column {column!r} is {actual}, but {expected} is needed. Cast it.")
        if table[column].null_count:
            raise DataError(f"table {name}: column {column!r} has {table[column].null_count} empty values. Fill them.")
    try:
        table.validate(full=True)
    except pa.ArrowInvalid as error:
        raise DataError(f"table {name} has text that is not UTF-8 ({error}). Write the table again.") from error


def _check_ids(name: str, ids: pa.ChunkedArray, key: str) -> None:
    length = pc.utf8_length(pc.utf8_trim_whitespace(ids))
    bad = pc.or_(pc.equal(length, 0), pc.greater(pc.utf8_length(ids), LONGEST_ID))
    if (row := pc.index(bad, True).as_py()) >= 0:
        raise DataError(
            f"table {name}: row {row} has the {key} {ids[row].as_py()[:80]!r}, but an id has 1 to {LONGEST_ID} "
            f"characters and is not blank. Correct it."
        )


def _check_authors(entities: pa.Table) -> None:
    kind = entities.schema.field(AUTHOR).type
    if kind != pa.string():
        raise DataError(f"table entities: column {AUTHOR!r} is {kind}, but string is needed. Cast it.")
    _check_ids("entities", entities[AUTHOR], AUTHOR)


def _check_connections(connections: pa.Table, members: pa.Table) -> None:
    _check_columns("connections", connections, CONNECTIONS)
    for key in ("member_id", "other_id"):
        _check_known("connections", key, connections, members["member_id"])
    known = pc.is_in(connections["kind"], value_set=pa.array(CONNECTION_KINDS))
    if (row := pc.index(known, False).as_py()) >= 0:
        raise DataError(
            f"table connections: row {row} has the kind {connections['kind'][row].as_py()!r}, but must have "
            f"{' or '.join(map(repr, CONNECTION_KINDS))}. Rename it."
        )
    own = pc.equal(connections["member_id"], connections["other_id"])
    if (row := pc.index(own, True).as_py()) >= 0:
        raise DataError(
            f"table connections: row {row} connects member {connections['member_id'][row].as_py()!r} with themselves. "
            f"Remove the row."
        )
    if connections.group_by(["member_id", "other_id", "kind"]).aggregate([]).num_rows != connections.num_rows:
        raise DataError("table connections: member_id, other_id and kind are repeated. Remove the repeated rows.")
    _check_times("connections", connections, "timestamp")


def _check_times(name: str, table: pa.Table, column: str) -> None:
    micros_N = table[column].cast(pa.int64())
    right = pc.and_(pc.greater_equal(micros_N, EARLIEST_TIME), pc.less(micros_N, LATEST_TIME))
    if (row := pc.index(right, False).as_py()) >= 0:
        raise DataError(
            f"table {name}: row {row} has the {column} {micros_N[row].as_py()}, which is not in the years 1800 to 2099 "
            f"in microseconds since 1970, UTC. Correct the unit."
        )


def _check_fields(name: str, table: pa.Table, key: str, column: str) -> None:
    kind = table.schema.field(column).type
    names = [field.name for field in kind]
    for index, field in enumerate(kind):
        if names.count(field.name) > 1:
            raise DataError(f"table {name}: {column} has the field {field.name!r} more than once. Rename the copies.")
        if not has_text(field.type):
            raise DataError(
                f"table {name}: the field {field.name!r} of {column} is of type {field.type}, which a prompt cannot "
                f"show. Use text, numbers, booleans, dates, or a list of them; give each part of a nested value a "
                f"field of its own."
            )
        for row, (reason, value) in find_unwritable(pc.struct_field(table[column], [index])).items():
            raise DataError(
                f"table {name}, {table[key][row].as_py()!r}: the field {field.name!r} of {column} is {value}, which "
                f"{reason}. Leave it out, or write another value."
            )


def _check_known(name: str, key: str, table: pa.Table, owners: pa.ChunkedArray) -> None:
    known = pc.is_in(table[key], value_set=owners.combine_chunks())
    if (row := pc.index(known, False).as_py()) >= 0:
        raise DataError(
            f"table {name}: row {row} names {key} {table[key][row].as_py()!r}, which the "
            f"{'entities' if key == 'entity_id' else 'members'} table does not have. Add it there or drop the row."
        )


def write_tables(tables: Tables, folder: Path) -> None:
    """Write one Parquet file per table.

    Args:
        tables: The tables.
        folder: The folder of the files; it is created if it does not exist.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in ["members", "entities", "interactions", *OPTIONAL_TABLES]:
        table = getattr(tables, name)
        if table is not None:
            table = _replace_structs(table, pa.struct([]), _NO_FIELDS)  # Parquet cannot store a struct without fields
            pq.write_table(table, folder / f"{name}.parquet", compression="zstd")


_NO_FIELDS = pa.struct([("_no_fields", pa.null())])  # a profile or an entity without fields, in Parquet


def _replace_structs(table: pa.Table, before: pa.StructType, after: pa.StructType) -> pa.Table:
    """Replace columns of the type `before`, whose values have no content, by columns of the type `after`."""
    for index, field in enumerate(table.schema):
        if field.type == before:
            table = table.set_column(index, field.name, pa.array([{}] * table.num_rows, after))
    return table


def micros(rows: pa.Table) -> pa.ChunkedArray:
    """Return the column `timestamp` as int64 microseconds since 1970, UTC."""
    return rows["timestamp"].cast(pa.int64())


def read_tables(folder: Path) -> Tables:
    """Read tables that `write_tables` wrote.

    Args:
        folder: The folder of members.parquet, entities.parquet, interactions.parquet and, optionally, oracle.parquet
            and connections.parquet.

    Returns:
        The tables, checked.

    Raises:
        DataError: A table is missing, is not a Parquet file, or fails a check of `Tables`.
    """
    present = [name for name in OPTIONAL_TABLES if (folder / f"{name}.parquet").exists()]
    return Tables(**{name: read_table(folder, name) for name in ["members", "entities", "interactions", *present]})


def read_table(folder: Path, name: str) -> pa.Table:
    """Read one table that `write_tables` wrote, without the checks of `Tables`.

    Args:
        folder: The folder of the tables.
        name: members, entities, interactions, oracle or connections.

    Raises:
        DataError: The table is missing, or is not a Parquet file.
    """
    path = folder / f"{name}.parquet"
    if not path.exists():
        raise DataError(f"{path} does not exist. A folder of tables needs {name}.parquet; write it.")
    try:
        return _replace_structs(pq.read_table(path), _NO_FIELDS, pa.struct([]))
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path} cannot be read as Parquet ({error}). Write it again.") from error
