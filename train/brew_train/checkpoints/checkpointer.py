"""Writes sharded checkpoints in the background, each completely or not at all, and restores the newest valid one.

    checkpoints/step-00000020-5f0c1a2b/      written once, never reused: a repeated step gets a new suffix
        __0_0.distcp  __1_0.distcp  .metadata    each worker's shards, and the index
        manifest.json                            put last, by rename: only with it does the checkpoint exist
    ledger/step-00000020-5f0c1a2b.json       the bins since the checkpoint before it (checkpoints.ledger)

Folder names are fresh and every file has a SHA-256, because a crash while a folder is overwritten, or a flipped bit,
would leave data that loads without an error.

Training waits while the tensors are copied, and for the previous checkpoint if it is not complete. A background thread
writes the copies. It uses the process group `DistributedContext.side`, so its messages do not mix with those of
training, and works in rounds (distributed.consensus): an error on one worker is raised on all in the same call.
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
    complaint,
    digest_file,
    finished,
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
Written = tuple[list[WriteResult] | None, dict[str, dict[str, Any]]]  # places in a file, and each file's digest


class Checkpointer:
    """The checkpoints of one run. On exit, also after an error, it completes the checkpoint in flight.

    Args:
        root: folder that holds them, seen by all workers under the same path; the ledger lies beside it.
        keep: newest checkpoints that retention leaves.
        world: the workers; every method is called by all of them, in the same order.
        lease: on the run folder; checkpoints stop when a later attempt takes it. None: no other process writes there.
    """

    def __init__(self, root: Path, *, keep: int, context: DistributedContext, lease: RunLease | None = None) -> None:
        assert context.size == 1 or context.side is not None, "several workers need DistributedContext.side"
        self.root, self.keep, self.context, self.lease = root, keep, context, lease
        self.blocked_seconds = 0.0  # that training waited in `begin` and `wait`, in all
        self._taken_seconds = 0.0  # of those, what `take_blocked_seconds` has returned
        self._shards = ShardWriter(context.rank)
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None  # of the checkpoint in flight; the same kind on every worker
        self._last: Checkpoint | None = None  # written by us, or found by `newest`
        self._ledger: LedgerReference | None = None  # segment that the next one follows
        self._passed: set[Path] = set()  # damaged checkpoints that `newest` passed over
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
        """Starts the checkpoint of one step and returns once the tensors are copied; they may change from then on.

        Args:
            tensors: by name; DTensors are written by the workers that hold their shards.
            state: JSON values, the same on every worker.
            step: over all stages.
            ledger: the steps since the last checkpoint that was begun or found.
            then: called with the checkpoint in the background thread of every worker, once it exists; may use
                `DistributedContext.side`, and nothing else, to talk to the other workers.

        Raises:
            StorageError: the previous checkpoint could not be written, on every worker; no new one is started. Earlier
                checkpoints are unchanged.
            UserError: the checkpoint before this one was not made, as a later attempt has taken over the run folder.
            RuntimeError: a worker was lost while that checkpoint was written.
        """
        began = time.perf_counter()
        try:
            self._join()
            work = partial(
                self._write_checkpoint,
                step=step,
                state=json.loads(json.dumps(state)),  # a copy, and an error here if it is not JSON
                ledger=tuple(ledger),
                plan=self._shards.stage(tensors),
                kept_step=self._kept_step,
                then=then,
            )
            # a daemon: where another worker hangs, this process must still be able to end
            self._thread = threading.Thread(target=self._run, args=(work,), name="checkpoint", daemon=True)
            self._thread.start()
        finally:
            self.blocked_seconds += time.perf_counter() - began

    def wait(self) -> Checkpoint | None:
        """Waits until no checkpoint is in flight.

        Returns:
            The newest checkpoint of this run, written or found.

        Raises:
            StorageError, RuntimeError: as `begin`.
        """
        began = time.perf_counter()
        try:
            self._join()
        finally:
            self.blocked_seconds += time.perf_counter() - began
        return self._last

    def take_blocked_seconds(self) -> float:
        """Seconds that training waited for checkpoints since the last call."""
        seconds = self.blocked_seconds - self._taken_seconds
        self._taken_seconds = self.blocked_seconds
        return seconds

    def keep_step(self, step: int | None) -> None:
        """From the next checkpoint on, retention also keeps the checkpoint of this step; None keeps no extra one."""
        self._kept_step = step

    def newest(self) -> Checkpoint | None:
        """The newest checkpoint whose files are all as they were written, the same on every worker; None where none is.

        Damaged ones are named in the log and passed over. Each worker reads its share of the files.

        Raises:
            StorageError: there are checkpoints, but all are damaged; going on would start over and remove them.
        """
        folders = self.context.on_first(partial(_on_disk, f"{self.root} cannot be read", finished, self.root))
        for folder in folders:
            checkpoint, fault = self._verify(folder)
            fault = next(filter(None, self.context.gather(fault)), None)
            if checkpoint is not None and fault is None:
                self._last, self._ledger = checkpoint, checkpoint.ledger
                return checkpoint
            self._passed.add(folder)
            if self.context.rank == 0:
                logger.warning("checkpoint %s is damaged (%s); falling back to the one before it", folder, fault)
        if folders:
            raise StorageError(
                f"none of the {len(folders)} checkpoints in {self.root} is intact (the log says why): repair the disk, "
                f"or remove that folder to start from the beginning."
            )
        return None

    def read(self, checkpoint: Checkpoint, tensors: dict[str, torch.Tensor]) -> None:
        """Fills `tensors` in place from a verified checkpoint, whatever number of workers wrote it.

        Raises:
            UserError: the checkpoint holds other tensors, so it is of another model or optimizer.
            StorageError: it cannot be read any more.
        """

        def fill() -> None:
            try:
                read_shards(checkpoint.folder, tensors)
            except ValueError as error:
                raise UserError(
                    f"the checkpoint {checkpoint.folder} does not fit this model ({error}): its sizes or its optimizer "
                    f"were changed; restore the settings that the run started with, or choose a new run folder."
                ) from error

        self.context.on_all(partial(_on_disk, f"the checkpoint {checkpoint.folder} cannot be read", fill))

    def _join(self) -> None:
        if self._thread is not None:
            self._thread.join()
        self._thread, error, self._error = None, self._error, None
        if error is not None:
            raise error

    def _run(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:  # whatever it is, the main thread must meet it
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
        """The background thread's work: two rounds with the other workers, and one for `then`."""
        disk = partial(_on_disk, f"the checkpoint of step {step} could not be written to {self.root}")
        folder: Path | None = None
        try:
            folder, plan = agree(self.context, lambda: plan, partial(disk, self._open, step))
            finish = partial(self._finish, folder, step, state, ledger, kept_step)
            checkpoint = agree(self.context, partial(disk, self._write, folder, plan), partial(disk, finish))
        except Exception:
            self._shards.forget()
            if folder is not None and self.context.rank == 0 and not (folder / MANIFEST).exists():
                shutil.rmtree(folder, ignore_errors=True)
            raise
        self._last, self._ledger = checkpoint, checkpoint.ledger
        if then is not None:
            agree(self.context, partial(then, checkpoint), lambda done: done)

    def _open(self, step: int, plans: list[SavePlan | None]) -> list[tuple[Path, SavePlan | None]]:
        """Rank 0: a fresh folder, and what each worker writes into it."""
        folder = self.root / f"step-{step:08d}-{secrets.token_hex(4)}"
        folder.mkdir(parents=True)
        return [(folder, plan) for plan in self._shards.combine(plans)]

    def _write(self, folder: Path, plan: SavePlan | None) -> Written:
        """Every worker: its part, on the disk."""
        folder.mkdir(exist_ok=True)  # a network file system may not show it yet
        files, places = self._shards.write(folder, plan)
        return places, {path.name: digest_file(path, sync=True) for path in files}

    def _finish(
        self,
        folder: Path,
        step: int,
        state: dict[str, Any],
        ledger: Sequence[LedgerStep],
        kept_step: int | None,
        written: list[Written],
    ) -> list[Checkpoint]:
        """Rank 0: the index, the ledger, the manifest; then retention."""
        index = self._shards.finish(folder, [places for places, _ in written])
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
        """Keeps `newest`, the last checkpoints before it, and that of `kept_step`.

        What has no manifest is left over from a lost worker. What is of the same or a later step, or was passed over as
        damaged when this attempt began, must not push out the good ones.
        """
        earlier = [f for f in finished(self.root) if step_of(f) < newest.step and f not in self._passed]
        kept = {newest.folder, *earlier[: self.keep - 1], *(f for f in earlier if step_of(f) == kept_step)}
        for folder in set(self.root.glob("step-*")) - kept:
            (folder / MANIFEST).unlink(missing_ok=True)  # first it stops existing, then it goes
            shutil.rmtree(folder, ignore_errors=True)

    def _verify(self, folder: Path) -> tuple[Checkpoint | None, str | None]:
        """A checkpoint, and what is wrong with this worker's share of its files."""
        try:
            checkpoint = open_checkpoint(folder)
        except (OSError, ValueError) as error:
            return None, str(error)
        return checkpoint, complaint(checkpoint, sorted(checkpoint.files)[self.context.rank :: self.context.size])


def _on_disk(what: str, make: Callable[..., T], *arguments: Any) -> T:
    """What `make` returns for `arguments`; where the disk refuses, a StorageError that begins with `what`."""
    try:
        return make(*arguments)
    except OSError as error:
        raise StorageError(
            f"{what} ({error}): free some space or repair the disk; a restart continues from the last complete one."
        ) from error
