"""The network of a member as fields of the profile."""

from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest

from brew_data.prompts.network import DESCRIBED, NETWORK_FIELDS, Link, Network, network_fields
from brew_data.schema import CONNECTIONS

START = datetime(2025, 1, 1, tzinfo=UTC)
PROFILES = {name: {"title": f"title of {name}", "city": "berlin"} for name in "abcd"}
Row = tuple[str, str, str, int]


def connections(*rows: Row) -> pa.Table:
    names = list(CONNECTIONS)
    values = [(member, other, kind, START + timedelta(days=day)) for member, other, kind, day in rows]
    return pa.Table.from_pylist([dict(zip(names, row, strict=True)) for row in values], pa.schema(CONNECTIONS))


def network(*rows: Row, until: int = 9) -> Network:
    last = START + timedelta(days=until)
    return Network(connections(*rows), until=int(last.timestamp() * 1_000_000))


def test_a_connection_is_seen_from_both_sides_and_a_follow_has_a_direction() -> None:
    found = network(("a", "b", "connection", 1), ("c", "a", "connection", 3), ("a", "d", "follow", 2))
    links = found.links("a", PROFILES)
    assert [(link.kind, link.profile["title"]) for link in links] == [
        ("connection", "title of c"),
        ("follow", "title of d"),
        ("connection", "title of b"),
    ]
    assert links[0].timestamp == int((START + timedelta(days=3)).timestamp() * 1_000_000)
    assert network_fields(links, "title") == {
        "connections": "2",
        "follows": "1",
        "connected_with": "title of c; title of b",
        "following": "title of d",
    }
    assert network_fields(found.links("d", PROFILES), "title") == {"followers": "1"}


def test_later_connections_and_members_without_a_profile_are_left_out() -> None:
    rows: list[Row] = [("a", "b", "connection", 5), ("a", "gone", "connection", 1), ("gone", "a", "follow", 1)]
    assert network(*rows, until=4).links("a", PROFILES) == []
    assert network(*rows, until=4).links("b", PROFILES) == []
    assert [link.profile for link in network(*rows, until=5).links("a", PROFILES)] == [PROFILES["b"]]
    assert network().links("a", PROFILES) == []


@pytest.mark.parametrize("member", ["a", "b", "c"])
def test_the_order_of_the_rows_is_of_no_influence(member: str) -> None:
    rows: list[Row] = [
        ("a", "b", "connection", 1),
        ("a", "c", "connection", 1),
        ("a", "b", "follow", 1),
        ("b", "a", "follow", 1),
        ("d", "b", "follow", 3),
    ]
    links = network(*rows).links(member, PROFILES)
    assert links
    assert network(*rows[::-1]).links(member, PROFILES) == links


def test_the_newest_different_descriptions_are_listed() -> None:
    links = [Link("connection", {"title": f"t{number // 2}"}, 100 - number) for number in range(40)]
    fields = network_fields([*links, Link("connection", {}, 0)], "title")
    assert fields["connections"] == "41"
    assert fields["connected_with"] == "; ".join(f"t{number}" for number in range(DESCRIBED))
    assert set(fields) <= set(NETWORK_FIELDS)
    assert network_fields([], "title") == {}
