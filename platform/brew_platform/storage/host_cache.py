"""Keeps copies of remote files on a disk of the host, shared by all processes of the host."""

import fcntl
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from brew_platform.errors import StorageError
from brew_platform.files import atomic_file
from brew_platform.storage.base import Digest

__all__ = ["HostCache"]

T = TypeVar("T")
logger = logging.getLogger(__name__)
LOCK_DIGITS = 2  # of the digest: files whose digests start alike share a lock, so there are at most 256 lock files
ABANDONED_SECONDS = 3600.0  # age of the incomplete file of a download that was killed


class HostCache:
    """Copies of remote files, named by their SHA-256.

    Of the processes that need a file, one downloads it while the others wait for its lock; the system releases the lock
    of a process that is killed. A file appears under its name when it is complete and synced. A process compares the
    digest of a copy when it opens it for the first time, and downloads a damaged one again. A file that is deleted
    while it is read stays readable, so copies may be deleted at any time.

    Args:
        folder: A folder on a disk of this host; created when the first file is downloaded.
        limit_bytes: Limit of the sizes of all copies. Before a download, the least recently opened copies are deleted.
            Downloads that run at the same time may exceed it.
        remedy: What to do if a copy cannot be written; ends the message of the error.
    """

    def __init__(
        self, folder: Path, *, limit_bytes: int, remedy: str = "lower the limit of the cache, or choose another folder"
    ) -> None:
        self._folder, self._limit, self._remedy = folder, limit_bytes, remedy
        self._verified: set[str] = set()  # digests of the copies that this process has compared

    def open(self, digest: Digest, *, name: str, download: Callable[[Path], Digest], opener: Callable[[Path], T]) -> T:
        """Open the copy of a file; download it first if there is no intact copy.

        Args:
            digest: Size and hash of the file.
            name: Where the file comes from, for messages.
            download: Writes the file to a path that does not exist, and returns the digest of what it wrote.
            opener: Opens the copy, such as `pyarrow.OSFile`.

        Returns:
            The result of `opener`.

        Raises:
            StorageError: The copy cannot be written, or the source has other content. Errors of `download` that are not
                OSError are raised as they are.
        """
        path = self._folder / digest.sha256
        with suppress(FileNotFoundError):  # another process deleted it
            if digest.sha256 in self._verified:
                os.utime(path)
                return opener(path)
        try:
            with self._lock(digest.sha256):
                if not self._is_intact(path, digest, name):
                    self._free_space(digest.size)
                    _download(download, path, digest, name)
                os.utime(path)
                copy = opener(path)
        except OSError as error:
            raise StorageError(
                f"{name} could not be copied to the cache {self._folder} ({error}): free some space or repair the "
                f"disk, {self._remedy}."
            ) from error
        self._verified.add(digest.sha256)
        return copy

    @contextmanager
    def _lock(self, sha256: str) -> Iterator[None]:
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / f".lock-{sha256[:LOCK_DIGITS]}").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _is_intact(self, path: Path, digest: Digest, name: str) -> bool:
        if not path.exists():
            return False
        with suppress(OSError):  # another process deleted it, or the disk cannot read it
            if Digest.of_file(path).sha256 == digest.sha256:
                return True
        logger.warning("the copy %s of %s is damaged; it is downloaded again", path, name)
        return False

    def _free_space(self, size: int) -> None:
        """Delete the least recently opened copies until `size` more bytes fit."""
        copies: list[tuple[float, int, Path]] = []  # time, bytes
        used = 0
        for path in self._folder.iterdir():
            with suppress(FileNotFoundError):  # another process deleted it
                status = path.stat()
                is_copy = not path.name.startswith(".")
                if path.suffix == ".tmp" and time.time() - status.st_mtime > ABANDONED_SECONDS:
                    path.unlink()
                elif is_copy:
                    copies.append((status.st_mtime, status.st_size, path))
                    used += status.st_size
        for _, freed, path in sorted(copies):
            if used + size <= self._limit:
                break
            path.unlink(missing_ok=True)
            used -= freed


def _download(download: Callable[[Path], Digest], path: Path, digest: Digest, name: str) -> None:
    with atomic_file(path) as temporary:
        found = download(temporary)
        if found.sha256 != digest.sha256:
            raise StorageError(
                f"{name} was replaced or damaged: its SHA-256 is {found.sha256[:12]}, but {digest.sha256[:12]} was "
                f"expected. Restore it from a backup, or use another version."
            )
