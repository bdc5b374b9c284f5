"""The ledger: events as they are stored, several ledgers on one log, damage, and the cost of a long log."""

import gzip
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from brew_cluster.gateway.base import base_of, state_of
from brew_cluster.gateway.events import JobEvent, iso_time, timestamp
from brew_cluster.gateway.ledger import Ledger
from brew_cluster.gateway.state import LedgerState, fold
from brew_platform.errors import RegistryError, StorageError, UserError
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


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Segments of eight events."""
    monkeypatch.setattr("brew_cluster.gateway.ledger.SEGMENT", 8)


def finish(job: str, kind: str, **fields: Any) -> JobEvent:
    return JobEvent(number=0, kind=kind, team="feed", time="", by="gateway", job=job, attempt=1, **fields)


def run_jobs(ledger: Ledger, clock: Clock, count: int) -> None:
    """Run jobs of a minute one after another: four events each."""
    for _ in range(count):
        event = ledger.append(accept)
        assert event is not None
        for kind, fields in (("start", {}), ("run", {}), ("end", {"outcome": "succeeded", "then": "succeeded"})):
            clock.now += 20
            more = {"ended": iso_time(clock.now)} if kind == "end" else {}
            ledger.append(lambda state, now, k=kind, f=fields | more, j=event.job: finish(j, k, **f))  # type: ignore[misc]


def test_a_ledger_continues_in_segments_and_nothing_that_follows_from_it_changes(short: None) -> None:
    store, clock = MemoryStore(), Clock()
    ledger, other = (Ledger(store, "a", clock=clock) for _ in range(2))
    run_jobs(ledger, clock, 7)
    run_jobs(other, clock, 1)
    ledger.append(accept)
    events = Ledger(store, "a", clock=clock).events()
    assert [event.number for event in events] == list(range(1, len(events) + 1))
    assert [event.number for event in events if event.kind == "close"] == [9, 18, 27, 36]
    expected = fold(events)
    for found in (ledger, other, Ledger(store, "a", clock=clock)):
        jobs, teams, number = found.read(lambda state, now: (state.jobs, state.teams, state.number))
        assert (jobs, teams, number) == (expected.jobs, expected.teams, len(events))
    assert len({job.id for job in expected.jobs.values()}) == 9
    assert store.list("jobs/a/bases/") == [f"jobs/a/bases/{number:020d}.json" for number in (9, 18, 27, 36)]


@pytest.mark.parametrize("cut", range(1, 14))
def test_a_base_stands_for_the_events_before_it(cut: int) -> None:
    store, clock = MemoryStore(), Clock()
    ledger = Ledger(store, "a", clock=clock)
    ledger.append(lambda state, now: REFUSE)
    run_jobs(ledger, clock, 2)
    ledger.append(accept)
    ledger.append(lambda state, now: finish("job-10", "start"))
    ledger.append(lambda state, now: finish("job-10", "stop", then="queued", reason="less"))
    ledger.append(lambda state, now: finish("job-10", "end", then="queued", outcome="preempted", ended=iso_time(now)))
    ledger.append(accept)
    events = ledger.events()
    expected = fold(events)
    state = state_of(json.loads(json.dumps(base_of(fold(events[:cut]), kept_seconds=1e9))))
    for event in events[cut:]:
        state.apply(event)
    assert (state.jobs, state.teams, state.requests) == (expected.jobs, expected.teams, expected.requests)
    assert [job.id for job in state.open_jobs()] == [job.id for job in expected.open_jobs()] == ["job-10", "job-14"]
    assert state.active_jobs() == expected.active_jobs() == []
    assert state.virtual_time("feed", clock.now) == expected.virtual_time("feed", clock.now)


def test_old_segments_are_compressed_and_stay_in_the_audit_log(short: None) -> None:
    store, clock = MemoryStore(), Clock()
    clock.now = store.now.timestamp()
    ledger = Ledger(store, "a", kept_days=2, clock=clock)
    run_jobs(ledger, clock, 4)
    events = ledger.events()
    assert ledger.archive() == 0  # too young
    store.later(days=3)
    clock.now += 3 * 86_400
    run_jobs(ledger, clock, 3)
    assert ledger.archive() == 2
    assert store.list("jobs/a/audit/") == [
        f"jobs/a/audit/{first:020d}-{last:020d}.jsonl.gz" for first, last in ((1, 9), (10, 18))
    ]
    assert store.list("jobs/a/events/") == []
    assert ledger.archive() == 0
    store.later(days=3)
    clock.now += 3 * 86_400
    run_jobs(ledger, clock, 3)
    fresh = Ledger(store, "a", kept_days=2, clock=clock)
    assert fresh.archive() == 1
    assert len(store.list("jobs/a/audit/")) == 3
    assert len(store.list("jobs/a/bases/")) == 3
    assert fresh.events(limit=len(events)) == events  # archives and segments read alike
    assert [event.number for event in fresh.events(after=7, limit=5)] == [8, 9, 10, 11, 12]
    jobs = fresh.read(lambda state, now: list(state.jobs))
    assert events[0].job not in jobs  # it ended long ago
    assert fresh.read(lambda state, now: state.teams["feed"].ended["succeeded"]) == 10
    lines = gzip.decompress(store.get(store.list("jobs/a/audit/")[0])).splitlines()
    assert [json.loads(line)["kind"] for line in lines[:2]] == ["accept", "start"]


def test_a_killed_archiving_is_completed(short: None) -> None:
    for kept in range(12):
        store, clock = MemoryStore(), Clock()
        clock.now = store.now.timestamp()
        run_jobs(Ledger(store, "a", kept_days=1, clock=clock), clock, 4)
        store.later(days=2)
        clock.now += 2 * 86_400
        ledger = Ledger(store, "a", kept_days=1, clock=clock)
        events = ledger.events()
        deleted: list[str] = []

        def delete(key: str, stop: int = kept, deleted: list[str] = deleted, delete: Any = store.delete) -> None:
            if len(deleted) == stop:
                raise StorageError("killed")
            deleted.append(key)
            delete(key)

        store.delete = delete  # type: ignore[method-assign]
        with pytest.raises(StorageError):
            ledger.archive()
        del store.delete  # type: ignore[method-assign]
        again = Ledger(store, "a", kept_days=1, clock=clock)
        again.archive()
        assert again.events() == events
        assert [key for key in store.list("jobs/a/") if "/events/" in key and "segments" not in key] == []


def test_a_gateway_that_slept_longer_than_events_are_kept_starts_again(short: None) -> None:
    store, clock = MemoryStore(), Clock()
    clock.now = store.now.timestamp()
    slept = Ledger(store, "a", kept_days=1, clock=clock)
    slept.append(accept)
    ledger = Ledger(store, "a", kept_days=1, clock=clock)
    run_jobs(ledger, clock, 4)
    store.later(days=2)
    clock.now += 2 * 86_400
    assert ledger.archive() == 2
    event = slept.append(accept)
    assert event is not None
    assert event.number == 20  # not a number of an archived segment
    assert ledger.read(lambda state, now: state.number) == 20
    assert store.list("jobs/a/events/") == []


def test_a_damaged_base_is_named() -> None:
    with pytest.raises(RegistryError, match="after event 9 is damaged"):
        state_of({"format_version": 1, "number": 9, "now": 0.0, "jobs": [{}], "teams": {}})
    with pytest.raises(RegistryError, match="format_version is 2"):
        state_of({"format_version": 2, "number": 9})
