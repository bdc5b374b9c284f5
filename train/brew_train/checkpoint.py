"""Commits: sharded checkpoints that either exist completely or not at all.

Owns: writing a commit, finding and verifying the newest good one, reading it back at any number of workers, retention.
Does not own: what is in the state (brew_train.loop) or the file format (torch.distributed.checkpoint, DCP).

    checkpoints/step-00000020-5f0c1a2b/      written once, never reused: a repeated step gets a new suffix
        __0_0.distcp  __1_0.distcp  .metadata    DCP's files: each worker's shards, and the index
        manifest.json                            put last, by rename: only with it does the commit exist

Overwriting a folder and crashing leaves a mix of old and new rows that loads silently, and so does a flipped bit;
hence the fresh names and the sha256 of every file.
"""

import contextlib
import hashlib
import json
import logging
import os
import secrets
import shutil
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from brew_platform.errors import StorageError, UserError
from brew_train.world import World

__all__ = ["Commit", "Commits"]

logger = logging.getLogger(__name__)
MANIFEST = "manifest.json"


@dataclass(frozen=True, kw_only=True)
class Commit:
    """A verified commit."""

    folder: Path
    step: int  # over all stages
    state: dict[str, Any]  # what the writer passed: data position, counters, the optimizer's numbers


class Commits:
    """The commits of one run.

    Args:
        root: folder that holds them, seen by all workers under the same path.
        keep: newest commits that retention leaves.
        world: the workers; every method is called by all of them.
    """

    def __init__(self, root: Path, *, keep: int, world: World) -> None:
        self.root, self.keep, self.world = root, keep, world

    def write(self, tensors: dict[str, torch.Tensor], state: dict[str, Any], *, step: int) -> Path:
        """Commits one step, then removes what retention no longer keeps.

        Args:
            tensors: by name; DTensors are written by the workers that hold their shards.
            state: JSON values, the same on every worker.
            step: over all stages.

        Returns:
            The commit's folder.

        Raises:
            StorageError: the commit could not be written; nothing that exists was touched.
        """
        with _storage_errors(step, self.root):
            folder = self.world.on_first(lambda: self._new_folder(step))
            with _quiet():
                save(dict(tensors), checkpoint_id=folder)
            self.world.on_first(lambda: self._finish(folder, step, state))
        return folder

    def newest(self) -> Commit | None:
        """The newest commit whose files are all as they were written, the same on every worker; None where none is.

        Damaged ones are named in the log and passed over.
        """
        return self.world.on_first(self._find)

    def read(self, commit: Commit, tensors: dict[str, torch.Tensor]) -> None:
        """Fills `tensors` in place from a verified commit, whatever number of workers wrote it.

        Raises:
            UserError: the commit holds other tensors, so it is of another model.
        """
        try:
            with _quiet():
                load(dict(tensors), checkpoint_id=commit.folder)
        except (CheckpointException, RuntimeError, ValueError) as error:
            raise UserError(
                f"the checkpoint {commit.folder} does not fit this model ({_brief(error)}): its sizes were changed; "
                f"restore the settings that the run started with, or choose a new run folder."
            ) from error

    def _new_folder(self, step: int) -> Path:
        folder = self.root / f"step-{step:08d}-{secrets.token_hex(4)}"
        with _storage_errors(step, self.root):
            folder.mkdir(parents=True)
        return folder

    def _finish(self, folder: Path, step: int, state: dict[str, Any]) -> None:
        with _storage_errors(step, self.root):
            _write_manifest(folder, {"step": step, "state": state})
            self._retain(folder)

    def _find(self) -> Commit | None:
        for folder in sorted(self.root.glob("step-*"), reverse=True):
            if not (folder / MANIFEST).is_file():
                continue  # never finished, so it was never a commit
            try:
                body = _verify(folder)
            except (OSError, ValueError, KeyError) as error:
                logger.warning("checkpoint %s is damaged (%s); falling back to the one before it", folder, error)
                continue
            return Commit(folder=folder, step=body["step"], state=body["state"])
        return None

    def _retain(self, newest: Path) -> None:
        """Keeps `newest` and the commits of the last steps up to its own.

        What has no manifest is left over from a lost worker. What is of a later step was passed over as damaged when
        this attempt began, and must not push out the good ones.
        """
        others = [folder for folder in sorted(self.root.glob("step-*")) if folder != newest]
        step = newest.name.split("-")[1]
        commits = [folder for folder in others if (folder / MANIFEST).is_file() and folder.name.split("-")[1] <= step]
        kept = commits[-(self.keep - 1) :] if self.keep > 1 else []
        for folder in others:
            if folder not in kept:
                (folder / MANIFEST).unlink(missing_ok=True)  # first it stops existing, then it goes
                shutil.rmtree(folder, ignore_errors=True)


def _write_manifest(folder: Path, body: dict[str, Any]) -> None:
    files = {
        path.name: {"bytes": path.stat().st_size, "sha256": _sha256(path)}
        for path in sorted(folder.iterdir())
        if path.name != MANIFEST
    }
    body = {**body, "files": files}
    temporary = folder / f"{MANIFEST}.tmp"
    with temporary.open("w") as handle:
        json.dump({"body": body, "sha256": _digest(body)}, handle)
        handle.flush()
        os.fsync(handle.fileno())
    temporary.rename(folder / MANIFEST)
    descriptor = os.open(folder, os.O_RDONLY)  # the rename itself must survive a power cut
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _verify(folder: Path) -> dict[str, Any]:
    """The manifest's body, after holding every file against it; ValueError says what is wrong."""
    manifest = json.loads((folder / MANIFEST).read_text())
    body: dict[str, Any] = manifest["body"]
    if _digest(body) != manifest["sha256"]:
        raise ValueError("its manifest was altered")
    for name, recorded in body["files"].items():
        path = folder / name
        if not path.is_file():
            raise ValueError(f"{name} is missing")
        if path.stat().st_size != recorded["bytes"]:
            raise ValueError(f"{name} has {path.stat().st_size} bytes instead of {recorded['bytes']}")
        if _sha256(path) != recorded["sha256"]:
            raise ValueError(f"{name} has another content than was written")
    return body


def _digest(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _brief(error: BaseException) -> str:
    """The first cause in one line; DCP's own text is a page per worker."""
    if isinstance(error, CheckpointException):
        for failure in error.failures.values():
            cause = failure[0] if isinstance(failure, tuple) else failure
            return f"{type(cause).__name__}: {str(cause).splitlines()[0] if str(cause) else ''}"
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"


@contextlib.contextmanager
def _storage_errors(step: int, root: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, CheckpointException) as error:
        raise StorageError(
            f"the checkpoint of step {step} could not be written to {root} ({_brief(error)}): free some space or "
            f"repair the disk; a restart continues from the last complete one."
        ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """DCP warns that a single process has no process group, which is how we mean it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled, unavailable or uninitialized")
        yield
