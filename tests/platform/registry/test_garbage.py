"""Garbage collection removes what nothing needs, and nothing else, whatever happens beside it."""

import tempfile
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from brew_platform.errors import RegistryError
from brew_platform.registry import snapshot_log
from brew_platform.registry.events import collected, in_use, retired
from brew_platform.registry.garbage import Garbage, collect_garbage
from brew_platform.registry.holds import LEASE_SECONDS, RunningCollection
from brew_platform.registry.registry import Registry, Version

from .memory_store import MemoryStore

DAY = timedelta(days=1)


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def registry(store: MemoryStore) -> Registry:
    return Registry(store)


def publish(registry: Registry, folder: Path, *contents: str) -> Version:
    folder.mkdir(exist_ok=True)
    for path in folder.iterdir():
        path.unlink()
    for content in contents:
        (folder / content).write_text(content)
    return registry.publish(folder, signature={}, lineage={}, metrics={}, author="ana")


def promote(registry: Registry, number: int, **options: Any) -> None:
    registry.promote(number, author="ana", force=True, reason="test", **options)


def collect(registry: Registry, *, older_than: timedelta = DAY, **options: Any) -> Garbage:
    return collect_garbage(registry, older_than=older_than, author="gc", **options)


def blobs(store: MemoryStore) -> list[str]:
    return sorted(content.decode() for key, content in store.objects.items() if "/blobs/" in key)


def test_the_files_of_an_old_retired_version_are_removed_and_shared_ones_stay(
    registry: Registry, store: MemoryStore, tmp_path: Path
) -> None:
    publish(registry, tmp_path / "f", "old", "shared")
    publish(registry, tmp_path / "f", "new", "shared")
    registry.append("retire", 1, author="ana")
    assert collect(registry).kept == {1: "retired at 2026-01-02 03:04 UTC, which is too recent"}
    store.later(days=2)
    found = collect(registry, dry_run=True)
    assert (found.versions, len(found.blobs), found.size, found.finished) == ((1,), 1, 3, True)
    assert blobs(store) == ["new", "old", "shared"]
    assert len(registry.events()) == 1
    assert collect(registry) == found
    assert blobs(store) == ["new", "shared"]
    assert registry.events()[-1].kind == "collect"
    assert collect(registry) == Garbage(versions=(), blobs=(), size=0, kept={})
    assert registry.verify() == []
    with pytest.raises(RegistryError, match=r"version 1 of brew360 has no files any more: it was retired, and garbage"):
        registry.fetch(1, tmp_path / "cache")
    assert registry.versions() == [1, 2]
    assert publish(registry, tmp_path / "f", "old", "shared").number == 3
    registry.fetch(3, tmp_path / "cache")


def test_a_version_that_serves_or_is_used_keeps_its_files(
    registry: Registry, store: MemoryStore, tmp_path: Path
) -> None:
    for number in (1, 2, 3, 4):
        publish(registry, tmp_path / "f", f"v{number}")
    promote(registry, 1)
    registry.append("canary", 2, author="ana", share=0.1)
    for number in (1, 2, 3):
        registry.append("retire", number, author="ana")
    store.later(days=9)
    with registry.holds.hold("brew360 score", versions=[3]):
        assert collect(registry).kept == {
            1: "production points to it",
            2: "canary points to it",
            3: "brew360 score uses it",
        }
    assert blobs(store) == ["v1", "v2", "v3", "v4"]
    promote(registry, 4)
    registry.append("canary", 2, author="ana", share=0)
    assert collect(registry).versions == (1, 2, 3)
    assert blobs(store) == ["v4"]


def test_what_a_killed_publication_left_is_removed_when_it_is_old(
    registry: Registry, store: MemoryStore, tmp_path: Path
) -> None:
    publish(registry, tmp_path / "f", "kept")
    store.put_if_absent("models/brew360/blobs/sha256/orphan", b"orphan")
    store.later(hours=23)
    assert collect(registry).blobs == ()
    store.later(hours=2)
    assert collect(registry).blobs == ("orphan",)
    assert blobs(store) == ["kept"]


def test_nothing_is_removed_while_a_version_is_published(
    registry: Registry, store: MemoryStore, tmp_path: Path
) -> None:
    """The publication finds a blob of a retired version in the store, and refers to it a day later."""
    publish(registry, tmp_path / "f", "weights")
    registry.append("retire", 1, author="ana")
    store.later(days=2)
    found: list[str] = []

    def meanwhile(done: int, total: int) -> None:
        with pytest.raises(RegistryError, match=r"nothing was removed, because the publication by ana runs\. Run the"):
            collect(registry)
        found.extend(blobs(store))

    registry.publish(tmp_path / "f", signature={}, lineage={}, metrics={}, author="ana", on_progress=meanwhile)
    assert found == ["weights"]
    assert collect(registry).versions == (1,)
    registry.fetch(2, tmp_path / "cache")


