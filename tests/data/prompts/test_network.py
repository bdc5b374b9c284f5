"""The network of a member as fields of the profile."""

from datetime import UTC, datetime, timedelta

import pyarrow as pa

from brew_data.prompts.network import DESCRIBED, NETWORK_FIELDS, Link, member_links, network_fields
from brew_data.schema import CONNECTIONS

START = datetime(2025, 1, 1, tzinfo=UTC)
PROFILES = {name: {"title": f"title of {name}", "city": "berlin"} for name in "abcd"}


def connections(*rows: tuple[str, str, str, int]) -> pa.Table:
    names = list(CONNECTIONS)
    values = [(member, other, kind, START + timedelta(days=day)) for member, other, kind, day in rows]
    return pa.Table.from_pylist([dict(zip(names, row, strict=True)) for row in values], pa.schema(CONNECTIONS))


def until(day: int) -> int:
    return int((START + timedelta(days=day)).timestamp() * 1_000_000)


def test_a_connection_is_seen_from_both_sides_and_a_follow_has_a_direction() -> None:
    rows = connections(("a", "b", "connection", 1), ("c", "a", "connection", 3), ("a", "d", "follow", 2))
    links = member_links(rows, PROFILES, until=until(9))
    assert [(link.kind, link.profile["title"]) for link in links["a"]] == [
        ("connection", "title of c"),
        ("follow", "title of d"),
        ("connection", "title of b"),
    ]
    assert [(link.kind, link.profile["title"]) for link in links["d"]] == [("follower", "title of a")]
    assert network_fields(links["a"], "title") == {
        "connections": "2",
        "follows": "1",
        "connected_with": "title of c, title of b",
        "following": "title of d",
    }
    assert network_fields(links["d"], "title") == {"followers": "1"}


def test_later_connections_and_members_without_a_profile_are_left_out() -> None:
    rows = connections(("a", "b", "connection", 5), ("a", "gone", "connection", 1), ("gone", "a", "follow", 1))
    assert member_links(rows, PROFILES, until=until(4)) == {}
    assert set(member_links(rows, PROFILES, until=until(5))) == {"a", "b"}


def test_the_order_of_the_rows_is_of_no_influence() -> None:
    rows = [("a", "b", "connection", 1), ("a", "c", "connection", 1), ("a", "b", "follow", 1), ("b", "a", "follow", 1)]
    assert member_links(connections(*rows), PROFILES, until=until(9)) == member_links(
        connections(*rows[::-1]), PROFILES, until=until(9)
    )


def test_the_newest_different_descriptions_are_listed() -> None:
    links = [Link("connection", {"title": f"t{number // 2}"}, 100 - number) for number in range(40)]
    fields = network_fields([*links, Link("connection", {}, 0)], "title")
    assert fields["connections"] == "41"
    assert fields["connected_with"] == ", ".join(f"t{number}" for number in range(DESCRIBED))
    assert set(fields) <= set(NETWORK_FIELDS)
    assert network_fields([], "title") == {}
