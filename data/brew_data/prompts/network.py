"""Verbalizes the network of a member as fields of the profile.

A suite shows these fields like those of the members table, for example `Connected with: {{ connected_with }}`. Fields
of the members table win over those of the same name.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

__all__ = ["NETWORK_FIELDS", "Link", "Network", "network_fields"]

NETWORK_FIELDS = ("connections", "follows", "followers", "connected_with", "following")
DESCRIBED = 5  # other members that `connected_with` and `following` describe
_KINDS = ("connection", "follow", "follower")


class Link(NamedTuple):
    """Another member in the network of a member.

    Args:
        kind: `connection`, `follow` (the member follows the other), or `follower` (the other follows the member).
        profile: The fields of the other member, from `field_values`.
        timestamp: Microseconds since 1970, UTC.
    """

    kind: str
    profile: Mapping[str, str]
    timestamp: int


class Network:
    """The connections of all members, as arrays.

    Shape suffixes: L links, each connection or follow as seen from one of its two members.

    Args:
        connections: Rows of the table; a mutual connection is one row.
        until: Later connections are left out, in microseconds since 1970, UTC: those after the end of training would
            show the future.
    """

    def __init__(self, connections: pa.Table, *, until: int) -> None:
        rows = connections.filter(pc.less_equal(connections["timestamp"].cast(pa.int64()), until))
        both = pa.chunked_array([*rows["member_id"].chunks, *rows["other_id"].chunks], pa.string())
        ids = pc.unique(both)
        self._ids = ids.take(pc.sort_indices(ids))
        self._code = {id_: code for code, id_ in enumerate(self._ids.to_pylist())}
        member, other = (pc.index_in(rows[name], value_set=self._ids).to_numpy() for name in ("member_id", "other_id"))
        time = rows["timestamp"].cast(pa.int64()).to_numpy()
        follows = pc.equal(rows["kind"], "follow").to_numpy()
        member_L, other_L = np.concatenate([member, other]), np.concatenate([other, member])
        kind_L = np.concatenate([np.where(follows, 1, 0), np.where(follows, 2, 0)])
        time_L = np.concatenate([time, time])
        order_L = np.lexsort((kind_L, other_L, -time_L, member_L))  # by member, then the newest first
        self._other_L, self._kind_L, self._time_L = other_L[order_L], kind_L[order_L], time_L[order_L]
        self._start = np.searchsorted(member_L[order_L], np.arange(len(self._ids) + 1))

    def links(self, member_id: str, profiles: Mapping[str, Mapping[str, str]]) -> list[Link]:
        """Return the network of a member, the newest first.

        Args:
            member_id: The member.
            profiles: Fields by member, from `Records.profiles`; members who are not in it are left out.
        """
        code = self._code.get(member_id)
        if code is None:
            return []
        links = slice(self._start[code], self._start[code + 1])
        others = self._ids.take(pa.array(self._other_L[links])).to_pylist()
        return [
            Link(_KINDS[kind], profiles[other], time)
            for other, kind, time in zip(
                others, self._kind_L[links].tolist(), self._time_L[links].tolist(), strict=True
            )
            if other in profiles
        ]


def network_fields(links: Sequence[Link], described_by: str) -> dict[str, str]:
    """Return the fields of a profile that describe the network of a member.

    Args:
        links: From `Network.links`.
        described_by: The field of other members that describes them, usually the first one of the profile's template,
            such as their title. Names of people are not needed.

    Returns:
        The counts `connections`, `follows` and `followers`, and `connected_with` and `following`, which list the
        newest different descriptions. Without such members, a field is absent.
    """
    connected, follows, followers = ([link for link in links if link.kind == kind] for kind in _KINDS)
    values = {
        "connections": str(len(connected) or ""),
        "follows": str(len(follows) or ""),
        "followers": str(len(followers) or ""),
        "connected_with": _described(connected, described_by),
        "following": _described(follows, described_by),
    }
    return {name: text for name, text in values.items() if text}


def _described(links: Iterable[Link], field: str) -> str:
    texts = dict.fromkeys(link.profile[field] for link in links if field in link.profile)
    return "; ".join(list(texts)[:DESCRIBED])  # titles have commas
