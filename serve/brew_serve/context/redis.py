"""The member context for production: a `Context` in a Redis that the whole cluster shares.

The keys have a prefix. All but the first belong to one generation, so that no reader sees a partial build:

    built                      the generation: microseconds since 1970 when it was built
    <built>:member:<id>        profile, JSON
    <built>:entity:<id>        [entity_type, fields], JSON
    <built>:history:<id>       hash: t<interaction_id> or e<event_id> -> [entity_id, surface, action, timestamp], JSON
    <built>:key                id of the key of the members' pseudonyms, if they have pseudonyms

A history is one hash and is read whole: 5,000 interactions are about 0.6 MB. The keys have no hash tags, so this needs
one Redis (with replicas), not a Redis Cluster.
"""

import json
import re
import time
from collections.abc import Sequence
from typing import Any

from brew_data.prompts.compiler import Entity, PastInteraction
from brew_data.schema import Tables, micros
from brew_serve.context.base import MemberEvent, Snapshot, json_of, table_rows, unknown_entity, unknown_member
from brew_serve.stores.redis_server import RedisErrors, connect
from brew_serve.stores.sqlite_file import Unavailable

__all__ = ["RedisContext"]

_COMMANDS = 5_000  # commands sent to the server at a time
_REPLACED_SECONDS = 60  # lifetime of a context that a new one has replaced, for readers that have begun with it


