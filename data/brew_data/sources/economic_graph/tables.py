"""Builds the tables of the graph, at once or in batches.

The tables contain opted-out members and personal data on purpose, as input for privacy filters.
"""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa

from brew_data.schema import TABLES, TIMESTAMP, Tables
from brew_data.sources.economic_graph import vocabulary as words
from brew_data.sources.economic_graph.config import START, EconomicGraphConfig
from brew_data.sources.economic_graph.facts import ENTITY_TYPES
from brew_data.sources.economic_graph.group_sampler import Array
from brew_data.sources.economic_graph.interactions import Interactions, generate_months
from brew_data.sources.economic_graph.surfaces import SURFACES
from brew_data.sources.economic_graph.texts import entity_texts, member_texts, text_blocks
from brew_data.sources.economic_graph.world import World, draw_world

__all__ = ["generate", "planted_contacts", "table_batches"]

_ACTIONS = [action.name for surface in SURFACES for action in surface.actions]
_ACTION_COUNTS = np.array([len(surface.actions) for surface in SURFACES])
_FIRST_ACTION = np.cumsum(_ACTION_COUNTS) - _ACTION_COUNTS  # of each surface, in _ACTIONS
_INTERACTION_ROWS = 131_072  # in one batch; limits memory only
_NETWORK_ROWS = 1_000_000  # of the connections in one batch
_PLANTED = pa.schema(
    {
        "table": pa.string(),  # members or entities
        "row_id": pa.string(),
        "field": pa.string(),
        "start": pa.int64(),  # in characters
        "end": pa.int64(),
        "kind": pa.string(),
    }
)


def generate(config: EconomicGraphConfig) -> Tables:
    """Generate the graph. The default size takes about 10 s.

    Returns:
        All tables; the oracle has the true probability of each action of each interaction.
    """
    parts: dict[str, list[pa.Table]] = {name: [] for name in TABLES}
    for name, rows in table_batches(draw_world(config)):
        parts[name].append(rows)
    return Tables(**{name: pa.concat_tables(rows) for name, rows in parts.items()})


def table_batches(world: World) -> Iterator[tuple[str, pa.Table]]:
    """Generate the tables in batches of bounded size, each with the name of its table.

    Members, entities and connections come first, then interactions in order of time, with the oracle of the same rows.
    """
    for rows in text_blocks(world.members.count):
        yield "members", _members_table(world, rows)
    for rows in text_blocks(world.entities.count):
        yield "entities", _entities_table(world, rows)
    yield from (("connections", rows) for rows in _connection_tables(world))
    ids = _Ids(world)
    first = 0
    for month in generate_months(world):
        for start in range(0, max(1, month.count), _INTERACTION_ROWS):
            part = month.take(slice(start, start + _INTERACTION_ROWS))
            yield "interactions", _interactions_table(ids, part, first)
            yield "oracle", _oracle_table(part, first)
            first += part.count


def planted_contacts(world: World) -> pa.Table:
    """Return where personal data was planted in the texts of members and entities: the truth for a detector.

    Returns:
        Columns table (members or entities), row_id, field, start and end (characters), kind.
    """
    spans: list[tuple] = []
    for table, count, texts in (
        ("members", world.members.count, member_texts),
        ("entities", world.entities.count, entity_texts),
    ):
        for rows in text_blocks(count):
            ids = _member_ids(rows) if table == "members" else _entity_ids(world, rows)
            spans += [(table, ids[row - rows.start].as_py(), *span) for row, *span in texts(world, rows).planted]
    columns = [list(column) for column in zip(*spans, strict=True)] or [[] for _ in _PLANTED]
    return pa.table(dict(zip(_PLANTED.names, columns, strict=True)), schema=_PLANTED)


def _member_ids(members: Iterable[int]) -> pa.Array:
    """Return ids; null for -1."""
    return pa.array([f"member-{member:07d}" if member >= 0 else None for member in members], pa.string())


