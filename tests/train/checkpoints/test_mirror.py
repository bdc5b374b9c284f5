"""Checkpoints in a store: complete or absent, the newest few, and a lost run folder continues from them."""

import logging
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from brew_platform.errors import StorageError
from brew_platform.storage.local import LocalStore
from brew_train.checkpoints.checkpointer import Checkpoint, Checkpointer
from brew_train.checkpoints.ledger import LEDGER, LedgerStep, read_ledger
from brew_train.checkpoints.manifest import CHECKPOINTS, list_checkpoints
from brew_train.checkpoints.mirror import CheckpointMirror
from brew_train.distributed.context import DistributedContext

from .test_checkpointer import values


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


@pytest.fixture
def write(tmp_path: Path, alone: DistributedContext) -> Callable[[int], Checkpoint]:
    checkpointer = Checkpointer(tmp_path / "run" / CHECKPOINTS, keep=3, context=alone)

    def write(step: int) -> Checkpoint:
        ledger = [LedgerStep(step=step, stage="cpt", bins=[step])]
        checkpointer.begin(values(step), {"k": step}, step=step, ledger=ledger)
        done = checkpointer.wait()
        assert done is not None
        return done

    return write


def test_a_lost_run_folder_is_restored_from_the_newest_copy(
    store: LocalStore, write: Callable[[int], Checkpoint], tmp_path: Path, alone: DistributedContext
) -> None:
    copied: list[int] = []
    mirror = CheckpointMirror(
        store, tmp_path / "run", keep=2, on_copied=lambda checkpoint, seconds: copied.append(checkpoint.step)
    )
    for step in (1, 2, 3):
        newest = write(step)
        mirror.copy(newest)
        mirror.wait()
    assert copied == [1, 2, 3]
    stored = {key.split("/")[1] for key in store.list(f"{CHECKPOINTS}/")}
    assert sorted(int(name.split("-")[1]) for name in stored) == [2, 3]
    assert mirror.restore() is None  # the run folder has checkpoints

    shutil.rmtree(tmp_path / "run")
    assert CheckpointMirror(store, tmp_path / "run", keep=2).restore() == newest.folder.name
    found = Checkpointer(tmp_path / "run" / CHECKPOINTS, keep=3, context=alone).newest()
    assert found == newest
    assert [step.bins for step in read_ledger(tmp_path / "run" / LEDGER, newest.ledger)] == [[1], [2], [3]]


def test_an_incomplete_copy_is_not_restored(
    store: LocalStore, write: Callable[[int], Checkpoint], tmp_path: Path
) -> None:
    mirror = CheckpointMirror(store, tmp_path / "run", keep=2)
    first = write(1)
    mirror.copy(first)
    mirror.wait()
    second = write(2)
    store.put_if_absent(f"{CHECKPOINTS}/{second.folder.name}/manifest.json", b"{}")  # of an upload that was killed
    shutil.rmtree(tmp_path / "run")
    assert mirror.restore() == first.folder.name
    assert [folder.name for folder in list_checkpoints(tmp_path / "run" / CHECKPOINTS)] == [first.folder.name]
    assert CheckpointMirror(LocalStore(tmp_path / "empty"), tmp_path / "other", keep=2).restore() is None


def test_checkpoints_do_not_wait_for_copies_and_failures_are_logged(
    write: Callable[[int], Checkpoint], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    proceed = threading.Event()

    class SlowStore(LocalStore):
        def put_if_absent(self, key: str, data: bytes) -> bool:
            proceed.wait()
            if "00000003" in key:
                raise StorageError("the store is full")
            return super().put_if_absent(key, data)

    copied: list[int] = []
    mirror = CheckpointMirror(
        SlowStore(tmp_path / "store"),
        tmp_path / "run",
        keep=9,
        on_copied=lambda checkpoint, seconds: copied.append(checkpoint.step),
    )
    for step in (1, 2, 3):
        mirror.copy(write(step))
    proceed.set()
    with caplog.at_level(logging.WARNING):
        mirror.wait()
    assert copied == [1]  # 3 replaced 2 while 1 was uploaded
    assert "was not copied to" in caplog.text
    assert "the store is full" in caplog.text
    mirror.copy(write(4))
    mirror.wait()
    assert copied == [1, 4]
