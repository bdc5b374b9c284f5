"""The member context: profiles, histories and entities by id, for requests that contain ids only.

`Context` is the protocol. `MemberContext` is the embedded default: a SQLite file that is built from the tables and
receives nearline events. `context.redis` has the production implementation. The same contract tests run on both.
"""

import json
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pyarrow as pa

from brew_data.prompts.compiler import Entity, PastInteraction
from brew_data.prompts.fields import field_values
from brew_data.schema import Tables, micros
from brew_platform.errors import UserError
from brew_platform.files import atomic_file
from brew_serve.stores.sqlite_file import SqliteFile, Unavailable

__all__ = [
    "Context",
    "MemberContext",
    "MemberEvent",
    "Snapshot",
    "UnknownId",
    "json_of",
    "table_rows",
    "unknown_entity",
    "unknown_member",
]

_ROWS = 10_000  # rows converted to Python objects at a time

_SCHEMA = """
CREATE TABLE members (member_id TEXT PRIMARY KEY, profile TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE entities (entity_id TEXT PRIMARY KEY, entity_type TEXT NOT NULL, fields TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE interactions (  -- from the tables
    member_id TEXT NOT NULL,
    timestamp INTEGER NOT NULL,  -- microseconds since 1970, UTC
    interaction_id INTEGER NOT NULL,
    entity_id TEXT NOT NULL,
    surface TEXT NOT NULL,
    action TEXT NOT NULL,
    PRIMARY KEY (member_id, timestamp, interaction_id)
) WITHOUT ROWID;
CREATE TABLE events (  -- recorded since the build
    event_id TEXT PRIMARY KEY,
    member_id TEXT NOT NULL,
    timestamp INTEGER NOT NULL,
    entity_id TEXT NOT NULL,
    surface TEXT NOT NULL,
    action TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX events_of_member ON events (member_id);
CREATE TABLE built (
    at INTEGER NOT NULL,  -- microseconds since 1970, UTC
    key_id TEXT  -- of the pseudonyms of the members; NULL if they have their ids
);  -- one row
"""

_HISTORY = """
SELECT entity_type, fields, surface, action, timestamp, event_id FROM (
    SELECT entity_id, surface, action, timestamp, interaction_id, NULL AS event_id
    FROM interactions WHERE member_id = :member
    UNION ALL
    SELECT entity_id, surface, action, timestamp, NULL, event_id FROM events WHERE member_id = :member
) JOIN entities USING (entity_id)
ORDER BY timestamp, interaction_id IS NULL, interaction_id, event_id
"""


class UnknownId(UserError):
    """The context has no member or entity of that id."""


def unknown_member(member_id: str) -> UnknownId:
    """Return the error for a member that a context does not contain."""
    return UnknownId(
        f"member {member_id!r} is unknown here, or has opted out; send the member inline as `member`, or send the id "
        f"of a known member."
    )


def unknown_entity(entity_id: str) -> UnknownId:
    """Return the error for an entity that a context does not contain."""
    return UnknownId(
        f"candidate {entity_id!r} is unknown here; send it inline as {{id, fields}}, or send the id of a known entity."
    )


@dataclass(frozen=True, kw_only=True)
class MemberEvent:
    """One interaction that was recorded after the tables were built.

    Args:
        event_id: Id from the caller. An event with a recorded id changes nothing.
        timestamp: Microseconds since 1970, UTC.
        entity: The entity with the id `entity_id`; required if the context does not contain it, else ignored.
    """

    event_id: str
    member_id: str
    entity_id: str
    surface: str
    action: str
    timestamp: int
    entity: Entity | None = None


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """The state of a member at one time.

    Args:
        history: Interactions, oldest first.
        revision: String of fixed width that sorts after every earlier revision of this member.
        events: Ids of the events in `history`, oldest first.
    """

    profile: dict[str, object]
    history: list[PastInteraction]
    revision: str
    events: list[str]


class Context(Protocol):
    """Members and entities by id. All methods are thread-safe, and raise Unavailable if the store cannot be used."""

    def member(self, member_id: str) -> tuple[dict[str, object], list[PastInteraction]]:
        """Return the profile and all interactions, oldest first.

        Raises:
            UnknownId: The member does not exist, or has opted out.
        """

    def snapshot(self, member_id: str) -> Snapshot:
        """Return the state of a member with its revision.

        Raises:
            UnknownId: As `member`.
        """

    def entity(self, entity_id: str) -> Entity:
        """Return an entity.

        Raises:
            UnknownId: The context does not contain it.
        """

    def entities(self, entity_ids: Sequence[str]) -> dict[str, Entity]:
        """Return entities by id, in one call of the store if it is on another machine.

        Raises:
            UnknownId: The context does not contain one of them.
        """

    def record(self, events: Sequence[MemberEvent]) -> int:
        """Add events of one member to the history, all or none. Recorded events change nothing.

        The entity of an event is added if the context does not contain it. Existing entities never change.

        Returns:
            Number of new events.

        Raises:
            UnknownId: The member or an entity is unknown; nothing was written.
        """

    def check(self) -> None:
        """Check that the context can be read now."""

    def close(self) -> None:
        """Close the connection."""


