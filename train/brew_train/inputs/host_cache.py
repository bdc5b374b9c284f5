"""Keeps copies of remote files on a disk of the host, shared by all processes of the host."""

import fcntl
import hashlib
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pyarrow as pa

from brew_data.packed_bins.plan import PLAN_FILE, BinsFile, digest_file
from brew_data.sources.locations import BLOCK_BYTES, Location
from brew_platform.errors import DataError, StorageError
from brew_platform.files import atomic_file

__all__ = ["HostCache"]

logger = logging.getLogger(__name__)
LOCK_DIGITS = 2  # of the digest: files whose digests start alike share a lock, so there are at most 256 lock files
ABANDONED_SECONDS = 3600.0  # age of the incomplete file of a download that was killed


class HostCache:
    """Copies of remote files, named by their SHA-256.

    Of the processes that need a file, one downloads it while the others wait for its lock; the system releases the lock
    of a process that is killed. A file appears under its name when it is complete. A process compares the digest of
    a copy when it opens it for the first time, and downloads a damaged one again. A file that is deleted while it is
    read stays readable, so copies may be deleted at any time.

    Args:
        folder: folder on a disk of this host; made when the first file is downloaded.
        limit_bytes: of all copies; before a download, the least recently opened copies are deleted. Downloads that
            run at the same time may exceed it.
    """

    def __init__(self, folder: Path, *, limit_bytes: int) -> None:
        self._folder, self._limit = folder, limit_bytes
        self._verified: set[str] = set()  # digests of the copies that this process has compared

    def open(self, file: BinsFile, source: Location) -> pa.NativeFile:
        """Returns the copy of a file, open for reading; downloads it if there is no intact copy.

        Args:
            file: its digest and size.
            source: where it is stored.

        Raises:
            DataError: the source cannot be read, or its content has another digest.
            StorageError: the copy cannot be written.
        """
        path = self._folder / file.sha256
        with suppress(FileNotFoundError):  # another process deleted it
            if file.sha256 in self._verified:
                os.utime(path)
                return pa.OSFile(str(path))
        try:
            with self._lock(file.sha256):
                if not self._is_intact(path, file):
                    self._free_space(file.bytes)
                    _download(source, path, file)
                os.utime(path)
                copy = pa.OSFile(str(path))
        except OSError as error:
            raise StorageError(
                f"{source.name} could not be copied to the cache {self._folder} ({error}): free some space or repair "
                f"the disk, lower train.inputs.cache_bytes, or choose another train.inputs.cache_folder."
            ) from error
        self._verified.add(file.sha256)
        return copy

    @contextmanager
    def _lock(self, sha256: str) -> Iterator[None]:
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / f".lock-{sha256[:LOCK_DIGITS]}").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _is_intact(self, path: Path, file: BinsFile) -> bool:
        if not path.exists():
            return False
        with suppress(DataError):  # another process deleted it, or the disk cannot read it
            if digest_file(path) == file.sha256:
                return True
        logger.warning("the copy %s of %s is damaged; it is downloaded again", path, file.name)
        return False

    def _free_space(self, size: int) -> None:
        """Deletes the least recently opened copies until `size` more bytes fit."""
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


def _download(source: Location, path: Path, file: BinsFile) -> None:
    digest = hashlib.sha256()
    with atomic_file(path) as temporary:
        with source.open_stream() as stream, temporary.open("wb") as copy:
            while block := stream.read(BLOCK_BYTES):
                digest.update(block)
                copy.write(block)
        if digest.hexdigest() != file.sha256:
            raise DataError(
                f"{source.name} was replaced or damaged: its SHA-256 is {digest.hexdigest()[:12]}, but {PLAN_FILE} "
                f"lists {file.sha256[:12]}. Copy the folder again, or build the data again."
            )
