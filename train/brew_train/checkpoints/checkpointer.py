"""Commits: sharded checkpoints that exist completely or not at all, written in the background while training goes on.

Owns: staging and writing a commit, finding the newest good one, reading it back at any number of workers, retention.
Does not own: what the state holds (brew_train.loop), DCP's files (commits.shards), manifests (commits.manifest).

    checkpoints/step-00000020-5f0c1a2b/      written once, never reused: a repeated step gets a new suffix
        __0_0.distcp  __1_0.distcp  .metadata    each worker's shards, and the index
        manifest.json                            put last, by rename: only with it does the commit exist
    ledger/step-00000020-5f0c1a2b.json       the bins since the commit before it (commits.ledger)

Overwriting a folder and crashing leaves a mix of old and new rows that loads silently, and so does a flipped bit;
hence the fresh names and the sha256 of every file.

Training waits only while the tensors are copied (and for the commit before, where that is not done yet). A background
thread writes the copies. It talks to the other workers' threads over `World.side`, so that its messages never mix with
those of training, and in rounds (commits.agreement): what fails anywhere fails everywhere, so no worker is left
waiting, and all of them meet the error in the same call.
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
    Commit,
    Reference,
    complaint,
    digest_file,
    finished,
    open_commit,
    step_of,
    write_manifest,
)
from brew_train.checkpoints.run_lease import Claim
from brew_train.checkpoints.shards import ShardWriter, read_shards
from brew_train.distributed.consensus import agree
from brew_train.distributed.context import World

__all__ = ["Commit", "Commits"]

logger = logging.getLogger(__name__)
T = TypeVar("T")
Written = tuple[list[WriteResult] | None, dict[str, dict[str, Any]]]  # places in a file, and each file's digest


class Commits:
    """The commits of one run. As a context manager it completes the commit in flight, also where training fails.

    Args:
        root: folder that holds them, seen by all workers under the same path; the ledger lies beside it.
        keep: newest commits that retention leaves.
        world: the workers; every method is called by all of them, in the same order.
        claim: on the run folder; without it no commit comes into existence any more. None: nobody else writes there.
    """

    def __init__(self, root: Path, *, keep: int, world: World, claim: Claim | None = None) -> None:
        assert world.size == 1 or world.side is not None, "several workers need World.side"
        self.root, self.keep, self.world, self.claim = root, keep, world, claim
        self.blocked_seconds = 0.0  # that training waited in `begin` and `wait`, in all
        self._taken_seconds = 0.0  # of those, what `take_blocked_seconds` has returned
        self._shards = ShardWriter(world.rank)
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None  # of the commit in flight; the same kind on every worker
        self._last: Commit | None = None  # written by us, or found by `newest`
        self._ledger: Reference | None = None  # segment that the next one follows
        self._passed: set[Path] = set()  # damaged commits that `newest` passed over
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
        then: Callable[[Commit], object] | None = None,
    ) -> None:
        """Starts the commit of one step and returns once the tensors are copied; they may change from then on.

        Args:
            tensors: by name; DTensors are written by the workers that hold their shards.
            state: JSON values, the same on every worker.
            step: over all stages.
            ledger: the steps since the last commit that was begun or found.
            then: called with the commit in the background thread of every worker, once it exists; may use
                `World.side`, and nothing else, to talk to the other workers.

        Raises:
            StorageError: the commit before this one could not be written, on every worker; none is begun. Those that
                existed are untouched.
            UserError: the commit before this one was not made, as a later attempt has taken over the run folder.
            RuntimeError: a worker was lost while that commit was written.
        """
        began = time.perf_counter()
        try:
            self._join()
            work = partial(
                self._commit,
                step=step,
                state=json.loads(json.dumps(state)),  # a copy, and an error here if it is not JSON
                ledger=tuple(ledger),
                plan=self._shards.stage(tensors),
                kept_step=self._kept_step,
                then=then,
            )
            # a daemon: where another worker hangs, this process must still be able to end
            self._thread = threading.Thread(target=self._run, args=(work,), name="commit", daemon=True)
            self._thread.start()
        finally:
            self.blocked_seconds += time.perf_counter() - began

    def wait(self) -> Commit | None:
        """Waits until no commit is in flight.

        Returns:
            The newest commit of this run, written or found.

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
        """Seconds that training waited for commits since the last call."""
        seconds = self.blocked_seconds - self._taken_seconds
        self._taken_seconds = self.blocked_seconds
        return seconds

    def keep_step(self, step: int | None) -> None:
        """From the next commit on, retention leaves the commit of this step beside the newest; None: no such one."""
        self._kept_step = step

    def newest(self) -> Commit | None:
        """The newest commit whose files are all as they were written, the same on every worker; None where none is.

        Damaged ones are named in the log and passed over. Each worker reads its share of the files.

        Raises:
            StorageError: there are commits, but all are damaged; going on would start over and remove them.
        """
        folders = self.world.on_first(partial(_on_disk, f"{self.root} cannot be read", finished, self.root))
        for folder in folders:
            commit, fault = self._verify(folder)
            fault = next(filter(None, self.world.gather(fault)), None)
            if commit is not None and fault is None:
                self._last, self._ledger = commit, commit.ledger
                return commit
            self._passed.add(folder)
            if self.world.rank == 0:
                logger.warning("checkpoint %s is damaged (%s); falling back to the one before it", folder, fault)
        if folders:
            raise StorageError(
                f"none of the {len(folders)} checkpoints in {self.root} is intact (the log says why): repair the disk, "
                f"or remove that folder to start from the beginning."
            )
        return None

    def read(self, commit: Commit, tensors: dict[str, torch.Tensor]) -> None:
        """Fills `tensors` in place from a verified commit, whatever number of workers wrote it.

        Raises:
            UserError: the commit holds other tensors, so it is of another model or optimizer.
            StorageError: it cannot be read any more.
        """

        def fill() -> None:
            try:
                read_shards(commit.folder, tensors)
            except ValueError as error:
                raise UserError(
                    f"the checkpoint {commit.folder} does not fit this model ({error}): its sizes or its optimizer "
                    f"were changed; restore the settings that the run started with, or choose a new run folder."
                ) from error

        self.world.on_all(partial(_on_disk, f"the checkpoint {commit.folder} cannot be read", fill))

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

    def _commit(
        self,
        *,
        step: int,
        state: dict[str, Any],
        ledger: Sequence[LedgerStep],
        plan: SavePlan | None,
        kept_step: int | None,
        then: Callable[[Commit], object] | None,
    ) -> None:
        """The background thread's work: two rounds with the other workers, and one for `then`."""
        disk = partial(_on_disk, f"the checkpoint of step {step} could not be written to {self.root}")
        folder: Path | None = None
        try:
            folder, plan = agree(self.world, lambda: plan, partial(disk, self._open, step))
            finish = partial(self._finish, folder, step, state, ledger, kept_step)
            commit = agree(self.world, partial(disk, self._write, folder, plan), partial(disk, finish))
        except Exception:
            self._shards.forget()
            if folder is not None and self.world.rank == 0 and not (folder / MANIFEST).exists():
                shutil.rmtree(folder, ignore_errors=True)
            raise
        self._last, self._ledger = commit, commit.ledger
        if then is not None:
            agree(self.world, partial(then, commit), lambda done: done)

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
    ) -> list[Commit]:
        """Rank 0: the index, the ledger, the manifest; then retention."""
        index = self._shards.finish(folder, [places for places, _ in written])
        files = {index.name: digest_file(index, sync=True)}
        for _, digests in written:
            files |= digests
        if self.claim is not None:
            self.claim.require()
        segment = self._ledger
        if ledger:
            segment = write_segment(self.root.parent / LEDGER, folder.name, ledger, self._ledger)
        commit = Commit(folder=folder, step=step, state=state, ledger=segment, files=files)
        write_manifest(commit)
        self._retain(commit, kept_step)
        return [commit] * self.world.size

    def _retain(self, newest: Commit, kept_step: int | None) -> None:
        """Keeps `newest`, the last commits before it, and that of `kept_step`.

        What has no manifest is left over from a lost worker. What is of the same or a later step, or was passed over as
        damaged when this attempt began, must not push out the good ones.
        """
        earlier = [f for f in finished(self.root) if step_of(f) < newest.step and f not in self._passed]
        kept = {newest.folder, *earlier[: self.keep - 1], *(f for f in earlier if step_of(f) == kept_step)}
        for folder in set(self.root.glob("step-*")) - kept:
            (folder / MANIFEST).unlink(missing_ok=True)  # first it stops existing, then it goes
            shutil.rmtree(folder, ignore_errors=True)

    def _verify(self, folder: Path) -> tuple[Commit | None, str | None]:
        """A commit, and what is wrong with this worker's share of its files."""
        try:
            commit = open_commit(folder)
        except (OSError, ValueError) as error:
            return None, str(error)
        return commit, complaint(commit, sorted(commit.files)[self.world.rank :: self.world.size])


def _on_disk(what: str, make: Callable[..., T], *arguments: Any) -> T:
    """What `make` returns for `arguments`; where the disk refuses, a StorageError that begins with `what`."""
    try:
        return make(*arguments)
    except OSError as error:
        raise StorageError(
            f"{what} ({error}): free some space or repair the disk; a restart continues from the last complete one."
        ) from error
