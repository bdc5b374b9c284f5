"""Keeps downloaded versions on a disk of the host, shared by all processes of the host."""

import fcntl
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from brew_platform.errors import StorageError

if TYPE_CHECKING:
    from brew_platform.registry.registry import Registry

__all__ = ["VersionCache"]

logger = logging.getLogger(__name__)


class VersionCache:
    """Folders of versions, as `Registry.fetch` writes them.

    Of the processes that need a version, one downloads it while the others wait. A process that fetched a version holds
    a shared lock on it until it ends, also if it is killed. Before a download, the least recently fetched versions that
    no process holds are deleted until all versions fit the limit.

    Args:
        folder: A folder on a disk of this host.
        limit_bytes: Limit of the sizes of all versions. Versions in use may exceed it; a warning says so.
    """

    def __init__(self, folder: Path, *, limit_bytes: int) -> None:
        self._folder, self._limit = folder, limit_bytes

    def fetch(self, registry: "Registry", number: int) -> Path:
        """Return the folder of a version, which stays until this process ends; download it if needed.

        Raises:
            RegistryError: As `Registry.fetch`.
            StorageError: The store or the disk failed.
        """
        version = registry.version(number)
        name = registry.folder_name(version)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with _locked(self._folder / f".{name}.lock"):
                lease = os.open(self._lease(name), os.O_RDWR | os.O_CREAT)  # not closed: it is held until the end
                fcntl.flock(lease, fcntl.LOCK_SH)
                os.utime(lease)
                if not (self._folder / name).exists():
                    self._free_space(version.size)
                return registry.fetch(number, self._folder)
        except OSError as error:
            raise StorageError(
                f"cannot write {self._folder}: {error.strerror}. Free space on its disk, or choose another folder."
            ) from error

    def _free_space(self, size: int) -> None:
        """Delete the least recently fetched versions that no process holds, until `size` more bytes fit."""
        versions: list[tuple[float, str, int]] = []  # time of the last fetch, name, bytes
        for lease in self._folder.glob(".*.used"):
            name = lease.name[1:].removesuffix(".used")
            with suppress(FileNotFoundError):
                versions.append((lease.stat().st_mtime, name, _size(self._folder / name)))
        used = sum(version_size for _, _, version_size in versions)
        for _, name, freed in sorted(versions):
            if used + size <= self._limit:
                return
            if freed and self._delete(name):
                used -= freed
        if used + size > self._limit:
            logger.warning(
                "the versions in %s have %.1f GB with the next, more than the limit of %.1f GB: the others are in use",
                self._folder,
                (used + size) / 1e9,
                self._limit / 1e9,
            )

    def _delete(self, name: str) -> bool:
        """Delete a version unless a process holds it."""
        with suppress(BlockingIOError), _locked(self._folder / f".{name}.lock", wait=False):
            lease = os.open(self._lease(name), os.O_RDWR)
            try:
                fcntl.flock(lease, fcntl.LOCK_EX | fcntl.LOCK_NB)
                (self._folder / f".{name}.verified").unlink(missing_ok=True)
                shutil.rmtree(self._folder / name, ignore_errors=True)
                logger.info("deleted version %s from the cache %s", name, self._folder)
                return True
            finally:
                os.close(lease)
        return False

    def _lease(self, name: str) -> Path:
        return self._folder / f".{name}.used"


@contextmanager
def _locked(path: Path, *, wait: bool = True) -> Iterator[None]:
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
