"""The schema of the input tables: columns, types, and checks between the tables.

To use your own data, write these tables or a source that returns them (docs/how-to/add-a-source.md).
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from brew_data.sources.time_units import EARLIEST_TIME, LATEST_TIME
from brew_data.sources.values import LONGEST_ID, find_unwritable, has_text
from brew_data.table_shards import ROWS_PER_SHARD, read_files, table_files
from brew_platform.errors import DataError

__all__ = [
    "AUTHOR",
    "CONNECTIONS",
    "CONNECTION_KINDS",
    "INTERACTIONS",
    "ORACLE",
    "TABLES",
    "TIMESTAMP",
    "Tables",
    "check_connections_once",
    "check_rows",
    "check_unique",
    "iso_time",
    "micros",
    "read_table",
    "read_tables",
    "unknown_id",
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
ORACLE = {"interaction_id": pa.int64(), "action": pa.string(), "probability": pa.float64()}
CONNECTIONS = {"member_id": pa.string(), "other_id": pa.string(), "kind": pa.string(), "timestamp": TIMESTAMP}
CONNECTION_KINDS = ("connection", "follow")  # mutual; and of member_id, who follows other_id
COLUMNS: dict[str, dict] = {
    "members": MEMBERS,
    "entities": ENTITIES,
    "interactions": INTERACTIONS,
    "oracle": ORACLE,
    "connections": CONNECTIONS,
}
TABLES = tuple(COLUMNS)
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
        oracle: Columns interaction_id, action, probability: the true probability of each action of the surface; None if
            unknown. It is a separate table, so that it never reaches a prompt.
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
        for name, table in self.present().items():
            check_rows(name, table)
        for name, table, key in [
            ("members", self.members, "member_id"),
            ("entities", self.entities, "entity_id"),
            ("interactions", self.interactions, "interaction_id"),
        ]:
            check_unique(name, table, key)
        _check_known("interactions", "member_id", self.interactions, self.members["member_id"])
        _check_known("interactions", "entity_id", self.interactions, self.entities["entity_id"])
        times = self.interactions["timestamp"]
        if len(times) > 1 and pc.any(pc.less(times.slice(1), times.slice(0, len(times) - 1))).as_py():
            raise DataError("table interactions: rows are not sorted by timestamp. Sort them before writing.")
        if self.connections is not None:
            for key in ("member_id", "other_id"):
                _check_known("connections", key, self.connections, self.members["member_id"])
            check_connections_once(self.connections)

    def present(self) -> dict[str, pa.Table]:
        """Return the tables by name, without those that are None."""
        tables = {name: getattr(self, name) for name in TABLES}
        return {name: table for name, table in tables.items() if table is not None}


def check_rows(name: str, rows: pa.Table, *, first: int = 0) -> None:
    """Check columns and values of rows, without comparing them with other rows or tables.

    Args:
        name: The name of the table.
        rows: Some rows of the table, or all.
        first: The number of rows before them; messages count from the beginning of the table.

    Raises:
        DataError: As `Tables`.
    """
    _check_columns(name, rows, COLUMNS[name])
    if name == "members":
        _check_ids(name, rows["member_id"], "member_id", first)
        _check_fields(name, rows, "member_id", "profile")
    elif name == "entities":
        _check_ids(name, rows["entity_id"], "entity_id", first)
        _check_times(name, rows, "created_at", first)
        _check_fields(name, rows, "entity_id", "fields")
        if AUTHOR in rows.column_names:
            _check_authors(rows, first)
    elif name == "interactions":
        _check_times(name, rows, "timestamp", first)
    elif name == "oracle":
        _check_probabilities(rows, first)
    else:
        _check_connections(rows, first)


def check_unique(name: str, rows: pa.Table, key: str) -> None:
    """Check that no value of a column occurs twice.

    Raises:
        DataError: One does.
    """
    if pc.count_distinct(rows[key], mode="all").as_py() != rows.num_rows:
        raise DataError(f"table {name}: {key} is repeated, but must be unique. Remove the repeated rows.")


def check_connections_once(connections: pa.Table) -> None:
    """Check that no connection occurs twice.

    Raises:
        DataError: One does.
    """
    if connections.group_by(["member_id", "other_id", "kind"]).aggregate([]).num_rows != connections.num_rows:
        raise DataError("table connections: member_id, other_id and kind are repeated. Remove the repeated rows.")


def unknown_id(name: str, key: str, row: int, id_: str) -> DataError:
    """Return the error of a row that names a member or an entity that does not exist."""
    owner = "entities" if key == "entity_id" else "members"
    return DataError(
        f"table {name}: row {row} names {key} {id_!r}, which the {owner} table does not have. Add it there or drop the "
        f"row."
    )


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


def _check_ids(name: str, ids: pa.ChunkedArray, key: str, first: int) -> None:
    length = pc.utf8_length(pc.utf8_trim_whitespace(ids))
    bad = pc.or_(pc.equal(length, 0), pc.greater(pc.utf8_length(ids), LONGEST_ID))
    if (row := pc.index(bad, True).as_py()) >= 0:
        raise DataError(
            f"table {name}: row {first + row} has the {key} {ids[row].as_py()[:80]!r}, but an id has 1 to {LONGEST_ID} "
            f"characters and is not blank. Correct it."
        )


def _check_authors(entities: pa.Table, first: int) -> None:
    kind = entities.schema.field(AUTHOR).type
    if kind != pa.string():
        raise DataError(f"table entities: column {AUTHOR!r} is {kind}, but string is needed. Cast it.")
    _check_ids("entities", entities[AUTHOR], AUTHOR, first)


def _check_connections(connections: pa.Table, first: int) -> None:
    known = pc.is_in(connections["kind"], value_set=pa.array(CONNECTION_KINDS))
    if (row := pc.index(known, False).as_py()) >= 0:
        raise DataError(
            f"table connections: row {first + row} has the kind {connections['kind'][row].as_py()!r}, but must have "
            f"{' or '.join(map(repr, CONNECTION_KINDS))}. Rename it."
        )
    own = pc.equal(connections["member_id"], connections["other_id"])
    if (row := pc.index(own, True).as_py()) >= 0:
        raise DataError(
            f"table connections: row {first + row} connects member {connections['member_id'][row].as_py()!r} with "
            f"themselves. Remove the row."
        )
    _check_times("connections", connections, "timestamp", first)


def _check_probabilities(oracle: pa.Table, first: int) -> None:
    probability = oracle["probability"]
    right = pc.and_(pc.greater_equal(probability, 0.0), pc.less_equal(probability, 1.0))
    if (row := pc.index(right, False).as_py()) >= 0:
        raise DataError(
            f"table oracle: row {first + row} has the probability {probability[row].as_py()}, which is not a number "
            f"from 0 to 1. Correct it."
        )


def _check_times(name: str, table: pa.Table, column: str, first: int) -> None:
    micros_N = table[column].cast(pa.int64())
    right = pc.and_(pc.greater_equal(micros_N, EARLIEST_TIME), pc.less(micros_N, LATEST_TIME))
    if (row := pc.index(right, False).as_py()) >= 0:
        raise DataError(
            f"table {name}: row {first + row} has the {column} {micros_N[row].as_py()}, which is not in the years 1800 "
            f"to 2099 in microseconds since 1970, UTC. Correct the unit."
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
        raise unknown_id(name, key, row, table[key][row].as_py())


def write_tables(tables: Tables, folder: Path, *, rows_per_shard: int = ROWS_PER_SHARD) -> None:
    """Write the files of tables (`brew_data.table_shards`).

    Args:
        tables: The tables.
        folder: The folder of the files; it is created if it does not exist.
        rows_per_shard: The number of rows above which a table has several files.
    """
    from brew_data.table_writer import TableWriter  # it checks rows with this module

    writer = TableWriter(folder, rows_per_shard=rows_per_shard, is_checked=True)
    for name, table in tables.present().items():
        writer.write(name, table)
    writer.finish()


def micros(rows: pa.Table) -> pa.ChunkedArray:
    """Return the column `timestamp` as int64 microseconds since 1970, UTC."""
    return rows["timestamp"].cast(pa.int64())


def iso_time(micros: int) -> str:
    """Return microseconds since 1970, UTC, as ISO 8601 with seconds: `2026-01-31T12:00:00+00:00`."""
    return datetime.fromtimestamp(micros / 1e6, UTC).isoformat(timespec="seconds")


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
    present = [name for name in TABLES if name not in OPTIONAL_TABLES or (folder / f"{name}.parquet").exists()]
    return Tables(**{name: read_table(folder, name) for name in present})


def read_table(folder: Path, name: str) -> pa.Table:
    """Read one table that `write_tables` wrote, without the checks of `Tables`.

    Args:
        folder: The folder of the tables.
        name: members, entities, interactions, oracle or connections.

    Raises:
        DataError: The table is missing, or is not a Parquet file.
    """
    files = table_files(folder, name)
    rows = read_files(files)
    if name == "interactions" and len(files) > 1:
        return rows.sort_by([("timestamp", "ascending"), ("interaction_id", "ascending")])
    return rows
