"""Connections, follows, and people to suggest."""

import numpy as np

from brew_data.sources.economic_graph.network import SUGGESTIONS, draw_network, draw_suggestions
from brew_data.sources.economic_graph.world import World


def neighbours(world: World) -> list[set[int]]:
    sets: list[set[int]] = [set() for _ in range(world.members.count)]
    for low, high in world.network.connection_X2.tolist():
        sets[low].add(high)
        sets[high].add(low)
    return sets


def test_connections_are_unique_pairs_of_different_members(world: World) -> None:
    pairs = [tuple(pair) for pair in world.network.connection_X2.tolist()]
    assert len(set(pairs)) == len(pairs) > 500
    assert all(low < high for low, high in pairs)
    assert all(follower != followed for follower, followed in world.network.follow_X2.tolist())


def test_common_connections_are_counted(world: World) -> None:
    known = neighbours(world)
    member_N, other_N = np.divmod(np.arange(0, world.members.count**2, 37), world.members.count)
    expected = [len(known[a] & known[b]) for a, b in zip(member_N.tolist(), other_N.tolist(), strict=True)]
    assert world.network.common_connections(member_N, other_N).tolist() == expected
    assert max(expected) > 1


def test_members_know_connections_and_those_whom_they_follow(world: World) -> None:
    known = neighbours(world)
    for follower, followed in world.network.follow_X2.tolist():
        known[follower].add(followed)
    member_N, other_N = np.divmod(np.arange(0, world.members.count**2, 11), world.members.count)
    expected = [b in known[a] for a, b in zip(member_N.tolist(), other_N.tolist(), strict=True)]
    assert world.network.knows(member_N, other_N).tolist() == expected


def test_a_drawn_connection_is_one(world: World) -> None:
    known = neighbours(world)
    member_N = np.arange(world.members.count)
    drawn = world.network.draw_connection(np.full(len(member_N), 0.7), member_N).tolist()
    assert all((other in known[member]) if known[member] else other == -1 for member, other in enumerate(drawn))


def test_suggested_people_are_others_who_joined_before_the_log(world: World) -> None:
    other_MK, mutual_MK = draw_suggestions(world.config, world.members, world.network)
    assert other_MK.shape == mutual_MK.shape == (world.members.count, SUGGESTIONS)
    assert (other_MK != np.arange(world.members.count)[:, None]).all()
    assert (world.members.join_M[other_MK] == 0).all()
    assert (mutual_MK > 0).mean() > 0.5  # most are connections of connections


def test_the_network_is_the_same_for_a_seed(world: World) -> None:
    again = draw_network(world.config, world.members)
    assert np.array_equal(again.known, world.network.known)
    assert np.array_equal(again.other, world.network.other)
