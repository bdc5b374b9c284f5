"""The embedded member context: profiles, histories and entities by id, so that a request may name them.

Owns: the SQLite file (built once from the tables, then only read by replicas). Production uses Redis behind the same
methods (issue 4).
"""

import json
import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path

import pyarrow as pa

from brew_data.compiler import Entity, Past
from brew_data.tables import Tables, micros
from brew_platform.errors import UserError

__all__ = ["MemberContext", "UnknownId"]

_ROWS = 10_000  # written at a time

_SCHEMA = """
CREATE TABLE members (member_id TEXT PRIMARY KEY, profile TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE entities (entity_id TEXT PRIMARY KEY, entity_type TEXT NOT NULL, fields TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE interactions (
    member_id TEXT NOT NULL,
    timestamp INTEGER NOT NULL,  -- microseconds since 1970, UTC
    interaction_id INTEGER NOT NULL,
    entity_id TEXT NOT NULL,
    surface TEXT NOT NULL,
    action TEXT NOT NULL,
    PRIMARY KEY (member_id, timestamp, interaction_id)
) WITHOUT ROWID;
"""


class UnknownId(UserError):
    """The context has no member or entity of that id."""


class MemberContext:
    """Reads a context file; opened read-only, and safe to use from any one thread at a time.

    Args:
        path: a file that `build` wrote.

    Raises:
        UserError: there is no such file, or it is no member context.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise UserError(f"{path} does not exist: build the member context first, or leave context_path out.")
        self._db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, check_same_thread=False)
        try:
            self._db.execute("SELECT member_id, profile FROM members LIMIT 1").fetchone()
        except sqlite3.Error as error:
            self._db.close()
            raise UserError(f"{path} is no member context ({error}). Build it again.") from error

    def member(self, member_id: str) -> tuple[dict[str, object], list[Past]]:
        """Profile and all interactions, oldest first.

        Raises:
            UnknownId: no such member, or one who opted out.
        """
        row = self._db.execute("SELECT profile FROM members WHERE member_id = ?", (member_id,)).fetchone()
        if row is None:
            raise UnknownId(
                f"member {member_id!r} is unknown here, or has opted out; send the member inline as `member`, or give "
                f"an id that the context holds."
            )
        rows = self._db.execute(
            "SELECT entity_type, fields, surface, action, timestamp FROM interactions JOIN entities USING (entity_id) "
            "WHERE member_id = ? ORDER BY timestamp, interaction_id",
            (member_id,),
        )
        history = [
            Past(entity=_entity(entity_type, fields), surface=surface, action=action, timestamp=timestamp)
            for entity_type, fields, surface, action, timestamp in rows
        ]
        return json.loads(row[0]), history

    def entity(self, entity_id: str) -> Entity:
        """The entity.

        Raises:
            UnknownId: there is none of that id.
        """
        row = self._db.execute("SELECT entity_type, fields FROM entities WHERE entity_id = ?", (entity_id,)).fetchone()
        if row is None:
            raise UnknownId(
                f"candidate {entity_id!r} is unknown here; send it inline as {{id, fields}}, or give an id that the "
                f"context holds."
            )
        return _entity(*row)

    def close(self) -> None:
        """Closes the file."""
        self._db.close()

    @staticmethod
    def build(tables: Tables, path: Path) -> None:
        """Writes the context of `tables` to `path`, whole or not at all, in place of one that is there.

        Members who opted out are left out, with all they did.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name}.{os.getpid()}.part")
        draft.unlink(missing_ok=True)
        try:
            with closing(sqlite3.connect(draft)) as db:
                db.executescript(_SCHEMA)
                db.executemany("INSERT INTO members VALUES (?, ?)", _members(tables.members))
                db.executemany("INSERT INTO entities VALUES (?, ?, ?)", _entities(tables.entities))
                db.executemany("INSERT INTO interactions VALUES (?, ?, ?, ?, ?, ?)", _interactions(tables.interactions))
                db.execute("DELETE FROM interactions WHERE member_id NOT IN (SELECT member_id FROM members)")
                db.commit()
                db.execute("PRAGMA journal_mode = WAL")  # readers never wait for the writer that issue 4 brings
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)


def _entity(entity_type: str, fields: str) -> Entity:
    return Entity(entity_type=entity_type, fields=json.loads(fields))


def _members(table: pa.Table) -> Iterator[tuple[str, str]]:
    for row in _rows(table, ["member_id", "profile", "opted_out"]):
        if not row["opted_out"]:
            yield row["member_id"], _json(row["profile"])


def _entities(table: pa.Table) -> Iterator[tuple[str, str, str]]:
    for row in _rows(table, ["entity_id", "entity_type", "fields"]):
        yield row["entity_id"], row["entity_type"], _json(row["fields"])


def _interactions(table: pa.Table) -> Iterator[tuple[str, int, int, str, str, str]]:
    timed = table.set_column(table.column_names.index("timestamp"), "timestamp", micros(table))
    for row in _rows(timed, ["member_id", "timestamp", "interaction_id", "entity_id", "surface", "action"]):
        yield tuple(row.values())


def _rows(table: pa.Table, columns: list[str]) -> Iterator[dict]:
    for batch in table.select(columns).to_batches(max_chunksize=_ROWS):
        yield from batch.to_pylist()


def _json(values: Mapping[str, object]) -> str:
    """As JSON, without the fields that are null because another type of record has them."""
    return json.dumps({name: value for name, value in values.items() if value is not None}, ensure_ascii=False)
