"""The manifest of a commit: which files it consists of, byte for byte, and how to tell that they still are.

Owns: sealed JSON files, the manifest's content, holding files against it, and a look at a run's last commit without any
worker. Does not own: writing the shards (commits.shards), or which commits are kept (commits.checkpoint).

A sealed file is `{"body": ..., "sha256": of the body}`, put in place by rename once it is on the disk.
"""

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

__all__ = [
    "CHECKPOINTS",
    "MANIFEST",
    "Commit",
    "Reference",
    "complaint",
    "digest_file",
    "finished",
    "open_commit",
    "peek",
    "peek_commit",
    "seal",
    "step_of",
    "sync_folder",
    "unseal",
    "write_manifest",
]

CHECKPOINTS = "checkpoints"  # inside the run folder
MANIFEST = "manifest.json"


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A sealed file by name and content."""

    name: str
    sha256: str  # of its body


@dataclass(frozen=True, kw_only=True)
class Commit:
    """A commit as its manifest describes it."""

    folder: Path
    step: int  # over all stages
    state: dict[str, Any]  # what the writer passed: data position, counters, the optimizer's numbers
    ledger: Reference | None = None  # the segment of the bins up to this step (commits.ledger)
    files: dict[str, dict[str, Any]] = field(default_factory=dict)  # by name: {"bytes", "sha256"}


def write_manifest(commit: Commit) -> None:
    """Makes `commit` exist: all its files are on the disk by now."""
    body = {key: value for key, value in asdict(commit).items() if key != "folder"}
    seal(commit.folder / MANIFEST, body)
    sync_folder(commit.folder.parent)


def open_commit(folder: Path) -> Commit:
    """The commit in `folder`, its files not looked at.

    Raises:
        ValueError: what is wrong with the manifest.
        OSError: it cannot be read.
    """
    try:
        body = unseal(folder / MANIFEST)
        ledger = body.pop("ledger")
        return Commit(folder=folder, ledger=Reference(**ledger) if ledger else None, **body)
    except (KeyError, TypeError) as error:  # sealed, but not by this code
        raise ValueError(f"its manifest has another form ({error})") from error


def complaint(commit: Commit, names: Iterable[str], *, content: bool = True) -> str | None:
    """What is wrong with these files of a commit, if anything.

    Args:
        names: of files in its manifest.
        content: read the files and compare sha256; else sizes alone.
    """
    for name in names:
        path, recorded = commit.folder / name, commit.files[name]
        try:
            size = path.stat().st_size
            if size != recorded["bytes"]:
                return f"{name} has {size} bytes instead of {recorded['bytes']}"
            if content and digest_file(path)["sha256"] != recorded["sha256"]:
                return f"{name} has another content than was written"
        except FileNotFoundError:
            return f"{name} is missing"
        except OSError as error:
            return f"{name} cannot be read: {error}"
    return None


def finished(root: Path) -> list[Path]:
    """Folders of the commits in `root`, the newest first; what has no manifest never was a commit."""
    return sorted((path.parent for path in root.glob(f"step-*/{MANIFEST}")), reverse=True)


def step_of(folder: Path) -> int:
    """The step that a commit's folder is named after."""
    return int(folder.name.split("-")[1])


def peek_commit(root: Path) -> Commit | None:
    """The newest commit whose manifest and file sizes are right, or None; takes milliseconds, and no workers.

    Contents are not read, so a restore may still fall back to one before it.
    """
    for folder in finished(root):
        try:
            commit = open_commit(folder)
        except (OSError, ValueError):
            continue
        if complaint(commit, commit.files, content=False) is None:
            return commit
    return None


def peek(root: Path) -> dict[str, Any] | None:
    """What the newest commit in `root` says of the run (`Commit.state`), as `peek_commit` finds it."""
    commit = peek_commit(root)
    return commit.state if commit else None


def digest_file(path: Path, *, sync: bool = False) -> dict[str, Any]:
    """Size and sha256 of a file; `sync` first sees to it that the file is on the disk."""
    with path.open("rb") as handle:
        if sync:
            os.fsync(handle.fileno())
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(handle, "sha256").hexdigest()}


def seal(path: Path, body: dict[str, Any]) -> Reference:
    """Writes a sealed file; it appears at once and complete, or not at all."""
    digest = _digest(body)
    temporary = path.with_suffix(".tmp")
    try:
        with temporary.open("w") as handle:
            json.dump({"body": body, "sha256": digest}, handle)
            handle.flush()
            os.fsync(handle.fileno())
        temporary.rename(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)
    return Reference(name=path.name, sha256=digest)


def unseal(path: Path, *, sha256: str | None = None) -> dict[str, Any]:
    """The body of a sealed file.

    Args:
        sha256: what a Reference says of it, if there is one.

    Raises:
        ValueError: it is no longer what was written.
        OSError: it cannot be read.
    """
    try:
        sealed = json.loads(path.read_text())
        body: dict[str, Any] = sealed["body"]
        intact = _digest(body) == sealed["sha256"] == (sha256 or sealed["sha256"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"its {path.name} is cut off or overwritten ({error})") from error
    if not intact:
        raise ValueError(f"its {path.name} was altered")
    return body


def sync_folder(folder: Path) -> None:
    """Makes renames and new files in `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _digest(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
