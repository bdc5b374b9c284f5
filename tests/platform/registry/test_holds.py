"""Records of use and of collections: of two at the same time at least one sees the other; those of killed ones end."""

import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from brew_platform.errors import RegistryError, StorageError
from brew_platform.registry import holds as module
from brew_platform.registry.holds import LEASE_SECONDS, LIMIT_SECONDS, Hold, Holds

from .memory_store import MemoryStore


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def holds(store: MemoryStore) -> Holds:
    return open_holds(store)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """A function that advances the clock of this process."""
    now = [1_000.0]
    monkeypatch.setattr(module, "_seconds", lambda: now[0])

    def advance(seconds: float) -> None:
        now[0] += seconds

    return advance


def open_holds(store: MemoryStore) -> Holds:
    names = iter(f"id{number}" for number in range(1_000))
    return Holds(store, "m", new_id=lambda: next(names))


def test_a_hold_lasts_as_long_as_its_block(holds: Holds, store: MemoryStore) -> None:
    with holds.hold("a job", versions=[3, 1]):
        (record,) = holds.active(store.now)
        assert (record.holder, record.versions, record.publishes) == ("a job", (1, 3), False)
        assert record.expires == store.now + timedelta(seconds=LEASE_SECONDS)
    assert store.objects == {}
    with pytest.raises(ZeroDivisionError), holds.hold("a job", publishes=True):
        raise ZeroDivisionError
    assert store.objects == {}


def test_the_hold_of_a_killed_process_ends_with_its_lease(holds: Holds, store: MemoryStore) -> None:
    holds.open("a service").update([1])
    store.later(seconds=LEASE_SECONDS - 1)
    assert len(holds.active(store.now)) == 1
    store.later(seconds=2)
    assert holds.active(store.now) == []
    (record,) = holds.records()
    holds.delete(record)
    assert store.objects == {}


def test_a_hold_is_written_when_versions_change_or_a_third_of_the_lease_has_passed(
    holds: Holds, store: MemoryStore, clock: Callable[[float], None]
) -> None:
    hold = holds.open("a service")
    hold.update(())
    assert store.objects == {}
    for versions, seconds, written in [([1], 0, 1), ([1], 1_199, 0), ([2, 1], 0, 1), ([1, 2], 1_201, 1), ([], 0, 1)]:
        clock(seconds)
        before = len(store.objects), [*store.objects]
        hold.update(versions)
        assert bool({*store.objects} - {*before[1]}) == bool(written)
        assert len(store.objects) <= 2  # the previous one stays, because a listing may miss the new one
    assert {record.versions for record in holds.active(store.now)} == {(1, 2), ()}
    hold.release()
    assert store.objects == {}


def test_a_process_that_was_stopped_for_longer_than_its_lease_records_nothing(
    holds: Holds, clock: Callable[[float], None]
) -> None:
    with holds.hold("the publication by ana", publishes=True) as hold:
        clock(LEASE_SECONDS * 0.8)
        hold.require_valid()
        clock(LEASE_SECONDS * 0.2)
        with pytest.raises(StorageError, match=r"the publication by ana: nothing was recorded, because this process"):
            hold.require_valid()


def test_a_collection_is_seen_while_it_runs(holds: Holds, store: MemoryStore) -> None:
    with holds.collection("ana") as running:
        assert running.now == store.now
        assert running.has_time()
        assert [*store.objects] == ["m/collections/id0.json"]
    assert store.objects == {}


def test_a_collection_stops_deleting_long_before_others_take_it_for_dead(
    holds: Holds, clock: Callable[[float], None]
) -> None:
    with holds.collection("ana") as running:
        clock(LIMIT_SECONDS / 3 - 1)
        assert running.has_time()
        clock(2)
        assert not running.has_time()


def waiting(store: MemoryStore, hold: Hold, sleep: Callable[[float], Any]) -> None:
    hold.update([1])
    hold.wait_for_collections(sleep=sleep)


def test_a_publication_waits_for_the_end_of_a_collection(holds: Holds, store: MemoryStore) -> None:
    store.put_if_absent("m/collections/other.json", b"{}")
    naps = []

    def sleep(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) == 3:
            store.delete("m/collections/other.json")

    waiting(store, holds.open("x"), sleep)
    assert len(naps) == 3


def test_a_publication_waits_for_a_killed_collection_until_its_limit(
    holds: Holds, store: MemoryStore, clock: Callable[[float], None]
) -> None:
    store.put_if_absent("m/collections/other.json", b"{}")
    store.later(seconds=LIMIT_SECONDS - 200)
    naps = []

    def sleep(seconds: float) -> None:
        naps.append(seconds)
        clock(50)

    waiting(store, holds.open("x"), sleep)
    assert len(naps) == 4  # the 200 seconds that were left
    store.later(seconds=2 * LIMIT_SECONDS)
    waiting(store, holds.open("y"), pytest.fail)
    holds.delete_ended_collections(store.now)
    assert not store.list("m/collections/")


def test_a_running_collection_is_not_deleted_by_another(holds: Holds, store: MemoryStore) -> None:
    with holds.collection("ana"):
        holds.delete_ended_collections(store.now + timedelta(seconds=LIMIT_SECONDS))
        assert store.list("m/collections/")


def test_of_a_publication_and_a_collection_at_least_one_sees_the_other() -> None:
    """Many interleavings of the two protocols, by threads that start together."""
    for _ in range(50):
        store, barrier = MemoryStore(), threading.Barrier(2)
        seen: list[str] = []

        def publish(store: MemoryStore = store, barrier: threading.Barrier = barrier, seen: Any = seen) -> None:
            barrier.wait()
            hold = Hold(store, "m", name="p", holder="p", publishes=True)
            hold.update()
            hold.wait_for_collections(sleep=lambda seconds: store.delete("m/collections/id0.json") or seen.append("p"))

        def collect(store: MemoryStore = store, barrier: threading.Barrier = barrier, seen: Any = seen) -> None:
            barrier.wait()
            holds = open_holds(store)
            with holds.collection("c") as running:
                if holds.active(running.now):
                    seen.append("c")

        threads = [threading.Thread(target=target) for target in (publish, collect)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        overlapped = "c" not in seen and "p" not in seen
        assert not overlapped or not store.list("m/collections/")  # the collection had ended, or not begun


def test_a_damaged_hold_stops_a_collection(holds: Holds, store: MemoryStore) -> None:
    store.put_if_absent("m/holds/x-0.json", b"{}")
    with pytest.raises(RegistryError, match=r"m/holds/x-0\.json is damaged .*Delete that object if no service and no"):
        holds.active(store.now)


def test_a_job_that_can_only_read_runs_without_a_hold() -> None:
    class ReadOnly(MemoryStore):
        def put_if_absent(self, key: str, data: bytes) -> bool:
            raise StorageError("access denied")

    holds = open_holds(ReadOnly())
    with holds.hold("a job", versions=[1], required=False):
        pass
    with pytest.raises(StorageError, match="access denied"), holds.hold("a publication", publishes=True):
        pass


def test_a_thread_renews_the_lease(holds: Holds, store: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LEASE_SECONDS", 0.05)
    with holds.hold("a job", versions=[1]):
        deadline = threading.Event()
        for _ in range(200):
            if "m/holds/id0-2.json" in store.objects:
                break
            deadline.wait(0.01)
        assert "m/holds/id0-2.json" in store.objects
        assert "m/holds/id0-0.json" not in store.objects
    assert store.objects == {}