class MemberContext:
    """A `Context` on a SQLite file.

    Args:
        path: A file that `build` wrote.
        writable: Whether `record` can be called; False opens the file read-only.

    Attributes:
        key_id: Id of the key of the members' pseudonyms (`Pseudonyms.key_id`); None: members have their ids.

    Raises:
        UserError: The file does not exist, or is not a member context.
    """

    def __init__(self, path: Path, *, writable: bool = False) -> None:
        if not path.is_file():
            raise UserError(f"{path} does not exist. Build the member context first, or remove context_path.")
        try:
            self._file = SqliteFile(path, writable=writable)
            try:
                self._built: int
                self.key_id: str | None
                self._built, self.key_id = self._file.rows("SELECT at, key_id FROM built")[0]
            except (Unavailable, IndexError):
                self._file.close()
                raise
        except (UserError, Unavailable, IndexError) as error:
            raise UserError(f"{path} is not a member context ({error}). Rebuild it.") from error

    def member(self, member_id: str) -> tuple[dict[str, object], list[PastInteraction]]:
        snapshot = self.snapshot(member_id)
        return snapshot.profile, snapshot.history

    def snapshot(self, member_id: str) -> Snapshot:
        profiles = self._file.rows("SELECT profile FROM members WHERE member_id = ?", (member_id,))
        if not profiles:
            raise unknown_member(member_id)
        rows = self._file.rows(_HISTORY, {"member": member_id})
        events = [row[5] for row in rows if row[5] is not None]
        return Snapshot(
            profile=json.loads(profiles[0][0]),
            history=[
                PastInteraction(
                    entity=_entity(entity_type, fields), surface=surface, action=action, timestamp=timestamp
                )
                for entity_type, fields, surface, action, timestamp, _ in rows
            ],
            revision=f"{self._built:020d}.{len(events):012d}",
            events=events,
        )

    def entity(self, entity_id: str) -> Entity:
        rows = self._file.rows("SELECT entity_type, fields FROM entities WHERE entity_id = ?", (entity_id,))
        if not rows:
            raise unknown_entity(entity_id)
        return _entity(*rows[0])

    def entities(self, entity_ids: Sequence[str]) -> dict[str, Entity]:
        return {id_: self.entity(id_) for id_ in entity_ids}

    def record(self, events: Sequence[MemberEvent]) -> int:
        new = 0
        with self._file.transaction() as db:
            for event in events:
                if not db.execute("SELECT 1 FROM members WHERE member_id = ?", (event.member_id,)).fetchone():
                    raise unknown_member(event.member_id)
                if event.entity is not None:
                    db.execute(
                        "INSERT OR IGNORE INTO entities VALUES (?, ?, ?)",
                        (event.entity_id, event.entity.entity_type, json_of(event.entity.fields)),
                    )
                elif not db.execute("SELECT 1 FROM entities WHERE entity_id = ?", (event.entity_id,)).fetchone():
                    raise unknown_entity(event.entity_id)
                new += db.execute(
                    "INSERT OR IGNORE INTO events VALUES (?, ?, ?, ?, ?, ?)",
                    (event.event_id, event.member_id, event.timestamp, event.entity_id, event.surface, event.action),
                ).rowcount
        return new

    def check(self) -> None:
        self._file.rows("SELECT at FROM built")

    def close(self) -> None:
        self._file.close()

    @staticmethod
    def build(tables: Tables, path: Path, *, key_id: str | None = None) -> None:
        """Write the context of `tables` to a file, which atomically replaces an existing one.

        Members who opted out are excluded with all their interactions. Events recorded in the old file are lost;
        `Outbox.replay_done` applies those again that the tables do not contain. Processes that have the old file open
        continue to read it, and must be restarted.

        Args:
            tables: Members, entities and interactions.
            path: The file.
            key_id: Id of the key of the members' pseudonyms; None: members have their ids.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as draft:
            with closing(sqlite3.connect(draft)) as db:
                db.executescript(_SCHEMA)
                db.executemany("INSERT INTO members VALUES (?, ?)", _members(tables.members))
                db.executemany("INSERT INTO entities VALUES (?, ?, ?)", _entities(tables.entities))
                db.executemany("INSERT INTO interactions VALUES (?, ?, ?, ?, ?, ?)", _interactions(tables.interactions))
                db.execute("DELETE FROM interactions WHERE member_id NOT IN (SELECT member_id FROM members)")
                db.execute("INSERT INTO built VALUES (?, ?)", (time.time_ns() // 1000, key_id))
                db.commit()
                db.execute("PRAGMA journal_mode = WAL")  # readers do not wait for the writer of events
            for name in ("-wal", "-shm"):  # of the old file; SQLite would apply its last transactions to the new one
                path.with_name(path.name + name).unlink(missing_ok=True)


def _entity(entity_type: str, fields: str) -> Entity:
    return Entity(entity_type=entity_type, fields=json.loads(fields))


def _members(table: pa.Table) -> Iterator[tuple[str, str]]:
    for row in table_rows(table, ["member_id", "profile", "opted_out"]):
        if not row["opted_out"]:
            yield row["member_id"], json_of(row["profile"])


def _entities(table: pa.Table) -> Iterator[tuple[str, str, str]]:
    for row in table_rows(table, ["entity_id", "entity_type", "fields"]):
        yield row["entity_id"], row["entity_type"], json_of(row["fields"])


def _interactions(table: pa.Table) -> Iterator[tuple[str, int, int, str, str, str]]:
    timed = table.set_column(table.column_names.index("timestamp"), "timestamp", micros(table))
    for row in table_rows(timed, ["member_id", "timestamp", "interaction_id", "entity_id", "surface", "action"]):
        yield tuple(row.values())


def table_rows(table: pa.Table, columns: list[str]) -> Iterator[dict]:
    """Yield the rows of a table as dicts. Only one batch is in memory at a time."""
    for batch in table.select(columns).to_batches(max_chunksize=_ROWS):
        yield from batch.to_pylist()


def json_of(values: Mapping[str, object]) -> str:
    """Encode the fields of a record as JSON: the text of each field that is present.

    Raises:
        UserError: As in `field_values`.
    """
    return json.dumps(field_values(values), ensure_ascii=False)
