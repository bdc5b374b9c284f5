"""Writes sharded checkpoints in the background, each completely or not at all, and restores the newest valid one.

    checkpoints/step-00000020-5f0c1a2b/      written once; a repeated step gets a new suffix
        __0_0.distcp  __1_0.distcp  .metadata    the shards of each worker, and the index
        manifest.json                            written last, by rename; a folder without it is not a checkpoint
    ledger/step-00000020-5f0c1a2b.json       the bins since the previous checkpoint (checkpoints.ledger)

Folders are never overwritten, and every file has a SHA-256. Otherwise a crash or a damaged disk could leave data that
loads without an error.

Training waits while the tensors are copied, and for the previous checkpoint if it is not complete. A background thread
writes the copies. Its collectives use the process group `DistributedContext.side`, separately from those of training,
in rounds (distributed.consensus): an error of any worker is raised on all workers in the same call.
"""

import json
import logging
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import torch
from torch.distributed.checkpoint.planner import SavePlan
from torch.distributed.checkpoint.storage import WriteResult

from brew_platform.errors import StorageError, UserError
from brew_train.checkpoints.ledger import LEDGER, LedgerStep, write_segment
from brew_train.checkpoints.manifest import (
    MANIFEST,
    Checkpoint,
    LedgerReference,
    digest_file,
    find_fault,
    list_checkpoints,
    open_checkpoint,
    step_of,
    write_manifest,
)
from brew_train.checkpoints.run_lease import RunLease
from brew_train.checkpoints.shards import ShardWriter, read_shards
from brew_train.distributed.consensus import agree
from brew_train.distributed.context import DistributedContext

__all__ = ["Checkpoint", "Checkpointer"]

logger = logging.getLogger(__name__)
T = TypeVar("T")
Written = tuple[list[WriteResult] | None, dict[str, dict[str, Any]]]
"""What a worker wrote: the positions of its shards, and size and SHA-256 of each file by name."""


