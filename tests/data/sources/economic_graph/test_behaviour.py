"""True probabilities: distributions over the actions of a surface that follow facts and preferences."""

import numpy as np
import pytest

from brew_data.sources.economic_graph.behaviour import COMPONENTS, MATCHES, Behaviour, components, match_features
from brew_data.sources.economic_graph.facts import ENTITY_TYPES
from brew_data.sources.economic_graph.interactions import Interactions
from brew_data.sources.economic_graph.surfaces import SURFACES
from brew_data.sources.economic_graph.world import World


@pytest.fixture(scope="module")
def behaviour(world: World) -> Behaviour:
    return Behaviour(world)


def pairs(world: World, entity_type: str) -> tuple[np.ndarray, np.ndarray]:
    """All members with some entities of a type."""
    entity_N = np.array(world.entities.rows(entity_type))[:40]
    return np.repeat(np.arange(world.members.count), len(entity_N)), np.tile(entity_N, world.members.count)


@pytest.mark.parametrize("number", range(len(SURFACES)))
def test_probabilities_are_distributions(behaviour: Behaviour, world: World, number: int) -> None:
    member_N, entity_N = pairs(world, SURFACES[number].entity_type)
    for returning in (False, True):
        p = behaviour.probabilities(number, member_N, entity_N, np.full(len(member_N), 50.0), returning=returning)
        assert p.shape == (len(member_N), len(SURFACES[number].actions))
        assert (p > 0).all()
        assert np.allclose(p.sum(axis=1), 1)


@pytest.mark.parametrize("number", range(len(SURFACES)))
def test_actions_have_about_their_rates(rows: Interactions, number: int) -> None:
    p = rows.probability_NA[rows.surface_N == number].mean(axis=0)
    rates = [action.rate for action in SURFACES[number].actions]
    assert p[: len(rates)] == pytest.approx(rates, abs=0.08)
    assert (p[len(rates) :] == 0).all()


def test_actions_are_draws_from_the_probabilities(rows: Interactions) -> None:
    for number, surface in enumerate(SURFACES):
        part = rows.take(rows.surface_N == number)
        for action in range(len(surface.actions)):
            p, y = part.probability_NA[:, action], part.action_N == action
            error = (y - p).sum() / np.sqrt((p * (1 - p)).sum())
            assert abs(error) < 4.5  # standard deviations


@pytest.mark.parametrize("entity_type", ENTITY_TYPES)
def test_matches_are_those_of_the_facts(world: World, entity_type: str) -> None:
    member_N, entity_N = pairs(world, entity_type)
    features = match_features(world, entity_type, member_N, entity_N)
    assert set(features) == set(MATCHES[entity_type])
    assert all(np.isfinite(values).all() and values.std() > 0 for values in features.values())
    if "common_skills" in features:
        row = int(np.argmax(features["common_skills"]))
        member, entity = member_N[row], entity_N[row]
        assert world.members.industry_M[member] == world.entities.industry_E[entity]
        common = set(world.members.skills_MK[member]) & set(world.entities.skills_EK[entity])
        assert features["common_skills"][row] == len(common)


def test_a_liked_topic_raises_the_probability_of_a_reaction(behaviour: Behaviour, world: World) -> None:
    number = [surface.name for surface in SURFACES].index("feed")
    member_N, entity_N = pairs(world, "post")
    day_N = np.zeros(len(member_N))
    interest_N = components(world, "post", member_N, entity_N, day_N)[:, COMPONENTS.index("interest")]
    reacts_N = 1 - behaviour.probabilities(number, member_N, entity_N, day_N)[:, -1]
    means = [reacts_N[interest_N == value].mean() for value in (-1, 0, 1)]
    assert means[0] + 0.05 < means[1] < means[2] - 0.1


def test_interests_change_on_the_day_of_the_change(world: World) -> None:
    members = world.members
    member = int(np.flatnonzero(np.isfinite(members.change_M) & (members.change_M > 1))[0])
    before, after = (
        members.liked_topics(np.array([member]), np.array([members.change_M[member] + step]))[0] for step in (-0.5, 0.5)
    )
    assert before[0] == after[0]
    assert before[1] != after[1]
    assert before[2] == after[2]


def test_a_member_who_comes_back_acts_more_often(behaviour: Behaviour, world: World) -> None:
    number = [surface.name for surface in SURFACES].index("jobs")
    member_N, entity_N = pairs(world, "job")
    day_N = np.zeros(len(member_N))
    first, later = (behaviour.probabilities(number, member_N, entity_N, day_N, returning=r) for r in (False, True))
    assert (later[:, 0] > first[:, 0]).all()
