"""Verbalizes the network of a member as fields of the profile.

A suite shows these fields like those of the members table, for example `Connected with: {{ connected_with }}`. Fields
of the members table win over those of the same name.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import pyarrow as pa

__all__ = ["NETWORK_FIELDS", "Link", "member_links", "network_fields"]

NETWORK_FIELDS = ("connections", "follows", "followers", "connected_with", "following")
DESCRIBED = 5  # other members that `connected_with` and `following` describe


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


def member_links(
    connections: pa.Table, profiles: Mapping[str, Mapping[str, str]], *, until: int
) -> dict[str, list[Link]]:
    """Return the network of each member.

    Args:
        connections: Rows of the table; a mutual connection is one row.
        profiles: Fields by member, from `Records.profiles`; a connection with another member is left out.
        until: Later connections are left out, in microseconds since 1970, UTC: those after the end of training would
            show the future.

    Returns:
        Links by member, the newest first.
    """
    links: dict[str, list[tuple[int, str, Link]]] = {}
    columns = [connections[name].to_pylist() for name in ("member_id", "other_id", "kind")]
    times = connections["timestamp"].cast(pa.int64()).to_pylist()
    for member, other, kind, timestamp in zip(*columns, times, strict=True):
        if timestamp > until or member not in profiles or other not in profiles:
            continue
        links.setdefault(member, []).append((-timestamp, other, Link(kind, profiles[other], timestamp)))
        reverse = Link("follower" if kind == "follow" else kind, profiles[member], timestamp)
        links.setdefault(other, []).append((-timestamp, member, reverse))
    return {member: [link for *_, link in sorted(found, key=_place)] for member, found in links.items()}


def network_fields(links: Sequence[Link], described_by: str) -> dict[str, str]:
    """Return the fields of a profile that describe the network of a member.

    Args:
        links: From `member_links`.
        described_by: The field of other members that describes them, usually the first one of the profile's template,
            such as their title. Names of people are not needed.

    Returns:
        The counts `connections`, `follows` and `followers`, and `connected_with` and `following`, which list the
        newest different descriptions. Without such members, a field is absent.
    """
    kinds = {kind: [link for link in links if link.kind == kind] for kind in ("connection", "follow", "follower")}
    values = {
        "connections": str(len(kinds["connection"]) or ""),
        "follows": str(len(kinds["follow"]) or ""),
        "followers": str(len(kinds["follower"]) or ""),
        "connected_with": _described(kinds["connection"], described_by),
        "following": _described(kinds["follow"], described_by),
    }
    return {name: text for name, text in values.items() if text}


def _described(links: Iterable[Link], field: str) -> str:
    texts = dict.fromkeys(link.profile[field] for link in links if field in link.profile)
    return ", ".join(list(texts)[:DESCRIBED])


def _place(found: tuple[int, str, Link]) -> tuple[int, str, str]:
    """The newest link first; those of the same time in the order of ids and kinds."""
    return found[0], found[1], found[2].kind
