"""Draws when members visit which surface: sessions with a daily, weekly and yearly rhythm.

Shape suffixes: B members of a block, D days of a month, H hours of a month, S sessions, N interactions.
"""

from typing import NamedTuple

import numpy as np

from brew_data.sources.economic_graph.config import DAYS_PER_MONTH, START, EconomicGraphConfig
from brew_data.sources.economic_graph.group_sampler import Array
from brew_data.sources.economic_graph.population import Members
from brew_data.sources.economic_graph.surfaces import SURFACES

__all__ = ["Visits", "draw_visits"]

SESSION_ROWS = 4.0  # mean number of interactions of a session; our choice
DAYS_PER_YEAR = 12 * DAYS_PER_MONTH
# Activity by hour of the day: little at night, peaks in the morning, at noon and in the evening; our choice.
_HOURS = np.array([2, 1, 1, 1, 1, 2, 5, 9, 12, 13, 12, 11, 13, 11, 10, 10, 10, 10, 9, 9, 10, 10, 7, 4], dtype=float)
_SEEKER_SURFACES = ("jobs", "job_search", "messages")  # which members who look for a job use twice as much; our choice


class Visits(NamedTuple):
    """Impressions in order of time."""

    member_N: Array
    day_N: Array  # fractional days since the start of the log
    surface_N: Array  # index into SURFACES


def draw_visits(
    config: EconomicGraphConfig, rng: np.random.Generator, members: Members, block: range, month: int
) -> Visits:
    """Draw the visits of a block of members in one month. A session has one surface and a minute per impression."""
    start, end = month * DAYS_PER_MONTH, (month + 1) * DAYS_PER_MONTH
    use_DS = _use(config, np.arange(start, end))
    hours = np.linspace(start, end, 24 * DAYS_PER_MONTH + 1)
    total = np.concatenate([[0.0], np.cumsum(np.outer(use_DS.sum(axis=1), _HOURS / _HOURS.mean()).ravel() / 24)])

    member_B = np.arange(block.start, block.stop)
    begin_B = np.interp(np.clip(members.join_M[member_B], start, end), hours, total)
    count_B = rng.poisson(members.rate_M[member_B] * (total[-1] - begin_B) / SESSION_ROWS)
    member_S, begin_S = np.repeat(member_B, count_B), np.repeat(begin_B, count_B)
    day_S = np.interp(begin_S + rng.random(len(member_S)) * (total[-1] - begin_S), total, hours)

    seeking = np.where(np.isin([surface.name for surface in SURFACES], _SEEKER_SURFACES), 2.0, 1.0)
    chances = np.stack([use_DS, use_DS * seeking])
    cumulative = np.cumsum(chances, axis=2) / chances.sum(axis=2, keepdims=True)
    of_day_S = np.clip(day_S.astype(np.int64) - start, 0, DAYS_PER_MONTH - 1)
    row_SV = cumulative[members.seeks_M[member_S].astype(np.int64), of_day_S]
    surface_S = np.minimum((rng.random(len(member_S))[:, None] >= row_SV).sum(axis=1), len(SURFACES) - 1)

    size_S = 1 + rng.poisson(SESSION_ROWS - 1, size=len(member_S))
    session_N = np.repeat(np.arange(len(member_S)), size_S)
    place_N = np.arange(len(session_N)) - np.repeat(np.cumsum(size_S) - size_S, size_S)
    day_N = day_S[session_N] + (place_N + rng.random(len(session_N))) / 1440
    order = np.argsort(day_N, kind="stable")
    return Visits(member_S[session_N][order], day_N[order], surface_S[session_N][order])


def _use(config: EconomicGraphConfig, day_D: Array) -> Array:
    """Compute the use of each surface on each day, relative to all surfaces on a working day; (D, surfaces)."""
    weekend_D = (day_D + START.weekday()) % 7 >= 5
    columns = []
    for surface in SURFACES:
        season_D = 1 + config.season_strength * np.cos(2 * np.pi * (day_D - surface.peak) / DAYS_PER_YEAR)
        columns.append(surface.share * season_D * np.where(weekend_D, surface.weekend, 1.0))
    return np.stack(columns, axis=1)
