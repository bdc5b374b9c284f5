"""The logs, held against a list: every reader sees the same documents, whatever is cached, in a snapshot, or lost."""

import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from bench.platform.faulty_store import FaultyStore
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from brew_platform.errors import RegistryError, StorageError
from brew_platform.registry import snapshot_log
from brew_platform.registry.log import NumberedLog
from brew_platform.registry.snapshot_log import SnapshotLog
from brew_platform.storage.local import LocalStore

from .memory_store import MemoryStore


def open_log(store: Any) -> SnapshotLog:
    return SnapshotLog(store, "m/events", snapshots="m/snapshots")


def append(log: NumberedLog, text: str) -> int:
    return log.append(lambda number: {"number": number, "text": text}, write_id=text)[0]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot_log, "EVERY", 4)


class LogMachine(RuleBasedStateMachine):
    """Writers and readers that start and stop, and faults of the store, against a list of the documents."""

    @initialize()
    def start(self) -> None:
        self.every, snapshot_log.EVERY = snapshot_log.EVERY, 3
        self.store = MemoryStore()
        self.model: list[str] = []
        self.logs = [open_log(self.store)]

    def teardown(self) -> None:
        if hasattr(self, "every"):
            snapshot_log.EVERY = self.every

    @rule()
    def open(self) -> None:
        self.logs = [*self.logs[-2:], open_log(self.store)]

    @rule(writer=st.integers(0, 2))
    def append(self, writer: int) -> None:
        text = f"t{len(self.model)}"
        assert append(self.logs[writer % len(self.logs)], text) == len(self.model) + 1
        self.model.append(text)

    @rule(writer=st.integers(0, 2), at=st.integers(0, 12), kind=st.sampled_from(["fail", "lose", "forget"]))
    def append_with_a_fault(self, writer: int, at: int, kind: str) -> None:
        """The call may fail. Then a second one with the same write id must not write a second document."""
        log = self.logs[writer % len(self.logs)]
        text, log.store = f"t{len(self.model)}", FaultyStore(self.store, at=at, kind=kind)
        before = len(self.model)
        try:
            append(log, text)
        except StorageError:
            log.store = self.store
            if log.newest() == before:
                append(log, text)
        log.store = self.store
        self.model.append(text)

    @rule(damage=st.booleans())
    def lose_a_snapshot(self, damage: bool) -> None:
        for key in self.store.list("m/snapshots/")[-1:]:
            del self.store.objects[key]
            if damage:
                self.store.objects[key] = b'{"format_version": 1, "documents": []}'

    @invariant()
    def every_reader_sees_every_document_once(self) -> None:
        if not hasattr(self, "store"):
            return
        for log in [*self.logs, open_log(self.store)]:
            assert [document["text"] for document in log.documents()] == self.model
            assert [document["number"] for document in log.documents()] == list(range(1, len(self.model) + 1))


LogMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
TestLog = LogMachine.TestCase


@pytest.mark.usefixtures("small")
def test_a_new_reader_reads_a_snapshot_and_what_follows(tmp_path: Path) -> None:
    log = open_log(LocalStore(tmp_path))
    for number in range(10):
        append(log, f"t{number}")
    assert log.snapshot_numbers() == [4, 8]
    store = FaultyStore(LocalStore(tmp_path))
    reader = open_log(store)
    assert len(reader.documents()) == 10
    assert store.calls.count("get") == 3  # the snapshot of eight, and two documents
    store.calls.clear()
    assert reader.documents() is reader.documents()
    assert store.calls == ["exists", "exists"]


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("content", [b"", b"[]", b'{"format_version": 9}', b'{"format_version": 1, "documents": [1]}'])
def test_a_damaged_snapshot_is_not_used(content: bytes) -> None:
    store = MemoryStore()
    for number in range(9):
        append(open_log(store), f"t{number}")
    store.objects["m/snapshots/00000000000000000008.json"] = content
    assert len(open_log(store).documents()) == 9
    documents = {number: open_log(store).read(number) for number in range(1, 10)}
    assert "is damaged" in str(open_log(store).check_snapshot(8, documents))
    assert open_log(store).check_snapshot(4, documents) is None


@pytest.mark.usefixtures("small")
def test_a_snapshot_that_differs_from_the_log_is_found() -> None:
    store = MemoryStore()
    for number in range(4):
        append(open_log(store), f"t{number}")
    log = open_log(store)
    documents: dict[int, Mapping[str, Any]] = {number: log.read(number) for number in range(1, 5)}
    assert log.check_snapshot(4, documents) is None
    assert "differs from m/events/00000000000000000002.json" in str(log.check_snapshot(4, {**documents, 2: {}}))
    del documents[3]
    assert "00000000000000000003.json cannot be read, but m/snapshots/" in str(log.check_snapshot(4, documents))


@pytest.mark.usefixtures("small")
def test_a_snapshot_that_cannot_be_written_does_not_fail_the_append_and_is_written_later() -> None:
    class NoSnapshots(MemoryStore):
        def put_if_absent(self, key: str, data: bytes) -> bool:
            if "/snapshots/" in key:
                raise StorageError("no")
            return super().put_if_absent(key, data)

    store = NoSnapshots()
    for number in range(5):
        assert append(open_log(store), f"t{number}") == number + 1
    store.__class__ = MemoryStore  # the store works again
    append(open_log(store), "t5")
    assert open_log(store).snapshot_numbers() == [4]


def test_a_document_that_is_missing_between_others_is_named() -> None:
    store = MemoryStore()
    for number in range(5):
        append(open_log(store), f"t{number}")
    del store.objects["m/events/00000000000000000003.json"]
    with pytest.raises(RegistryError, match=r"0003\.json is gone from the store, although .*0004\.json exists\. Rest"):
        open_log(store).documents()


def test_a_long_log_is_listed_in_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot_log, "EVERY", 1_500)
    store = MemoryStore()
    for number in range(1, 3_101):
        store.objects[f"m/events/{number:020d}.json"] = json.dumps({"number": number}).encode()
    documents = [{"number": number} for number in range(1, 1_501)]
    store.objects[f"m/snapshots/{1500:020d}.json"] = json.dumps({"format_version": 1, "documents": documents}).encode()
    assert [document["number"] for document in open_log(store).documents()] == list(range(1, 3_101))
    assert append(open_log(store), "next") == 3_101


@given(st.integers(1, 30), st.integers(2, 6))
@settings(max_examples=15, deadline=None)
def test_concurrent_writers_get_numbers_of_their_own(documents: int, writers: int) -> None:
    store = MemoryStore()
    with ThreadPoolExecutor(writers) as pool:
        numbers = list(pool.map(lambda text: append(open_log(store), f"t{text}"), range(documents)))
    assert sorted(numbers) == list(range(1, documents + 1))


def test_a_lost_answer_is_recognised_by_the_write_id() -> None:
    store = MemoryStore()
    for kind in ("lose", "forget"):
        log = NumberedLog(FaultyStore(store, at=1, kind=kind), "m/versions")
        number, document = log.append(lambda number: {"n": number}, write_id=kind)
        assert document == {"n": number, "write_id": kind}
    assert len(store.objects) == 2
