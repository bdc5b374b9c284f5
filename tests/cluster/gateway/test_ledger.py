"""The ledger: events as they are stored, several ledgers on one log, damage, and the cost of a long log."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from brew_cluster.gateway.events import JobEvent, iso_time, timestamp
from brew_cluster.gateway.ledger import Ledger
from brew_cluster.gateway.state import LedgerState, fold
from brew_platform.errors import RegistryError, UserError
from brew_platform.storage.local import LocalStore

from ...platform.registry.memory_store import MemoryStore
from .fake_cluster import Clock

REFUSE = JobEvent(number=0, kind="refuse", team="feed", time="", by="key 1", outcome="quota", reason="too large")


def accept(state: LedgerState, now: float) -> JobEvent:
    spec = {"kind": "entrypoint", "entrypoint": "x", "gpus": 1}
    number = state.number + 1
    return JobEvent(
        number=0, kind="accept", team="feed", time="", by="key 1", job=f"job-{number}", spec=spec,
        request_id=str(number), rate=0.5,
    )  # fmt: skip


def test_an_event_is_stored_without_its_empty_fields() -> None:
    store = MemoryStore()
    event = Ledger(store, "a", clock=Clock()).append(lambda state, now: REFUSE)
    assert event is not None
    stored = json.loads(store.get("jobs/a/events/00000000000000000001.json"))
    assert stored == {
        "kind": "refuse", "team": "feed", "time": "2026-05-28T20:26:40.000+00:00", "by": "key 1", "outcome": "quota",
        "reason": "too large", "rate": 0.0, "weight": 1.0, "write_id": event.write_id,
    }  # fmt: skip
    assert JobEvent.from_document(1, {**stored, "later": 1}) == event
    assert timestamp(iso_time(1_780_000_000.25)) == 1_780_000_000.25


def test_a_decision_sees_the_events_of_other_gateways() -> None:
    store, clock = MemoryStore(), Clock()
    first, second = (Ledger(store, "a", clock=clock) for _ in range(2))
    seen = []
    for ledger in (first, second, first):

        def decide(state: LedgerState, now: float) -> JobEvent:
            seen.append(state.number)
            return accept(state, now)

        ledger.append(decide)
    assert seen == [0, 1, 2]
    assert first.read(lambda state, now: list(state.jobs)) == ["job-1", "job-2", "job-3"]
    assert second.append(lambda state, now: None) is None
    assert [event.job for event in second.events(after=1, limit=1)] == ["job-2"]


def test_a_race_is_decided_again_on_the_state_after_the_other_event() -> None:
    store, clock = MemoryStore(), Clock()
    first, second = (Ledger(store, "a", clock=clock) for _ in range(2))
    numbers = []

    def decide(state: LedgerState, now: float) -> JobEvent | None:
        numbers.append(state.number)
        if len(numbers) == 1:
            second.append(accept)  # between the decision and the write
        return accept(state, now) if state.number == 0 else None

    assert first.append(decide) is None
    assert numbers == [0, 1]
    assert first.read(lambda state, now: list(state.jobs)) == ["job-1"]


def test_threads_of_several_gateways_append_without_losing_an_event(tmp_path: Path) -> None:
    ledgers = [Ledger(LocalStore(tmp_path), "a") for _ in range(3)]
    with ThreadPoolExecutor(6) as pool:
        events = list(pool.map(lambda number: ledgers[number % 3].append(accept), range(60)))
    jobs = {event.job for event in events if event is not None}
    assert len(jobs) == 60
    assert all(set(ledger.read(lambda state, now: list(state.jobs))) == jobs for ledger in ledgers)


def test_times_never_go_backwards() -> None:
    store, clock = MemoryStore(), Clock()
    ledger = Ledger(store, "a", clock=clock)
    ledger.append(accept)
    clock.now -= 500
    ledger.append(accept)
    jobs = ledger.read(lambda state, now: [job.accepted for job in state.jobs.values()])
    assert jobs[0] == jobs[1]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kind": "end", "job": "job-9"}, "changes job-9, which is not open"),
        ({"number": 7}, "event 7 of the job ledger follows event 0"),
    ],
)
def test_events_that_do_not_follow_are_damage(change: dict[str, Any], words: str) -> None:
    with pytest.raises(RegistryError, match=words):
        fold([replace(REFUSE, **{"number": 1, "time": iso_time(0), **change})])


def test_a_damaged_event_names_its_number() -> None:
    with pytest.raises(RegistryError, match="event 3 of the job ledger is damaged"):
        JobEvent.from_document(3, {"kind": "accept"})


def test_a_ledger_of_many_events_is_read_from_snapshots() -> None:
    store, clock = MemoryStore(), Clock()
    ledger = Ledger(store, "a", clock=clock)
    for _ in range(800):
        ledger.append(lambda state, now: REFUSE)
    assert [int(key[-25:-5]) for key in store.list("jobs/a/snapshots/")] == [512, 768]
    reads = []
    store.get = lambda key, get=store.get: reads.append(key) or get(key)  # type: ignore[method-assign]
    again = Ledger(store, "a", clock=clock)
    assert again.read(lambda state, now: state.teams["feed"].refused["quota"]) == 800
    assert len(reads) == 1 + 800 - 768


@pytest.mark.parametrize(("seconds", "words"), [(61, "61 s ahead of"), (-3_600, "3,600 s behind"), (59, None)])
def test_a_gateway_with_a_wrong_clock_is_refused(seconds: float, words: str | None) -> None:
    store = MemoryStore()
    ledger = Ledger(store, "a", clock=Clock(store.now.timestamp() + seconds))
    if words is None:
        ledger.check_clock()
    else:
        with pytest.raises(UserError, match=words):
            ledger.check_clock()
    assert store.list() == []
