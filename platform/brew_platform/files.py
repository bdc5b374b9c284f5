"""Durable file writes: atomic replacement, exclusive creation, and folder replacement.

A write that returned survives a power loss. A write that failed, or whose process was killed, leaves the previous
content under the final name. A killed process may leave a hidden file, `.<name>.<id>.tmp`, which can be deleted.
All functions raise OSError when the file system fails.
"""

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = [
    "atomic_file",
    "atomic_folder",
    "create_exclusively",
    "fsync_file",
    "fsync_folder",
    "link_exclusively",
    "replace_atomically",
    "replace_folder",
]


def replace_atomically(path: Path, data: bytes | str, *, mode: int = 0o666) -> None:
    """Write `data` to `path` and replace the file that is there.

    Args:
        path: File to write; its folder exists.
        data: Whole content; a string is encoded as UTF-8.
        mode: Permission bits of the new file, before the umask is applied.
    """
    with atomic_file(path) as temporary:
        _write_new(temporary, data, mode)


def create_exclusively(path: Path, data: bytes | str) -> None:
    """Write `data` to `path`, which must not exist. Of concurrent callers exactly one succeeds.

    Args:
        path: File to create; its folder exists and is on a file system with hard links.
        data: Whole content; a string is encoded as UTF-8.

    Raises:
        FileExistsError: `path` exists; its content is unchanged.
    """
    temporary = _temporary(path)
    try:
        _write_new(temporary, data)
        link_exclusively(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path for the block to write to, then replace `path` with that file.

    For content that a library writes or that does not fit in memory. The temporary file is deleted if the block fails.
    """
    temporary = _temporary(path)
    try:
        yield temporary
        fsync_file(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    fsync_folder(path.parent)


def link_exclusively(temporary: Path, path: Path) -> None:
    """Create `path` as a hard link to the complete file `temporary`, which is synced first.

    Raises:
        FileExistsError: `path` exists; its content is unchanged.
    """
    fsync_file(temporary)
    os.link(temporary, path)  # unlike a rename, it fails if the name exists
    fsync_folder(path.parent)


def replace_folder(temporary: Path, folder: Path) -> None:
    """Rename the folder `temporary` to `folder` and delete the folder that was there.

    All files below `temporary` are synced first. A folder cannot be exchanged in one step: between two renames `folder`
    does not exist. If the second rename fails, the previous folder is restored.

    Args:
        temporary: Complete folder, in the same parent folder as `folder`.
        folder: Final name.
    """
    for path in temporary.rglob("*"):
        fsync_folder(path) if path.is_dir() else fsync_file(path)
    fsync_folder(temporary)
    for abandoned in folder.parent.glob(f".{folder.name}.*.old"):  # a process was killed between the renames
        shutil.rmtree(abandoned, ignore_errors=True)
    previous = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}.old")
    with suppress(FileNotFoundError):
        folder.rename(previous)
    try:
        temporary.rename(folder)
    except OSError:
        with suppress(OSError):
            previous.rename(folder)
        raise
    fsync_folder(folder.parent)
    shutil.rmtree(previous, ignore_errors=True)


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder for the block to write to, then replace `folder` with it (`replace_folder`).

    If the block fails, `folder` stays as it is. For one writer at a time.
    """
    temporary = folder.with_name(f".{folder.name}.writing")
    shutil.rmtree(temporary, ignore_errors=True)  # of a process that was killed
    temporary.mkdir(parents=True)
    try:
        yield temporary
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    replace_folder(temporary, folder)


def fsync_file(path: Path) -> None:
    """Flush the content of a file to the disk."""
    _fsync(path)


def fsync_folder(folder: Path) -> None:
    """Flush the entries of a folder, so that created, renamed and deleted names survive a power loss."""
    _fsync(folder)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")


def _write_new(path: Path, data: bytes | str, mode: int = 0o666) -> None:
    content = data.encode() if isinstance(data, str) else data
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(content)
