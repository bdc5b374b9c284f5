"""Draws which entity a surface shows to a member.

An impression has one of four channels: entities of the profile's industry or its topics, entities of a topic or an
industry that the member likes or dislikes, entities that somebody in the member's network wrote, and all entities.
Within a channel, entities are drawn by their weight among those that exist.

Shape suffixes: P periods, E entities of a type, N impressions.
"""

import numpy as np

from brew_data.sources.economic_graph.config import DAYS_PER_MONTH
from brew_data.sources.economic_graph.entities import KINDS, Kind
from brew_data.sources.economic_graph.facts import ENTITY_TYPES
from brew_data.sources.economic_graph.group_sampler import Array, GroupSampler
from brew_data.sources.economic_graph.network import SUGGESTIONS
from brew_data.sources.economic_graph.population import INDUSTRY_COUNT, SLOT_SIGNS, TOPIC_COUNT, draw_topics
from brew_data.sources.economic_graph.world import World

__all__ = ["MonthExposure"]

PERIOD_DAYS = 5  # entities appear and disappear at the start of a period; our choice
_PERIODS = DAYS_PER_MONTH // PERIOD_DAYS


class MonthExposure:
    """What the surfaces can show in one month."""

    def __init__(self, world: World, month: int) -> None:
        self._world = world
        self._start = month * DAYS_PER_MONTH
        self._samplers = {kind: self._sampler(kind) for kind in KINDS if kind.entity_type != "person"}
        self._by_author = {kind: self._author_sampler(kind) for kind in KINDS if kind.author == "writer"}

    def draw(self, rng: np.random.Generator, entity_type: str, member_N: Array, day_N: Array) -> Array:
        """Draw the entity of each impression.

        Args:
            rng: Source of randomness.
            entity_type: What the surface shows.
            member_N: Members.
            day_N: Fractional days in this month.

        Returns:
            Indexes of entities of the type, which exist on that day.
        """
        config, members = self._world.config, self._world.members
        N = len(member_N)
        if entity_type == "person":
            first = self._world.entities.first("person")
            return first + member_N * SUGGESTIONS + rng.integers(SUGGESTIONS, size=N)
        kind = KINDS[ENTITY_TYPES.index(entity_type)]
        industry_N, channel_N = members.industry_M[member_N], rng.random(N)
        if kind.by_topic:
            groups, related_N = TOPIC_COUNT, draw_topics(rng, industry_N)
            interest_N = members.liked_topics(member_N, day_N)[np.arange(N), rng.integers(len(SLOT_SIGNS), size=N)]
        else:
            groups, related_N = INDUSTRY_COUNT, industry_N
            interest_N = members.aim_MK[member_N, rng.integers(2, size=N)]
        group_N = np.where(channel_N < config.related_share, related_N, interest_N)
        period_N = np.clip((day_N - self._start) // PERIOD_DAYS, 0, _PERIODS - 1).astype(np.int64)
        sampler = self._samplers[kind]
        first_N = period_N * groups + group_N
        any_N = (channel_N >= config.related_share + config.interest_share) | sampler.is_empty(first_N)
        first_N = np.where(any_N, period_N * groups, first_N)
        shown_N = sampler.draw(rng.random(N), first_N, np.where(any_N, first_N + groups - 1, first_N))
        if kind in self._by_author:
            self._replace_by_network(rng, kind, member_N, period_N, channel_N >= 1 - config.network_share, shown_N)
        return shown_N

    def _replace_by_network(
        self,
        rng: np.random.Generator,
        kind: Kind,
        member_N: Array,
        period_N: Array,
        by_network_N: Array,
        shown_N: Array,
    ) -> None:
        """Replace what is shown by what a connection wrote, where there is such an entity."""
        entities, sampler = self._world.entities, self._by_author[kind]
        friend_N = self._world.network.draw_connection(rng.random(len(member_N)), member_N)
        uniform_N = rng.random(len(member_N))
        rows = np.flatnonzero(by_network_N & (friend_N >= 0) & ~sampler.is_empty(np.maximum(friend_N, 0)))
        written = sampler.draw(uniform_N[rows], friend_N[rows])
        day = self._start + period_N[rows] * PERIOD_DAYS
        alive = (entities.created_E[written] <= day) & (entities.expires_E[written] > day)
        shown_N[rows[alive]] = written[alive]

    def _sampler(self, kind: Kind) -> GroupSampler:
        entities = self._world.entities
        rows = entities.rows(kind.entity_type)
        part = slice(rows.start, rows.stop)
        groups = TOPIC_COUNT if kind.by_topic else INDUSTRY_COUNT
        group_E = (entities.topic_E if kind.by_topic else entities.industry_E)[part]
        day_P = self._start + np.arange(_PERIODS)[:, None] * PERIOD_DAYS
        alive_PE = (entities.created_E[part] <= day_P) & (entities.expires_E[part] > day_P)
        period, row = np.nonzero(alive_PE)
        return GroupSampler(
            period * groups + group_E[row], entities.weight_E[part][row], _PERIODS * groups, rows.start + row
        )

    def _author_sampler(self, kind: Kind) -> GroupSampler:
        entities = self._world.entities
        rows = entities.rows(kind.entity_type)
        author_E = entities.author_E[rows.start : rows.stop]
        index_E = np.arange(rows.start, rows.stop)
        return GroupSampler(author_E, np.ones(len(author_E)), self._world.members.count, index_E)
