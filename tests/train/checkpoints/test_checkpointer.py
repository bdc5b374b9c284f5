"""A checkpoint is complete or does not exist, holds the values at its start, and never damages an earlier one."""

import json
import logging
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from brew_platform.errors import StorageError, UserError
from brew_train.checkpoints.checkpointer import Checkpoint, Checkpointer
from brew_train.checkpoints.ledger import LedgerStep, audit
from brew_train.checkpoints.manifest import MANIFEST, peek_checkpoint
from brew_train.distributed.context import DistributedContext


def values(step: int) -> dict[str, torch.Tensor]:
    return {"model.w": torch.full((100, 10), float(step)), "z.w": torch.full((1,), -float(step))}


def checkpoint(checkpointer: Checkpointer, step: int) -> Checkpoint:
    checkpointer.begin(values(step), {"k": 1 / step}, step=step, ledger=[])
    done = checkpointer.wait()
    assert done is not None
    return done


@pytest.fixture
def checkpointer(tmp_path: Path, alone: DistributedContext) -> Checkpointer:
    checkpointer = Checkpointer(tmp_path / "checkpoints", keep=2, context=alone)
    for step in (1, 2, 3):
        checkpoint(checkpointer, step)
    return checkpointer


def folders(checkpointer: Checkpointer) -> list[Path]:
    return sorted(checkpointer.root.glob("step-*"))


def steps(checkpointer: Checkpointer) -> list[int]:
    return [int(folder.name.split("-")[1]) for folder in folders(checkpointer)]


def held(checkpointer: Checkpointer) -> tuple[int, torch.Tensor]:
    """Step and weights that a new attempt would continue from."""
    fresh = Checkpointer(checkpointer.root, keep=2, context=checkpointer.context)
    found = fresh.newest()
    assert found is not None
    tensors = {name: torch.zeros_like(tensor) for name, tensor in values(0).items()}
    fresh.read(found, tensors)
    return found.step, tensors["model.w"]


def test_the_newest_checkpoint_is_restored_and_retention_keeps_two(checkpointer: Checkpointer) -> None:
    assert steps(checkpointer) == [2, 3]
    found = checkpointer.newest()
    assert found is not None
    assert (found.step, found.state) == (3, {"k": 1 / 3})
    assert found == checkpointer.wait()
    assert torch.equal(held(checkpointer)[1], values(3)["model.w"])
    found = peek_checkpoint(checkpointer.root)
    assert found is not None
    assert found.state == {"k": 1 / 3}


def test_a_checkpoint_holds_the_values_at_its_start(tmp_path: Path, alone: DistributedContext) -> None:
    weights = {"w": torch.arange(3_000_000.0), "n": torch.tensor(1.0)}
    state = {"data": {"next_bin": 4}}
    begun = {name: tensor.clone() for name, tensor in weights.items()}
    with Checkpointer(tmp_path / "checkpoints", keep=1, context=alone) as checkpointer:
        checkpointer.begin(weights, state, step=1, ledger=[])
        for tensor in weights.values():  # training continues at once, while the copies are being written
            tensor.fill_(float("nan"))
        state["data"]["next_bin"] = 8
        done = checkpointer.wait()
        assert done is not None
        assert done.state == {"data": {"next_bin": 4}}
        checkpointer.read(done, weights)
    assert all(torch.equal(weights[name], begun[name]) for name in weights)


def test_training_waits_for_the_copy_and_for_the_previous_checkpoint(tmp_path: Path, alone: DistributedContext) -> None:
    gate = threading.Event()
    with Checkpointer(tmp_path / "checkpoints", keep=3, context=alone) as checkpointer:
        began = time.perf_counter()
        checkpointer.begin(values(1), {}, step=1, ledger=[], then=lambda done: gate.wait(30))
        first = checkpointer.take_blocked_seconds()
        assert first <= time.perf_counter() - began
        assert checkpointer.take_blocked_seconds() == 0
        threading.Timer(0.3, gate.set).start()
        checkpointer.begin(values(2), {}, step=2, ledger=[])
        assert checkpointer.take_blocked_seconds() > 0.2 > first
        checkpointer.wait()
        assert checkpointer.blocked_seconds >= first + 0.2
    assert steps(checkpointer) == [1, 2]