def _entity_ids(world: World, rows: range) -> pa.Array:
    types = world.entities.type_E[rows.start : rows.stop].tolist()
    return pa.array([f"{ENTITY_TYPES[number]}-{row:08d}" for number, row in zip(types, rows, strict=True)])


class _Ids:
    """The ids of all members and entities, by index."""

    def __init__(self, world: World) -> None:
        self.members = _member_ids(range(world.members.count))
        self.entities = _entity_ids(world, range(world.entities.count))


def _times(day: Array) -> pa.Array:
    micros = int(START.timestamp() * 1_000_000) + (day * 86_400_000_000).astype(np.int64)
    return pa.array(micros).cast(TIMESTAMP)


def _names(codes: Array, names: Sequence[str]) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(codes.astype(np.int32)), pa.array(names)).cast(pa.string())


def _members_table(world: World, rows: range) -> pa.Table:
    part = slice(rows.start, rows.stop)
    cities = world.members.city_M[part].tolist()
    columns = {
        "member_id": _member_ids(rows),
        "profile": member_texts(world, rows).fields,
        "locale": [words.CITIES[city].locale for city in cities],
        "opted_out": world.members.opted_out_M[part],
    }
    return pa.table(columns)


def _entities_table(world: World, rows: range) -> pa.Table:
    entities = world.entities
    part = slice(rows.start, rows.stop)
    columns = {
        "entity_id": _entity_ids(world, rows),
        "entity_type": _names(entities.type_E[part], ENTITY_TYPES),
        "created_at": _times(entities.created_E[part]),
        "fields": entity_texts(world, rows).fields,
        "author_id": _member_ids(entities.author_E[part].tolist()),
    }
    return pa.table(columns)


def _connection_tables(world: World) -> Iterator[pa.Table]:
    """Yield connections, which exist since the later of the two joined, or since some day before the log starts."""
    join_M = world.members.join_M
    for kind, pair_X2 in (("connection", world.network.connection_X2), ("follow", world.network.follow_X2)):
        for first in range(0, max(1, len(pair_X2)), _NETWORK_ROWS):
            from_X, to_X = pair_X2[first : first + _NETWORK_ROWS].T
            since_X = np.maximum(join_M[from_X], join_M[to_X])
            before_X = -1.0 - (from_X * 7_919 + to_X * 104_729) % 1_500  # some day in the four years before
            columns = {
                "member_id": _member_ids(from_X.tolist()),
                "other_id": _member_ids(to_X.tolist()),
                "kind": pa.array([kind] * len(from_X), pa.string()),
                "timestamp": _times(np.where(since_X > 0, since_X, before_X)),
            }
            yield pa.table(columns)


def _interactions_table(ids: _Ids, rows: Interactions, first: int) -> pa.Table:
    columns = {
        "interaction_id": np.arange(first, first + rows.count),
        "member_id": ids.members.take(pa.array(rows.member_N)),
        "entity_id": ids.entities.take(pa.array(rows.entity_N)),
        "surface": _names(rows.surface_N, [surface.name for surface in SURFACES]),
        "action": _names(_FIRST_ACTION[rows.surface_N] + rows.action_N, _ACTIONS),
        "timestamp": pa.array(rows.time_N).cast(TIMESTAMP),
    }
    return pa.table(columns)


def _oracle_table(rows: Interactions, first: int) -> pa.Table:
    """Build the oracle: one row per interaction and action of its surface."""
    count_N = _ACTION_COUNTS[rows.surface_N]
    is_action_NA = np.arange(rows.probability_NA.shape[1]) < count_N[:, None]
    row, action = np.nonzero(is_action_NA)
    columns = {
        "interaction_id": first + row,
        "action": _names(_FIRST_ACTION[rows.surface_N][row] + action, _ACTIONS),
        "probability": rows.probability_NA[is_action_NA].astype(np.float64),
    }
    return pa.table(columns)
