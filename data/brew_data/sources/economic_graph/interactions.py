"""Generates the interactions month by month, so that no more than one month is in memory.

Each month is generated in blocks of members, and each block draws from a stream of its own. The result depends on the
config only, and neither on the order of the blocks nor on how many rows are written at a time.

Shape suffixes: N interactions, A actions.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np

from brew_data.sources.economic_graph.behaviour import Behaviour
from brew_data.sources.economic_graph.config import DAYS_PER_MONTH, START, random_stream
from brew_data.sources.economic_graph.exposure import MonthExposure
from brew_data.sources.economic_graph.group_sampler import Array
from brew_data.sources.economic_graph.surfaces import MOST_ACTIONS, SURFACES
from brew_data.sources.economic_graph.visits import draw_visits
from brew_data.sources.economic_graph.world import World

__all__ = ["BLOCK_MEMBERS", "Interactions", "generate_months"]

BLOCK_MEMBERS = 2_048  # of the members that draw from one stream; part of what a seed means
RETURN_SHARE = 0.5  # of saved entities, to which the member comes back; our choice
RETURN_DAYS = 8.0  # mean time until then, exponential; our choice
_MICROS_PER_DAY = 86_400_000_000


@dataclass(frozen=True, kw_only=True)
class Interactions:
    """Interactions, one row each."""

    time_N: Array  # int64, microseconds since 1970
    member_N: Array  # int32, index of a member
    entity_N: Array  # int32, index of an entity
    surface_N: Array  # int8, index into SURFACES
    action_N: Array  # int8, index into the surface's actions
    probability_NA: Array  # float32, (N, MOST_ACTIONS), of each action; 0 beyond the surface's actions

    @property
    def count(self) -> int:
        """The number of rows."""
        return len(self.time_N)

    def take(self, rows: Array | slice) -> "Interactions":
        """Return some rows: their indexes, a bool for each row, or a slice."""
        return Interactions(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    @staticmethod
    def concatenate(parts: "list[Interactions]") -> "Interactions":
        """Join rows of several parts, in their order."""
        names = [f.name for f in fields(Interactions)]
        return Interactions(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})


def generate_months(world: World) -> Iterator[Interactions]:
    """Generate the interactions of each month, in order of time.

    A member sees an entity at most once a month on a surface, unless they come back to it: after some actions, a later
    row has what they then did.
    """
    behaviour = Behaviour(world)
    pending: list[Interactions] = []
    start = int(START.timestamp() * 1_000_000)
    for month in range(world.config.months):
        exposure = MonthExposure(world, month)
        for first in range(0, world.members.count, BLOCK_MEMBERS):
            block = range(first, min(first + BLOCK_MEMBERS, world.members.count))
            rng = random_stream(world.config, "interactions", month, first // BLOCK_MEMBERS)
            pending += _draw_block(world, behaviour, exposure, rng, block, month)
        rows = Interactions.concatenate(pending)
        is_due = rows.time_N < start + (month + 1) * DAYS_PER_MONTH * _MICROS_PER_DAY
        pending = [rows.take(~is_due)]  # the rest happens in later months, or after the end of the log
        due = rows.take(is_due)
        yield due.take(np.argsort(due.time_N, kind="stable"))


def _draw_block(
    world: World, behaviour: Behaviour, exposure: MonthExposure, rng: np.random.Generator, block: range, month: int
) -> list[Interactions]:
    """Draw the rows of a block of members in one month, and those of their later returns."""
    visits = draw_visits(world.config, rng, world.members, block, month)
    parts = []
    for number, surface in enumerate(SURFACES):
        of_surface = visits.surface_N == number
        member_N, day_N = visits.member_N[of_surface], visits.day_N[of_surface]
        entity_N = exposure.draw(rng, surface.entity_type, member_N, day_N)
        first = np.sort(np.unique(member_N * world.entities.count + entity_N, return_index=True)[1])
        rows = _act(behaviour, rng, number, member_N[first], entity_N[first], day_N[first])
        parts.append(rows)
        if surface.returns is not None:
            names = [action.name for action in surface.actions]
            leads_back_N = rows.action_N == names.index(surface.returns)
            back = np.flatnonzero(leads_back_N & (rng.random(rows.count) < RETURN_SHARE))
            later_N = day_N[first][back] + 1 / 24 + rng.exponential(RETURN_DAYS, size=len(back))
            later_N = np.minimum(later_N, float(world.config.days))  # rows at the end of the log are dropped
            parts.append(
                _act(behaviour, rng, number, member_N[first][back], entity_N[first][back], later_N, returning=True)
            )
    return parts


def _act(
    behaviour: Behaviour,
    rng: np.random.Generator,
    surface: int,
    member_N: Array,
    entity_N: Array,
    day_N: Array,
    *,
    returning: bool = False,
) -> Interactions:
    probability_NA = behaviour.probabilities(surface, member_N, entity_N, day_N, returning=returning)
    below_NA = rng.random(len(member_N))[:, None] >= np.cumsum(probability_NA, axis=1)
    padded_NA = np.zeros((len(member_N), MOST_ACTIONS), dtype=np.float32)
    padded_NA[:, : probability_NA.shape[1]] = probability_NA
    return Interactions(
        time_N=int(START.timestamp() * 1_000_000) + (day_N * _MICROS_PER_DAY).astype(np.int64),
        member_N=member_N.astype(np.int32),
        entity_N=entity_N.astype(np.int32),
        surface_N=np.full(len(member_N), surface, dtype=np.int8),
        action_N=np.minimum(below_NA.sum(axis=1), probability_NA.shape[1] - 1).astype(np.int8),
        probability_NA=padded_NA,
    )
