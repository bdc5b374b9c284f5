"""The fold from events to aliases, held against its definition on any sequence of events."""

from hypothesis import given
from hypothesis import strategies as st

from brew_platform.errors import RegistryError
from brew_platform.registry.events import KINDS, MOVES, Event, aliases, rollback_target


def event(number: int, kind: str, version: int, alias: str | None = "production") -> Event:
    return Event(number=number, kind=kind, version=version, alias=alias, author="ana", time="2026-01-01T00:00:00+00:00")


names = st.sampled_from(["production", "canary"])
any_events = st.lists(st.tuples(st.sampled_from(KINDS), st.integers(1, 5), names), max_size=30).map(
    lambda rows: [event(i, *row) for i, row in enumerate(rows, 1)]
)


@given(any_events)
def test_an_alias_points_to_the_version_of_the_last_event_that_moved_it(events: list[Event]) -> None:
    moves = [e for e in events if e.kind in MOVES]
    assert aliases(events) == {e.alias: e.version for e in moves}


@given(any_events)
def test_a_stored_event_reads_back_equal(events: list[Event]) -> None:
    assert [Event.from_document(e.number, {**e.document(), "later_field": 1}) for e in events] == events


@given(st.lists(st.integers(1, 5), min_size=1), st.integers(0, 6))
def test_rollbacks_walk_back_through_the_promotions(versions: list[int], rollbacks: int) -> None:
    events = [event(i, "promote", version) for i, version in enumerate(versions, 1)]
    distinct = [v for i, v in enumerate(versions) if i == 0 or versions[i - 1] != v]
    for step in range(rollbacks):
        try:
            target = rollback_target("production", events)
        except RegistryError:
            assert step == len(distinct) - 1
            return
        assert target == distinct[-2 - step]
        events.append(event(len(events) + 1, "rollback", target))


def test_the_version_after_a_rollback_is_not_rolled_back_to() -> None:
    events = [event(1, "promote", 1), event(2, "promote", 2), event(3, "rollback", 1), event(4, "promote", 3)]
    assert rollback_target("production", events) == 1