class RedisContext:
    """A `Context` on Redis.

    Args:
        url: Address of the server, such as redis://:password@host:6379/0.
        prefix: Prefix of every key, so that several services can share a server.
    """

    def __init__(self, url: str, prefix: str = "brew360:") -> None:
        self._redis, self._errors, self._prefix = connect(url), RedisErrors(), prefix

    @property
    def key_id(self) -> str | None:
        """Id of the key of the members' pseudonyms (`Pseudonyms.key_id`); None: members have their ids."""
        with self._errors():
            stored = self._redis.get(f"{self._generation()}key")
        return None if stored is None else stored.decode()

    def member(self, member_id: str) -> tuple[dict[str, object], list[PastInteraction]]:
        snapshot = self.snapshot(member_id)
        return snapshot.profile, snapshot.history

    def snapshot(self, member_id: str) -> Snapshot:
        with self._errors():
            key = self._generation()
            transaction = self._redis.pipeline(transaction=True)
            transaction.get(f"{key}member:{member_id}")
            transaction.hgetall(f"{key}history:{member_id}")
            profile, stored = transaction.execute()
            if profile is None:
                raise unknown_member(member_id)
            rows = sorted(
                ((*json.loads(text), field.decode()) for field, text in stored.items()),
                key=lambda row: (row[3], row[4][0] == "e", len(row[4]) if row[4][0] == "t" else 0, row[4]),
            )  # by time, then interactions of the tables by number, then events
            entities = self._entities(key, sorted({row[0] for row in rows}))
        events = [field[1:] for *_, field in rows if field[0] == "e"]
        return Snapshot(
            profile=json.loads(profile),
            history=[
                PastInteraction(entity=entities[entity_id], surface=surface, action=action, timestamp=timestamp)
                for entity_id, surface, action, timestamp, _ in rows
            ],
            revision=f"{int(key.removeprefix(self._prefix)[:-1]):020d}.{len(events):012d}",
            events=events,
        )

    def entity(self, entity_id: str) -> Entity:
        return self.entities([entity_id])[entity_id]

    def entities(self, entity_ids: Sequence[str]) -> dict[str, Entity]:
        with self._errors():
            found = self._entities(self._generation(), entity_ids)
        for entity_id in entity_ids:
            if entity_id not in found:
                raise unknown_entity(entity_id)
        return found

    def record(self, events: Sequence[MemberEvent]) -> int:
        with self._errors():
            key = self._generation()
            checks = self._redis.pipeline(transaction=False)
            for event in events:
                checks.exists(f"{key}member:{event.member_id}")
                checks.exists(f"{key}entity:{event.entity_id}")
            found = checks.execute()
            for event, member, entity in zip(events, found[::2], found[1::2], strict=True):
                if not member:
                    raise unknown_member(event.member_id)
                if not entity and event.entity is None:
                    raise unknown_entity(event.entity_id)
            # Members and entities of a generation are never removed, so those that were found still exist.
            transaction = self._redis.pipeline(transaction=True)
            for event in events:
                if event.entity is not None:
                    transaction.setnx(f"{key}entity:{event.entity_id}", _entity_json(event.entity))
                transaction.hsetnx(
                    f"{key}history:{event.member_id}",
                    f"e{event.event_id}",
                    json.dumps([event.entity_id, event.surface, event.action, event.timestamp]),
                )
            answers = transaction.execute()
        new, at = 0, 0
        for event in events:  # the answer to HSETNX is the last answer of each event
            at += 1 if event.entity is None else 2
            new += answers[at - 1]
        return new

    def check(self) -> None:
        with self._errors():
            self._generation()

    def close(self) -> None:
        self._redis.close()

    @staticmethod
    def build(tables: Tables, url: str, prefix: str = "brew360:", *, key_id: str | None = None) -> None:
        """Write the context of `tables`. Readers see the old context until the new one is complete.

        Members who opted out are excluded with all their interactions. Events recorded in the old context are lost;
        `Outbox.replay_done` applies those again that the tables do not contain.

        Args:
            tables: Members, entities and interactions.
            url: Address of the server.
            prefix: Prefix of every key.
            key_id: Id of the key of the members' pseudonyms; None: members have their ids.

        Raises:
            Unavailable: The server failed; the old context is still served.
        """
        redis, errors = connect(url), RedisErrors()
        with errors():
            old = redis.get(f"{prefix}built")
            built = max(time.time_ns() // 1000, int(old or 0) + 1)
            _write(redis, tables, f"{prefix}{built}:")
            if key_id is not None:
                redis.set(f"{prefix}{built}:key", key_id)
            redis.set(f"{prefix}built", built)
            if old is not None:
                pipe = redis.pipeline(transaction=False)
                pattern = re.sub(r"([\\*?\[\]])", r"\\\1", f"{prefix}{int(old)}:") + "*"
                for key in redis.scan_iter(pattern, count=_COMMANDS):
                    pipe.expire(key, _REPLACED_SECONDS)
                    _flush(pipe)
                pipe.execute()
        redis.close()

    def _generation(self) -> str:
        """Return the prefix of the keys that are served now."""
        built = self._redis.get(f"{self._prefix}built")
        if built is None:
            raise Unavailable(
                "this Redis contains no member context. Build it with RedisContext.build, then replay the events that "
                "its tables do not contain with Outbox.replay_done."
            )
        return f"{self._prefix}{int(built)}:"

    def _entities(self, key: str, ids: Sequence[str]) -> dict[str, Entity]:
        """Return the entities that exist, by id."""
        if not ids:
            return {}
        texts = self._redis.mget([f"{key}entity:{id_}" for id_ in ids])
        found = {id_: json.loads(text) for id_, text in zip(ids, texts, strict=True) if text is not None}
        return {id_: Entity(entity_type=kind, fields=fields) for id_, (kind, fields) in found.items()}


def _write(redis: Any, tables: Tables, key: str) -> None:
    pipe = redis.pipeline(transaction=False)
    members: set[str] = set()
    for row in table_rows(tables.members, ["member_id", "profile", "opted_out"]):
        if not row["opted_out"]:
            members.add(row["member_id"])
            pipe.set(f"{key}member:{row['member_id']}", json_of(row["profile"]))
            _flush(pipe)
    for row in table_rows(tables.entities, ["entity_id", "entity_type", "fields"]):
        entity = Entity(entity_type=row["entity_type"], fields=row["fields"])
        pipe.set(f"{key}entity:{row['entity_id']}", _entity_json(entity))
        _flush(pipe)
    table = tables.interactions
    timed = table.set_column(table.column_names.index("timestamp"), "timestamp", micros(table))
    for row in table_rows(timed, ["member_id", "entity_id", "surface", "action", "timestamp", "interaction_id"]):
        member_id, *values, interaction_id = row.values()
        if member_id in members:
            pipe.hset(f"{key}history:{member_id}", f"t{interaction_id}", json.dumps(values))
            _flush(pipe)
    pipe.execute()


def _flush(pipe: Any) -> None:
    if len(pipe) >= _COMMANDS:
        pipe.execute()


def _entity_json(entity: Entity) -> str:
    return json.dumps([entity.entity_type, json.loads(json_of(entity.fields))])