class Checkpointer:
    """Writes and restores the checkpoints of one run. Its `with` block completes the checkpoint in progress at the end.

    Args:
        root: folder of the checkpoints, visible to all workers under the same path; the ledger folder is beside it.
        keep: number of newest checkpoints to keep.
        context: the workers; all of them call every method, in the same order.
        lease: lease on the run folder; checkpoints stop when a later attempt takes it. None: no other process writes.
    """

    def __init__(self, root: Path, *, keep: int, context: DistributedContext, lease: RunLease | None = None) -> None:
        assert context.size == 1 or context.side is not None, "several workers need DistributedContext.side"
        self.root, self.keep, self.context, self.lease = root, keep, context, lease
        self.blocked_seconds = 0.0  # total time that training waited in `begin` and `wait`
        self._taken_seconds = 0.0  # part of it that `take_blocked_seconds` has returned
        self._shards = ShardWriter(context.rank)
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None  # error of the background thread; the same type on every worker
        self._last: Checkpoint | None = None  # last checkpoint that was written, or found by `newest`
        self._ledger: LedgerReference | None = None  # ledger segment of that checkpoint
        self._damaged: set[Path] = set()  # damaged checkpoints that `newest` skipped
        self._kept_step: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            self._join()
        except Exception as failure:
            if error is None:
                raise
            logger.warning("the last checkpoint was not completed either: %s", failure)

    def begin(
        self,
        tensors: dict[str, torch.Tensor],
        state: dict[str, Any],
        *,
        step: int,
        ledger: Sequence[LedgerStep],
        then: Callable[[Checkpoint], object] | None = None,
    ) -> None:
        """Starts a checkpoint, and returns when the tensors are copied; they may change afterwards.

        Args:
            tensors: tensors by name; each worker writes its shards of the DTensors.
            state: JSON values, the same on every worker.
            step: number of the step, over all stages.
            ledger: the steps since the last checkpoint that was started or found.
            then: called in the background thread of every worker, with the complete checkpoint; its collectives must
                use `DistributedContext.side`.

        Raises:
            StorageError: the previous checkpoint could not be written. The error is raised on every worker, and no new
                checkpoint is started. Earlier checkpoints are unchanged.
            UserError: the previous checkpoint was not written, because a later attempt has taken the run folder, or
                because weights or optimizer state were not finite.
            RuntimeError: a worker was lost while the previous checkpoint was written.
        """
        started = time.perf_counter()
        try:
            self._join()
            write = partial(
                self._write_checkpoint,
                step=step,
                state=json.loads(json.dumps(state)),  # a copy; raises if it is not JSON
                ledger=tuple(ledger),
                plan=self._shards.stage(tensors),
                kept_step=self._kept_step,
                then=then,
            )
            # a daemon, so that this process can exit if another worker hangs
            self._thread = threading.Thread(target=self._run, args=(write,), name="checkpoint", daemon=True)
            self._thread.start()
        finally:
            self.blocked_seconds += time.perf_counter() - started

    def wait(self) -> Checkpoint | None:
        """Waits until the checkpoint in progress is complete.

        Returns:
            The last checkpoint that was written, or found by `newest`; None if there is none.

        Raises:
            StorageError, UserError, RuntimeError: as in `begin`, for the checkpoint in progress.
        """
        started = time.perf_counter()
        try:
            self._join()
        finally:
            self.blocked_seconds += time.perf_counter() - started
        return self._last

    def take_blocked_seconds(self) -> float:
        """Returns the seconds that training waited for checkpoints since the last call."""
        seconds = self.blocked_seconds - self._taken_seconds
        self._taken_seconds = self.blocked_seconds
        return seconds

    def keep_step(self, step: int | None) -> None:
        """Also keeps the checkpoint of this step, from the next checkpoint on; None: keep no additional one."""
        self._kept_step = step

    def newest(self) -> Checkpoint | None:
        """Returns the newest checkpoint whose files are intact, the same on every worker; None if there are none.

        Damaged checkpoints are logged and skipped. Each worker verifies its share of the files.

        Raises:
            StorageError: all checkpoints are damaged. Training from the beginning would remove them.
        """
        folders = self.context.on_first(partial(_on_disk, f"{self.root} cannot be read", list_checkpoints, self.root))
        for folder in folders:
            checkpoint, fault = self._verify(folder)
            fault = next(filter(None, self.context.gather(fault)), None)
            if checkpoint is not None and fault is None:
                self._last, self._ledger = checkpoint, checkpoint.ledger
                return checkpoint
            self._damaged.add(folder)
            if self.context.rank == 0:
                logger.warning("checkpoint %s is damaged (%s); trying the previous checkpoint", folder, fault)
        if folders:
            raise StorageError(
                f"all {len(folders)} checkpoints in {self.root} are damaged (see the log): repair the disk, or remove "
                f"that folder to start from the beginning."
            )
        return None

    def read(self, checkpoint: Checkpoint, tensors: dict[str, torch.Tensor]) -> None:
        """Fills `tensors` in place. The checkpoint may have been written by another number of workers.

        Args:
            checkpoint: a checkpoint from `newest`.
            tensors: tensors by name, of the shapes in the checkpoint.

        Raises:
            UserError: the checkpoint has other tensors, because it belongs to another model or optimizer.
            StorageError: the checkpoint cannot be read.
        """

        def fill() -> None:
            try:
                read_shards(checkpoint.folder, tensors)
            except ValueError as error:
                raise UserError(
                    f"the checkpoint {checkpoint.folder} does not fit this model ({error}), because sizes or the "
                    f"optimizer were changed: restore the settings of the run, or choose a new run folder."
                ) from error

        self.context.on_all(partial(_on_disk, f"the checkpoint {checkpoint.folder} cannot be read", fill))

    def _join(self) -> None:
        if self._thread is not None:
            self._thread.join()
        self._thread, error, self._error = None, self._error, None
        if error is not None:
            raise error

    def _run(self, write: Callable[[], None]) -> None:
        try:
            write()
        except Exception as error:  # raised again in the main thread
            self._error = error

    def _write_checkpoint(
        self,
        *,
        step: int,
        state: dict[str, Any],
        ledger: Sequence[LedgerStep],
        plan: SavePlan | None,
        kept_step: int | None,
        then: Callable[[Checkpoint], object] | None,
    ) -> None:
        """Writes a checkpoint in the background thread: two rounds with the other workers, and one for `then`."""
        on_disk = partial(_on_disk, f"the checkpoint of step {step} could not be written to {self.root}")
        folder: Path | None = None
        try:
            folder, plan = agree(self.context, lambda: plan, partial(on_disk, self._open, step))
            finish = partial(self._finish, folder, step, state, ledger, kept_step)
            checkpoint = agree(self.context, partial(on_disk, self._write, folder, plan), partial(on_disk, finish))
        except Exception:
            self._shards.forget()
            if folder is not None and self.context.rank == 0 and not (folder / MANIFEST).exists():
                shutil.rmtree(folder, ignore_errors=True)
            raise
        self._last, self._ledger = checkpoint, checkpoint.ledger
        if then is not None:
            agree(self.context, partial(then, checkpoint), lambda done: done)

    def _open(self, step: int, plans: list[SavePlan | None]) -> list[tuple[Path, SavePlan | None]]:
        """Creates the folder, and returns what each worker writes into it; on rank 0."""
        folder = self.root / f"step-{step:08d}-{secrets.token_hex(4)}"
        folder.mkdir(parents=True)
        return [(folder, plan) for plan in self._shards.combine(plans)]

    def _write(self, folder: Path, plan: SavePlan | None) -> Written:
        """Writes and syncs this worker's shards.

        Raises:
            UserError: a tensor has values that are not finite.
        """
        if (name := self._shards.find_not_finite()) is not None:
            raise UserError(
                f"{name} has values that are not finite, so the checkpoint {folder.name} was not written, and earlier "
                f"ones were not changed: lower learning_rate or max_grad_norm, and run again."
            )
        folder.mkdir(exist_ok=True)  # a network file system may not show the folder yet
        files, positions = self._shards.write(folder, plan)
        return positions, {path.name: digest_file(path, sync=True) for path in files}

    def _finish(
        self,
        folder: Path,
        step: int,
        state: dict[str, Any],
        ledger: Sequence[LedgerStep],
        kept_step: int | None,
        written: list[Written],
    ) -> list[Checkpoint]:
        """Writes the index, the ledger and the manifest, and removes old checkpoints; on rank 0."""
        index = self._shards.finish(folder, [positions for positions, _ in written])
        files = {index.name: digest_file(index, sync=True)}
        for _, digests in written:
            files |= digests
        if self.lease is not None:
            self.lease.require()
        segment = self._ledger
        if ledger:
            segment = write_segment(self.root.parent / LEDGER, folder.name, ledger, self._ledger)
        checkpoint = Checkpoint(folder=folder, step=step, state=state, ledger=segment, files=files)
        write_manifest(checkpoint)
        self._retain(checkpoint, kept_step)
        return [checkpoint] * self.context.size

    def _retain(self, newest: Checkpoint, kept_step: int | None) -> None:
        """Keeps `newest`, the checkpoints before it up to `keep`, and that of `kept_step`; removes all others.

        Folders without a manifest are left from a lost worker. Checkpoints of the same or a later step, and damaged
        ones, do not count, so that they do not displace intact ones.
        """
        intact = [folder for folder in list_checkpoints(self.root) if folder not in self._damaged]
        earlier = [folder for folder in intact if step_of(folder) < newest.step]
        best = [folder for folder in earlier if step_of(folder) == kept_step]
        for folder in set(self.root.glob("step-*")) - {newest.folder, *earlier[: self.keep - 1], *best}:
            (folder / MANIFEST).unlink(missing_ok=True)  # first, so that an interruption leaves no damaged checkpoint
            shutil.rmtree(folder, ignore_errors=True)

    def _verify(self, folder: Path) -> tuple[Checkpoint | None, str | None]:
        """Opens a checkpoint, and verifies this worker's share of its files; returns the checkpoint and a fault."""
        try:
            checkpoint = open_checkpoint(folder)
        except (OSError, ValueError) as error:
            return None, str(error)
        return checkpoint, find_fault(checkpoint, sorted(checkpoint.files)[self.context.rank :: self.context.size])


def _on_disk(message: str, function: Callable[..., T], *arguments: Any) -> T:
    """Calls `function`, and converts an OSError to a StorageError that starts with `message`."""
    try:
        return function(*arguments)
    except OSError as error:
        raise StorageError(
            f"{message} ({error}): free some space or repair the disk; a restart continues from the last complete "
            f"checkpoint."
        ) from error
