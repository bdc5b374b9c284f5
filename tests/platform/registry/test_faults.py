"""A fault at every call of the store, in publish, promote and garbage collection: the next attempt repairs everything.

`make bench-platform` does the same at random on all stores, with processes that are really killed.
"""

from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest
from bench.platform.faulty_store import FaultyStore

from brew_platform.errors import BrewError
from brew_platform.registry.events import collected, retired
from brew_platform.registry.garbage import collect_garbage
from brew_platform.registry.registry import Registry
from brew_platform.storage.base import ObjectStore

from .memory_store import MemoryStore

KINDS = ("fail", "lose", "forget")


def publish(store: ObjectStore, folder: Path, publication: str) -> None:
    Registry(store).publish(folder, signature={}, lineage={}, metrics={}, author="ana", publication=publication)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "export"
    folder.mkdir()
    for name in ("config", "weights"):
        (folder / name).write_text(name)
    return folder


@pytest.fixture
def prepare(folder: Path) -> Callable[[], MemoryStore]:
    """A function that makes a store with two versions, of which the first is retired, and an orphan."""

    def make() -> MemoryStore:
        store = MemoryStore()
        publish(store, folder, "first")
        (folder / "weights").write_text("others")
        publish(store, folder, "second")
        (folder / "weights").write_text("weights")
        Registry(store).append("retire", 1, author="ana")
        store.put_if_absent("models/brew360/blobs/sha256/orphan", b"x")
        store.later(days=2)
        return store

    return make


def promote(store: ObjectStore) -> None:
    Registry(store).promote(2, author="ana", force=True, reason="test")


def collect(store: ObjectStore) -> None:
    collect_garbage(Registry(store), older_than=timedelta(days=1), author="ana")


def check(store: MemoryStore, versions: int) -> None:
    """The log is whole: no version twice, none without a blob, and no alias to a version without files."""
    registry = Registry(store)
    assert registry.versions() == list(range(1, versions + 1))
    assert len({registry.version(number).write_id for number in registry.versions()}) == versions
    assert registry.verify() == []
    events = registry.events()
    assert len({event.write_id for event in events}) == len(events)
    assert collected(events).keys() <= retired(events)
    assert not {*registry.aliases().values()} & collected(events).keys()
    assert not store.list("models/brew360/collections/")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("operation", ["publish", "promote", "collect"])
def test_a_fault_at_any_call_leaves_a_registry_that_the_next_attempt_repairs(
    prepare: Callable[[], MemoryStore], folder: Path, operation: str, kind: str
) -> None:
    calls: dict[str, Callable[[ObjectStore], None]] = {
        "publish": lambda store: publish(store, folder, "third"),
        "promote": promote,
        "collect": collect,
    }
    run = calls[operation]
    faultless = FaultyStore(prepare())
    run(faultless)
    assert len(faultless.calls) > 8
    for at in range(len(faultless.calls)):
        store = prepare()
        with suppress(BrewError):
            run(FaultyStore(store, at=at, kind=kind))
        store.later(hours=2)  # leases of the failed attempt end
        run(store)
        check(store, versions=3 if operation == "publish" else 2)
        if operation == "collect":
            assert collected(Registry(store).events()).keys() == {1}
            assert "models/brew360/blobs/sha256/orphan" not in store.objects
        if operation == "promote":
            assert Registry(store).resolve("production") == 2