def test_a_killed_publication_delays_a_collection_until_its_lease_ends(registry: Registry, store: MemoryStore) -> None:
    registry.holds._new_id = lambda: "killed"
    hold = registry.holds.hold("the publication by ana", publishes=True)
    hold.__enter__()
    registry.holds._new_id = lambda: "other"
    with pytest.raises(RegistryError, match=r"if its process was killed, its record ends at 2026-01-02 04:04:05 UTC"):
        collect(registry)
    store.later(seconds=LEASE_SECONDS + 1)
    collect(registry)
    assert store.list("models/brew360/holds/")
    store.later(days=2)
    collect(registry)
    assert not store.list("models/brew360/holds/")
    hold.__exit__(None, None, None)


def test_a_collection_stops_when_its_time_ends_and_another_continues(
    registry: Registry, store: MemoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "abc":
        store.put_if_absent(f"models/brew360/blobs/sha256/{name}", b"x")
    store.later(days=2)
    answers = iter([True, False])
    with monkeypatch.context() as patch:
        patch.setattr(RunningCollection, "has_time", lambda self: next(answers))
        found = collect(registry)
    assert (found.blobs, found.finished) == (("a",), False)
    assert collect(registry).blobs == ("b", "c")


@pytest.mark.parametrize("part", ["versions", "events"])
def test_nothing_is_removed_if_it_is_not_known_what_is_in_use(
    registry: Registry, store: MemoryStore, tmp_path: Path, part: str
) -> None:
    publish(registry, tmp_path / "f", "kept")
    promote(registry, 1)
    store.put_if_absent("models/brew360/blobs/sha256/orphan", b"orphan")
    store.objects[f"models/brew360/{part}/00000000000000000001.json"] = b"{}"
    store.later(days=2)
    with pytest.raises(RegistryError, match="is damaged"):
        collect(Registry(store))
    assert "orphan" in blobs(store)


def test_only_the_two_newest_snapshots_are_kept(
    registry: Registry, store: MemoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot_log, "EVERY", 2)
    publish(registry, tmp_path / "f", "x")
    for _ in range(7):
        registry.append("tag", 1, author="ana")
    collect(registry)
    assert [key[-7:] for key in store.list("models/brew360/snapshots/")] == ["04.json", "06.json"]


class RegistryMachine(RuleBasedStateMachine):
    """Publications, some killed half way, promotions, retirements and collections in any order."""

    @initialize()
    def start(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name)
        self.store = MemoryStore()
        self.registry = Registry(self.store)
        self.contents: dict[int, Sequence[str]] = {}

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            self.folder.cleanup()

    @rule(contents=st.sets(st.sampled_from("abcde"), min_size=1, max_size=3))
    def publish(self, contents: set[str]) -> None:
        version = publish(self.registry, self.path / "f", *sorted(contents))
        assert version.number == len(self.contents) + 1
        self.contents[version.number] = sorted(contents)

    @rule(contents=st.sets(st.sampled_from("abcde"), min_size=1, max_size=3))
    def die_before_the_manifest(self, contents: set[str]) -> None:
        for content in contents:
            (self.path / "x").write_text(content)
            self.store.upload_by_digest("models/brew360/blobs/sha256", self.path / "x")

    @precondition(lambda self: self.contents)
    @rule(data=st.data(), kind=st.sampled_from(["promote", "canary", "end", "retire", "rollback", "hold"]))
    def decide(self, data: st.DataObject, kind: str) -> None:
        number = data.draw(st.sampled_from(sorted(self.contents)))
        gone = retired(self.registry.events())
        try:
            if kind == "promote":
                promote(self.registry, number)
            elif kind == "rollback":
                self.registry.rollback(author="ana")
            elif kind == "retire":
                self.registry.append("retire", number, author="ana")
            elif kind == "hold":
                with self.registry.holds.hold("job", versions=[number]):
                    held = {number} - collected(self.registry.events()).keys()
                    collect(self.registry, older_than=timedelta())
                    assert not held & collected(self.registry.events()).keys()
            else:
                self.registry.append("canary", number, author="ana", share=0.1 if kind == "canary" else 0)
            done = True
        except RegistryError:
            done = False
        if kind in ("promote", "canary", "retire"):
            assert done == (number not in gone)

    @rule(hours=st.integers(0, 40))
    def collect(self, hours: int) -> None:
        self.store.later(hours=hours)
        collect(self.registry)

    @invariant()
    def versions_are_whole_and_aliases_point_to_whole_versions(self) -> None:
        if not hasattr(self, "store"):
            return
        registry = Registry(self.store)
        events = registry.events()
        gone = collected(events)
        assert registry.versions() == sorted(self.contents)
        assert registry.verify() == []
        assert gone.keys() <= retired(events)
        assert not gone.keys() & in_use(events).keys()
        present = {*blobs(self.store)}
        for number, contents in self.contents.items():
            if number not in gone:
                assert present >= {*contents}


RegistryMachine.TestCase.settings = settings(max_examples=30, stateful_step_count=20, deadline=None)
TestRegistry = RegistryMachine.TestCase
