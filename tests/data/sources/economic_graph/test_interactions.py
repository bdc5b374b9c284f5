"""Interactions: in order of time, of entities that exist, and the same however they are generated."""

import numpy as np
import pytest

from brew_data.sources.economic_graph import interactions as module
from brew_data.sources.economic_graph.config import DAYS_PER_MONTH, START
from brew_data.sources.economic_graph.facts import ENTITY_TYPES
from brew_data.sources.economic_graph.interactions import Interactions, generate_months
from brew_data.sources.economic_graph.surfaces import SURFACES
from brew_data.sources.economic_graph.world import World

MICROS_PER_DAY = 86_400_000_000


def days(rows: Interactions) -> np.ndarray:
    return (rows.time_N - int(START.timestamp() * 1_000_000)) / MICROS_PER_DAY


def test_rows_are_in_order_of_time_within_the_log(rows: Interactions, world: World) -> None:
    assert (np.diff(rows.time_N) >= 0).all()
    assert days(rows).min() >= 0
    assert days(rows).max() < world.config.days
    assert 40 < rows.count / world.members.count < 90  # of 100, without the time before members joined


def test_nobody_acts_before_joining_and_nothing_is_shown_before_it_exists(rows: Interactions, world: World) -> None:
    assert (days(rows) >= world.members.join_M[rows.member_N] - 1e-6).all()
    assert (days(rows) >= world.entities.created_E[rows.entity_N] - 1e-6).all()


def test_surfaces_show_entities_of_their_type_and_people_to_whom_they_are_suggested(
    rows: Interactions, world: World
) -> None:
    types = np.array([ENTITY_TYPES.index(surface.entity_type) for surface in SURFACES])
    assert (world.entities.type_E[rows.entity_N] == types[rows.surface_N]).all()
    people = rows.take(world.entities.owner_E[rows.entity_N] >= 0)
    assert (world.entities.owner_E[people.entity_N] == people.member_N).all()


def test_members_come_back_to_what_they_saved(rows: Interactions) -> None:
    jobs = rows.take(rows.surface_N == 0)
    saved = {(m, e) for m, e, a in zip(jobs.member_N, jobs.entity_N, jobs.action_N, strict=True) if a == 1}
    applied = {(m, e) for m, e, a in zip(jobs.member_N, jobs.entity_N, jobs.action_N, strict=True) if a == 0}
    assert len(saved & applied) > 5


def test_months_are_generated_one_at_a_time(rows: Interactions, world: World) -> None:
    months = list(generate_months(world))
    assert len(months) == world.config.months
    for number, month in enumerate(months):
        assert (days(month) // DAYS_PER_MONTH == number).all()
    assert sum(month.count for month in months) == rows.count


def test_blocks_of_members_do_not_depend_on_each_other(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK_MEMBERS", 64)
    all_rows = Interactions.concatenate(list(generate_months(world)))
    drawn = module._draw_block

    def only_second(world, behaviour, exposure, rng, block, month):  # type: ignore[no-untyped-def]
        rows = drawn(world, behaviour, exposure, rng, block, month)
        return rows if block.start == 64 else [part.take(np.zeros(part.count, dtype=bool)) for part in rows]

    monkeypatch.setattr(module, "_draw_block", only_second)
    alone = Interactions.concatenate(list(generate_months(world)))
    of_block = all_rows.take((all_rows.member_N >= 64) & (all_rows.member_N < 128))
    for name in ("time_N", "member_N", "entity_N", "action_N", "probability_NA"):
        assert np.array_equal(getattr(alone, name), getattr(of_block, name))


def test_the_week_has_a_rhythm(rows: Interactions) -> None:
    weekday = (days(rows).astype(int) + START.weekday()) % 7
    by_surface = {
        surface.name: np.bincount(weekday[rows.surface_N == number], minlength=7)
        for number, surface in enumerate(SURFACES)
    }
    weekend = {name: counts[5:].mean() / counts[:5].mean() for name, counts in by_surface.items()}
    assert weekend["jobs"] < 0.7 < weekend["feed"]
