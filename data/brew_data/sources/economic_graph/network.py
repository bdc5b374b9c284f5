"""Draws the network of the members: connections, follows, and the people whom the product suggests to a member.

Shape suffixes: M members, K suggestions of a member, N any pairs.
"""

from dataclasses import dataclass

import numpy as np

from brew_data.sources.economic_graph.config import EconomicGraphConfig, random_stream
from brew_data.sources.economic_graph.group_sampler import Array, GroupSampler
from brew_data.sources.economic_graph.population import INDUSTRY_COUNT, Members

__all__ = ["SUGGESTIONS", "Network", "draw_network", "draw_suggestions"]

SUGGESTIONS = 6  # of people, for each member; our choice
_PAIRS_AT_A_TIME = 65_536  # whose common connections are counted together; limits memory only


@dataclass(frozen=True, kw_only=True)
class Network:
    """Who is connected to whom, and who follows whom, before or at the time when the later of both joined."""

    members: int
    connection_X2: Array  # each connection once, lower member first; int, (connections, 2)
    follow_X2: Array  # follower, followed
    first_M: Array  # position of a member's first connection in `other`; (members + 1,)
    other: Array  # the connections of the members, one member after the other
    edges: Array  # sorted keys `member * members + other` of connections in both directions
    known: Array  # as `edges`, with follows in their direction

    def draw_connection(self, uniform_N: Array, member_N: Array) -> Array:
        """Draw a connection of each member; -1 where a member has none."""
        if not len(self.other):
            return np.full(len(member_N), -1)
        start_N, size_N = self.first_M[member_N], np.diff(self.first_M)[member_N]
        index_N = start_N + (uniform_N * size_N).astype(np.int64)
        return np.where(size_N > 0, self.other[np.minimum(index_N, len(self.other) - 1)], -1)

    def knows(self, member_N: Array, other_N: Array) -> Array:
        """Whether each member is connected to the other one or follows them; bool, (N,)."""
        return _contains(self.known, member_N.astype(np.int64) * self.members + other_N)

    def common_connections(self, member_N: Array, other_N: Array) -> Array:
        """Count the connections that both have; int, (N,)."""
        size_M = np.diff(self.first_M)
        counts = []
        for start in range(0, len(member_N), _PAIRS_AT_A_TIME):
            members, others = (x[start : start + _PAIRS_AT_A_TIME] for x in (member_N, other_N))
            size = size_M[members]
            pair = np.repeat(np.arange(len(members)), size)
            place = np.arange(len(pair)) - np.repeat(np.cumsum(size) - size, size)
            common = self.other[self.first_M[members][pair] + place]
            hit = _contains(self.edges, others[pair].astype(np.int64) * self.members + common)
            counts.append(np.bincount(pair, weights=hit, minlength=len(members)).astype(np.int64))
        return np.concatenate(counts)


def draw_network(config: EconomicGraphConfig, members: Members) -> Network:
    """Draw connections, mostly within an industry or a city, and follows, mostly of members with many followers."""
    rng = random_stream(config, "network")
    M = members.count
    sociable_M = np.exp(0.7 * rng.standard_normal(M) - 0.7**2 / 2)  # mean 1
    count_M = rng.poisson(config.connections_per_member / 2 * sociable_M)
    from_N = np.repeat(np.arange(M), count_M)
    by_industry = GroupSampler(members.industry_M, sociable_M, INDUSTRY_COUNT)
    by_city = GroupSampler(members.city_M, sociable_M, int(members.city_M.max()) + 1)
    channel_N, uniform_N = rng.random(len(from_N)), rng.random(len(from_N))
    to_N = np.where(
        channel_N < 0.55,
        by_industry.draw(uniform_N, members.industry_M[from_N]),
        np.where(channel_N < 0.8, by_city.draw(uniform_N, members.city_M[from_N]), (uniform_N * M).astype(np.int64)),
    )
    connection_X2 = _unique_pairs(np.minimum(from_N, to_N), np.maximum(from_N, to_N), M)

    follower_N = np.repeat(np.arange(M), rng.poisson(config.follows_per_member, size=M))
    by_fame = GroupSampler(np.zeros(M, dtype=np.int64), members.followers_M + 1.0, 1)
    follow_X2 = _unique_pairs(follower_N, by_fame.draw(rng.random(len(follower_N)), np.zeros_like(follower_N)), M)

    low, high = connection_X2.T
    edges = np.sort(np.concatenate([low * M + high, high * M + low]))
    return Network(
        members=M,
        connection_X2=connection_X2,
        follow_X2=follow_X2,
        first_M=np.searchsorted(edges, np.arange(M + 1) * M),
        other=edges % M,
        edges=edges,
        known=np.unique(np.concatenate([edges, follow_X2[:, 0] * M + follow_X2[:, 1]])),
    )


def draw_suggestions(config: EconomicGraphConfig, members: Members, network: Network) -> tuple[Array, Array]:
    """Draw the people whom the product suggests to each member: mostly connections of connections.

    Everybody who is suggested joined before the log starts.

    Returns:
        The suggested member, and the number of common connections; both int, (M, K).
    """
    rng = random_stream(config, "suggestions")
    M, K = members.count, SUGGESTIONS
    member_N = np.repeat(np.arange(M), K)
    middle_N = network.draw_connection(rng.random(M * K), member_N)
    near_N = network.draw_connection(rng.random(M * K), np.maximum(middle_N, 0))
    established = np.flatnonzero(members.join_M == 0)
    far_N = established[(rng.random(M * K) * len(established)).astype(np.int64)]
    colleague = GroupSampler(members.industry_M[established], np.ones(len(established)), INDUSTRY_COUNT, established)
    industry_N = members.industry_M[member_N]
    has_colleague_N = ~colleague.is_empty(industry_N) & (rng.random(M * K) < 0.5)
    far_N[has_colleague_N] = colleague.draw(rng.random(M * K)[has_colleague_N], industry_N[has_colleague_N])
    is_far_N = (middle_N < 0) | (near_N < 0) | (rng.random(M * K) < 0.3)
    other_N = np.where(is_far_N, far_N, near_N)
    unsuitable_N = (other_N == member_N) | (members.join_M[other_N] > 0) | network.knows(member_N, other_N)
    other_N = np.where(unsuitable_N, far_N, other_N)
    next_N = established[(np.searchsorted(established, other_N) + 1) % len(established)]
    other_N = np.where(other_N == member_N, next_N, other_N)
    mutual_N = network.common_connections(member_N, other_N)
    return other_N.reshape(M, K), mutual_N.reshape(M, K)


def _unique_pairs(first_N: Array, second_N: Array, members: int) -> Array:
    keys = np.unique((first_N * members + second_N)[first_N != second_N])
    return np.stack([keys // members, keys % members], axis=1)


def _contains(sorted_keys: Array, key_N: Array) -> Array:
    if not len(sorted_keys):
        return np.zeros(len(key_N), dtype=bool)
    index_N = np.minimum(np.searchsorted(sorted_keys, key_N), len(sorted_keys) - 1)
    return sorted_keys[index_N] == key_N
