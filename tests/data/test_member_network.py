"""Network facts as fields of the members table."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa

from brew_data.member_network import with_network
from brew_data.prompts.suite import TaskSuite
from brew_data.prompts.templates import RecordTemplate
from brew_data.schema import CONNECTIONS

DAY = datetime(2025, 1, 1, tzinfo=UTC)
UNTIL = int(DAY.timestamp() * 1_000_000)


def make_suite(*fields: str) -> TaskSuite:
    profile = RecordTemplate(fields=["title", *fields], phrases=["{{ title }}"])
    return TaskSuite(name="network", profile=profile, entities={}, surfaces=[])


def make_members(**more: Any) -> pa.Table:
    ids = ["a", "b", "c", "out"]
    return pa.table(
        {
            "member_id": ids,
            "profile": [{"title": f"title of {id_}", **more} for id_ in ids],
            "locale": ["en"] * 4,
            "opted_out": [id_ == "out" for id_ in ids],
        }
    )


CONNECTED = pa.Table.from_pylist(
    [
        {"member_id": "a", "other_id": "b", "kind": "connection", "timestamp": DAY},
        {"member_id": "a", "other_id": "out", "kind": "connection", "timestamp": DAY},
        {"member_id": "c", "other_id": "a", "kind": "follow", "timestamp": DAY},
        {"member_id": "b", "other_id": "c", "kind": "connection", "timestamp": DAY + timedelta(days=1)},
    ],
    pa.schema(CONNECTIONS),
)


def test_the_declared_fields_are_added_as_of_the_end_of_training() -> None:
    suite = make_suite("connections", "followers", "connected_with")
    added = with_network(make_members(), CONNECTED, suite, until=UNTIL)
    assert added.drop(["profile"]) == make_members().drop(["profile"])
    assert added["profile"].to_pylist() == [
        {"title": "title of a", "connections": "1", "followers": "1", "connected_with": "title of b"},
        {"title": "title of b", "connections": "1", "followers": None, "connected_with": "title of a"},
        {"title": "title of c", "connections": None, "followers": None, "connected_with": None},
        {"title": "title of out", "connections": None, "followers": None, "connected_with": None},
    ]


def test_members_keep_fields_that_they_have_and_get_none_without_connections() -> None:
    members = make_members(followers=9)
    assert with_network(members, CONNECTED, make_suite("followers"), until=UNTIL) is members
    assert with_network(members, None, make_suite("connections"), until=UNTIL) is members
    assert with_network(members, CONNECTED, make_suite(), until=UNTIL) is members
    both = with_network(members, CONNECTED, make_suite("followers", "connections"), until=UNTIL)
    assert both["profile"][0].as_py() == {"title": "title of a", "followers": 9, "connections": "1"}