def test_buffers_and_index_are_reused_until_the_tensors_change(checkpointer: Checkpointer) -> None:
    """A second stage has other optimizer state; the state of the first must not be written again."""
    addresses = {name: buffer.data_ptr() for name, buffer in checkpointer._shards._buffers.items()}
    checkpoint(checkpointer, 4)
    assert {name: buffer.data_ptr() for name, buffer in checkpointer._shards._buffers.items()} == addresses
    first, second = ((folder / ".metadata").read_bytes() for folder in folders(checkpointer))
    assert first == second
    other = {"model.w": torch.ones(50, 3), "exp_avg.w": torch.ones(50, 3, dtype=torch.float64)}
    checkpointer.begin(other, {}, step=5, ledger=[])
    done = checkpointer.wait()
    assert done is not None
    read = {name: torch.zeros_like(tensor) for name, tensor in other.items()}
    checkpointer.read(done, read)
    assert all(torch.equal(read[name], other[name]) for name in other)


def flip_a_bit(folder: Path) -> None:
    file = next(folder.glob("*.distcp"))
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(content)


def cut(folder: Path) -> None:
    file = next(folder.glob("*.distcp"))
    file.write_bytes(file.read_bytes()[:-10])


def alter_manifest(folder: Path) -> None:
    file = folder / MANIFEST
    file.write_text(file.read_text().replace('"step": 3', '"step": 4'))


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (flip_a_bit, "the content of __0_0.distcp has changed"),
        (cut, r"__0_0.distcp has \d+ bytes instead of"),
        (alter_manifest, "its manifest.json was altered"),
        (lambda folder: (folder / ".metadata").unlink(), ".metadata is missing"),
        (lambda folder: (folder / MANIFEST).write_text("{"), "its manifest.json is incomplete or overwritten"),
        (lambda folder: (folder / MANIFEST).unlink(), None),
    ],
)
def test_a_damaged_checkpoint_falls_back_to_the_previous_one(
    checkpointer: Checkpointer, damage: Callable[[Path], object], text: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    damage(folders(checkpointer)[-1])
    with caplog.at_level(logging.WARNING):
        step, weights = held(checkpointer)
    assert step == 2
    assert torch.equal(weights, values(2)["model.w"])
    assert re.search(text, caplog.text) if text else not caplog.records
    found = peek_checkpoint(checkpointer.root)
    assert found is not None
    assert found.state == {"k": 1 / (3 if damage is flip_a_bit else 2)}  # it does not read contents


def test_training_does_not_restart_if_all_checkpoints_are_damaged(checkpointer: Checkpointer) -> None:
    for folder in folders(checkpointer):
        flip_a_bit(folder)
    with pytest.raises(StorageError, match="all 2 checkpoints in .* are damaged.*or remove that folder"):
        checkpointer.newest()
    assert steps(checkpointer) == [2, 3]


def test_newest_is_none_without_checkpoints(tmp_path: Path, alone: DistributedContext) -> None:
    assert Checkpointer(tmp_path / "nothing", keep=1, context=alone).newest() is None
    assert peek_checkpoint(tmp_path / "nothing") is None


def test_a_repeated_step_never_writes_into_the_old_folder(checkpointer: Checkpointer) -> None:
    old = folders(checkpointer)[-1]
    (old / MANIFEST).unlink()
    new = checkpoint(checkpointer, 3).folder
    assert new != old
    assert not old.exists()  # the leftovers of a lost worker are removed with the next checkpoint


@pytest.mark.parametrize("keep", [1, 2])
@pytest.mark.parametrize("step", [2, 3, 4])
def test_a_damaged_checkpoint_never_displaces_an_intact_one(checkpointer: Checkpointer, keep: int, step: int) -> None:
    """Whether the repeated steps are checkpointed before, at or after the damaged one's."""
    flip_a_bit(folders(checkpointer)[-1])
    fresh = Checkpointer(checkpointer.root, keep=keep, context=checkpointer.context)
    found = fresh.newest()
    assert found is not None
    assert found.step == 2
    new = checkpoint(fresh, step)
    left = [new.folder] if keep == 1 or step == 2 else [found.folder, new.folder]
    assert folders(checkpointer) == left
    assert held(checkpointer)[0] == step


def test_the_best_checkpoint_is_kept_until_a_better_one_exists(tmp_path: Path, alone: DistributedContext) -> None:
    checkpointer = Checkpointer(tmp_path / "checkpoints", keep=2, context=alone)
    checkpointer.keep_step(1)
    for step in (1, 2, 3, 4):
        checkpoint(checkpointer, step)
    assert steps(checkpointer) == [1, 3, 4]
    checkpointer.keep_step(5)  # better, but while it is being written only the old one exists
    assert steps(checkpointer) == [1, 3, 4]
    for step in (5, 6, 7):
        checkpoint(checkpointer, step)
    assert steps(checkpointer) == [5, 6, 7]


def test_another_model_is_refused(checkpointer: Checkpointer) -> None:
    found = checkpointer.newest()
    assert found is not None
    weights = values(0)
    for other, text in (
        ({"model.w": weights["model.w"]}, "it also has z.w"),
        ({**weights, "model.v": weights["z.w"]}, "it lacks model.v"),
        ({**weights, "model.w": torch.zeros(100, 11)}, "Size mismatch"),
    ):
        with pytest.raises(UserError, match=rf"does not fit this model \({text}.*restore the settings"):
            checkpointer.read(found, other)


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """The kernel refuses to let any file of this process grow beyond `size` bytes, with an OSError as a full disk's."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("too_large", ["shard", "manifest", "ledger"])
def test_a_failed_write_keeps_earlier_checkpoints(checkpointer: Checkpointer, too_large: str) -> None:
    before = {path: path.read_bytes() for path in checkpointer.root.parent.rglob("*") if path.is_file()}
    tensors = {"w": torch.randn(30_000 if too_large == "shard" else 10)}
    state = {"text": "x" * (100_000 if too_large == "manifest" else 10)}
    ledger = [LedgerStep(step=4, stage="cpt", bins=list(range(30_000 if too_large == "ledger" else 3)))]
    with file_size_limit(50_000):
        checkpointer.begin(tensors, state, step=4, ledger=ledger)
        with pytest.raises(StorageError, match="checkpoint of step 4 could not be written.*File too large.*free some"):
            checkpointer.wait()
    after = {path: path.read_bytes() for path in checkpointer.root.parent.rglob("*") if path.is_file()}
    if too_large == "manifest":  # its segment was written before; no checkpoint refers to it
        after = {path: content for path, content in after.items() if "ledger" not in path.parts}
    assert after == before
    assert steps(checkpointer) == [2, 3]
    checkpointer.begin(tensors, state, step=4, ledger=ledger)  # once there is free space, the same run continues
    done = checkpointer.wait()
    assert done is not None
    read = {"w": torch.zeros_like(tensors["w"])}
    checkpointer.read(done, read)
    assert torch.equal(read["w"], tensors["w"])


def test_a_failure_is_raised_once_and_starts_no_checkpoint(
    checkpointer: Checkpointer, caplog: pytest.LogCaptureFixture
) -> None:
    def fail_after_begin() -> None:
        with checkpointer:
            checkpointer.begin({"w": torch.zeros(1_000)}, {}, step=4, ledger=[])
            raise KeyError  # training fails before it sees the checkpoint's failure

    with file_size_limit(1_000):
        checkpointer.begin({"w": torch.zeros(1_000)}, {}, step=4, ledger=[])
        with pytest.raises(StorageError, match="step 4"):
            checkpointer.begin(values(5), {}, step=5, ledger=[])
        checkpointer.wait()
        assert steps(checkpointer) == [2, 3]
        with pytest.raises(StorageError, match="step 4"), checkpointer:
            checkpointer.begin({"w": torch.zeros(1_000)}, {}, step=4, ledger=[])
        with pytest.raises(KeyError):
            fail_after_begin()
    assert "the last checkpoint was not completed either: the checkpoint of step 4" in caplog.text


def test_a_failed_callback_keeps_the_checkpoint(checkpointer: Checkpointer) -> None:
    def export(done: Checkpoint) -> None:
        assert (done.folder / MANIFEST).exists()
        raise StorageError("the export could not be written")

    checkpointer.begin(values(4), {}, step=4, ledger=[], then=export)
    with pytest.raises(StorageError, match="the export could not be written"):
        checkpointer.wait()
    assert held(checkpointer)[0] == 4


def test_no_warning_and_no_filter_is_left_by_the_thread(checkpointer: Checkpointer) -> None:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        filters = list(warnings.filters)
        checkpoint(checkpointer, 4)
        assert warnings.filters == filters
    assert not seen


def test_the_manifest_names_every_file(checkpointer: Checkpointer) -> None:
    folder = folders(checkpointer)[-1]
    body = json.loads((folder / MANIFEST).read_text())["body"]
    assert set(body["files"]) == {path.name for path in folder.iterdir()} - {MANIFEST}


UNSHARE = ["unshare", "--map-root-user", "--mount"]


@pytest.mark.real
def test_a_full_file_system(tmp_path: Path) -> None:
    """ENOSPC itself, on a file system of 2 MB that only the child sees."""
    if shutil.which("unshare") is None or subprocess.run([*UNSHARE, "true"], capture_output=True).returncode:
        pytest.skip("this machine does not let a user mount a file system")
    script = (
        f"mount -t tmpfs -o size=2m tmpfs {tmp_path} && exec {sys.executable} "
        f"{Path(__file__).with_name('checkpoint_worker.py')} full {tmp_path}"
    )
    done = subprocess.run([*UNSHARE, "sh", "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["errors"] == 3
    assert re.search("step 2 could not be written.*No space left on device.*free some space", report["error"])
    assert report["after"] == report["before"]
    assert report["at_last"] == [1, 2]


def run_workers(scenario: str, root: Path, size: int) -> tuple[list[int], list[dict[str, Any]], str]:
    """Exit codes, reports and rank 0's standard error of processes of checkpoint_worker.py."""
    command = [sys.executable, str(Path(__file__).with_name("checkpoint_worker.py")), scenario, str(root)]
    places = [[]] if size == 1 else [[str(rank), str(size)] for rank in range(size)]
    started = [
        subprocess.Popen([*command, *place], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for place in places
    ]
    try:
        outputs = [process.communicate(timeout=300) for process in started]
    finally:
        for process in started:
            process.kill()
    assert outputs[0][0], outputs[0][1]
    return [process.returncode for process in started], [json.loads(out or "null") for out, _ in outputs], outputs[0][1]


@pytest.mark.real
def test_two_workers_write_checkpoints_in_training_lose_one_and_reshard(tmp_path: Path) -> None:
    codes, (killed, left), _ = run_workers("write", tmp_path, 2)
    assert codes == [-signal.SIGKILL, 0]
    assert killed["overlapped"] > 0  # training saw the checkpoint in flight,
    for report in (killed, left):
        assert report["sums"] == [[3.0]]  # neither got the other's messages,
        assert report["first"]  # and the checkpoint has the values from before
        assert report["second"]
        assert re.search("step 3 could not be written.*File too large", report["full"])  # for one, so for both
        assert not any("step-00000003" in name for name in report["after_full"])
        assert report["third"]
    assert left["lost"] == "RuntimeError"  # none of ours: Ray Train starts the workers again after it

    # the checkpoint that the lost worker was writing does not exist; one process continues from the previous one
    codes, (report,), _ = run_workers("alone", tmp_path, 1)
    assert codes == [0]
    assert report == {"unfinished": [False], "third": True, "fourth": True, "left": 3}
    assert audit(tmp_path, {"cpt": 5}).bins == {"cpt": [4]}

    # two again, from the checkpoint of one; both fall back, although only the second reads the damage
    codes, reports, log = run_workers("restore", tmp_path, 2)
    assert codes == [0, 0]
    assert reports == 2 * [{"fourth": True, "fallen_back": True}]
    assert log.count("the content of __0_0.distcp has changed") == 1
