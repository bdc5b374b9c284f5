"""The manifest of a checkpoint: size and SHA-256 of its files, and their verification.

Manifests and ledger segments are sealed files: JSON objects `{"body": ..., "sha256": SHA-256 of the body}`, which are
written atomically.
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
    "digest_file",
    "find_fault",
    "list_checkpoints",
    "open_checkpoint",
    "peek_checkpoint",
    "seal",
    "step_of",
    "unseal",
    "write_manifest",
]

CHECKPOINTS = "checkpoints"  # name in the run folder
MANIFEST = "manifest.json"


@dataclass(frozen=True, kw_only=True)
class LedgerReference:
    """A reference to a ledger segment."""

    name: str  # file name
    sha256: str  # SHA-256 of its body


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """The content of a manifest."""

    folder: Path
    step: int  # number of the step, over all stages
    state: dict[str, Any]  # JSON values of the writer: data position, counters, numbers of the optimizer
    ledger: LedgerReference | None = None  # ledger segment of the bins up to this step (checkpoints.ledger)
    files: dict[str, dict[str, Any]] = field(default_factory=dict)  # file name -> {"bytes", "sha256"}


def write_manifest(checkpoint: Checkpoint) -> None:
    """Writes the manifest, which makes the checkpoint visible; all its files must be synced before."""
    body = {key: value for key, value in asdict(checkpoint).items() if key != "folder"}
    seal(checkpoint.folder / MANIFEST, body)
    fsync_folder(checkpoint.folder.parent)


def open_checkpoint(folder: Path) -> Checkpoint:
    """Returns the checkpoint in `folder` without verifying its files.

    Raises:
        ValueError: the manifest is damaged; the message describes the fault.
        OSError: the manifest cannot be read.
    """
    try:
        body = unseal(folder / MANIFEST)
        ledger = body.pop("ledger")
        return Checkpoint(folder=folder, ledger=LedgerReference(**ledger) if ledger else None, **body)
    except (KeyError, TypeError) as error:  # a valid sealed file of another program
        raise ValueError(f"its manifest has other fields ({error})") from error


def find_fault(checkpoint: Checkpoint, names: Iterable[str], *, content: bool = True) -> str | None:
    """Verifies files of a checkpoint.

    Args:
        checkpoint: the checkpoint.
        names: names of files in its manifest.
        content: True: read the files and compare their SHA-256; False: compare sizes only.

    Returns:
        A description of the first fault; None if the files are intact.
    """
    for name in names:
        path, recorded = checkpoint.folder / name, checkpoint.files[name]
        try:
            size = path.stat().st_size
            if size != recorded["bytes"]:
                return f"{name} has {size} bytes instead of {recorded['bytes']}"
            if content and digest_file(path)["sha256"] != recorded["sha256"]:
                return f"the content of {name} has changed"
        except FileNotFoundError:
            return f"{name} is missing"
        except OSError as error:
            return f"{name} cannot be read: {error}"
    return None


def list_checkpoints(root: Path) -> list[Path]:
    """Returns the folders of the checkpoints in `root`, newest first; folders without a manifest are ignored."""
    return sorted((path.parent for path in root.glob(f"step-*/{MANIFEST}")), reverse=True)


def step_of(folder: Path) -> int:
    """Returns the step number in the name of a checkpoint folder."""
    return int(folder.name.split("-")[1])


def peek_checkpoint(root: Path) -> Checkpoint | None:
    """Returns the newest checkpoint with a valid manifest and the correct file sizes; None if there is none.

    It takes milliseconds and needs no workers. The contents of files are not verified, so a restore may still use an
    earlier checkpoint.
    """
    for folder in list_checkpoints(root):
        try:
            checkpoint = open_checkpoint(folder)
        except (OSError, ValueError):
            continue
        if find_fault(checkpoint, checkpoint.files, content=False) is None:
            return checkpoint
    return None


def digest_file(path: Path, *, sync: bool = False) -> dict[str, Any]:
    """Returns {"bytes": size, "sha256": SHA-256} of a file; `sync`: call fsync first."""
    if sync:
        fsync_file(path)
    with path.open("rb") as handle:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(handle, "sha256").hexdigest()}


def seal(path: Path, body: dict[str, Any]) -> LedgerReference:
    """Writes a sealed file atomically, and returns a reference to it."""
    digest = _digest(body)
    replace_atomically(path, json.dumps({"body": body, "sha256": digest}))
    return LedgerReference(name=path.name, sha256=digest)


def unseal(path: Path, *, sha256: str | None = None) -> dict[str, Any]:
    """Returns the body of a sealed file.

    Args:
        path: the file.
        sha256: SHA-256 of the body in a LedgerReference, which must match, too; None: no reference.

    Raises:
        ValueError: the file is damaged or altered.
        OSError: the file cannot be read.
    """
    try:
        sealed = json.loads(path.read_text())
        body: dict[str, Any] = sealed["body"]
        intact = _digest(body) == sealed["sha256"] == (sha256 or sealed["sha256"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"its {path.name} is incomplete or overwritten ({error})") from error
    if not intact:
        raise ValueError(f"its {path.name} was altered")
    return body


def _digest(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
