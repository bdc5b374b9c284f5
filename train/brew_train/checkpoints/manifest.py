"""The manifest of a checkpoint: size and SHA-256 of its files, and their verification.

A sealed file is `{"body": ..., "sha256": of the body}`, put in place by rename once it is on the disk.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from brew_platform.files import fsync_file, fsync_folder, replace_atomically

__all__ = [
    "CHECKPOINTS",
    "MANIFEST",
    "Checkpoint",
    "LedgerReference",
    "complaint",
    "digest_file",
    "finished",
    "open_checkpoint",
    "peek_checkpoint",
    "seal",
    "step_of",
    "unseal",
    "write_manifest",
]

CHECKPOINTS = "checkpoints"  # inside the run folder
MANIFEST = "manifest.json"


@dataclass(frozen=True, kw_only=True)
class LedgerReference:
    """A sealed file by name and content."""

    name: str
    sha256: str  # of its body


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A checkpoint as its manifest describes it."""

    folder: Path
    step: int  # over all stages
    state: dict[str, Any]  # what the writer passed: data position, counters, the optimizer's numbers
    ledger: LedgerReference | None = None  # the segment of the bins up to this step (checkpoints.ledger)
    files: dict[str, dict[str, Any]] = field(default_factory=dict)  # by name: {"bytes", "sha256"}


def write_manifest(checkpoint: Checkpoint) -> None:
    """Makes `checkpoint` exist: all its files are on the disk by now."""
    body = {key: value for key, value in asdict(checkpoint).items() if key != "folder"}
    seal(checkpoint.folder / MANIFEST, body)
    fsync_folder(checkpoint.folder.parent)


def open_checkpoint(folder: Path) -> Checkpoint:
    """The checkpoint in `folder`, its files not looked at.

    Raises:
        ValueError: what is wrong with the manifest.
        OSError: it cannot be read.
    """
    try:
        body = unseal(folder / MANIFEST)
        ledger = body.pop("ledger")
        return Checkpoint(folder=folder, ledger=LedgerReference(**ledger) if ledger else None, **body)
    except (KeyError, TypeError) as error:  # sealed, but not by this code
        raise ValueError(f"its manifest has another form ({error})") from error


def complaint(checkpoint: Checkpoint, names: Iterable[str], *, content: bool = True) -> str | None:
    """What is wrong with these files of a checkpoint, if anything.

    Args:
        names: of files in its manifest.
        content: read the files and compare sha256; else sizes alone.
    """
    for name in names:
        path, recorded = checkpoint.folder / name, checkpoint.files[name]
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
    """Folders of the checkpoints in `root`, the newest first; what has no manifest never was a checkpoint."""
    return sorted((path.parent for path in root.glob(f"step-*/{MANIFEST}")), reverse=True)


def step_of(folder: Path) -> int:
    """The step that a checkpoint's folder is named after."""
    return int(folder.name.split("-")[1])


def peek_checkpoint(root: Path) -> Checkpoint | None:
    """The newest checkpoint whose manifest and file sizes are right, or None; takes milliseconds, and no workers.

    Contents are not read, so a restore may still fall back to one before it.
    """
    for folder in finished(root):
        try:
            checkpoint = open_checkpoint(folder)
        except (OSError, ValueError):
            continue
        if complaint(checkpoint, checkpoint.files, content=False) is None:
            return checkpoint
    return None


def digest_file(path: Path, *, sync: bool = False) -> dict[str, Any]:
    """Size and sha256 of a file; `sync` first sees to it that the file is on the disk."""
    if sync:
        fsync_file(path)
    with path.open("rb") as handle:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(handle, "sha256").hexdigest()}


def seal(path: Path, body: dict[str, Any]) -> LedgerReference:
    """Writes a sealed file; it appears at once and complete, or not at all."""
    digest = _digest(body)
    replace_atomically(path, json.dumps({"body": body, "sha256": digest}))
    return LedgerReference(name=path.name, sha256=digest)


def unseal(path: Path, *, sha256: str | None = None) -> dict[str, Any]:
    """The body of a sealed file.

    Args:
        sha256: what a LedgerReference says of it, if there is one.

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


def _digest(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
