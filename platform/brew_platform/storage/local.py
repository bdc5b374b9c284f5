"""Implements an object store in a local folder."""

import errno
import hashlib
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from brew_platform.errors import StorageError
from brew_platform.files import atomic_file, fsync_folder, link_exclusively
from brew_platform.storage.base import Digest, Keys, require_unchanged, validate_key

__all__ = ["LocalStore"]

_ABANDONED_SECONDS = 24 * 3600.0  # a temporary file of this age belongs to a killed process
_TEMPORARY = ".tmp"  # folder of files that are being written
_CHUNK = 8 * 1024 * 1024  # bytes that are copied at a time


class LocalStore:
    """An ObjectStore in a folder. It is safe under concurrent processes, `kill -9` and power loss.

    An object is written to the folder `.tmp` below the root, synced, and hard-linked to its final name, which fails if
    that name exists. The folder must be on one file system with hard links.

    Args:
        root: The folder; it is created on the first write.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()

    def __repr__(self) -> str:
        return f"LocalStore({str(self.root)!r})"

    @property
    def url(self) -> str:
        return str(self.root)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        return self._create(key, lambda temporary: temporary.write_bytes(data))

    def upload_if_absent(self, key: str, path: Path, *, expected: Digest | None = None) -> bool:
        return self._create(key, lambda temporary: require_unchanged(path, _copy(path, temporary), expected))

    def upload_by_digest(self, prefix: str, path: Path) -> tuple[Digest, bool]:
        validate_key(prefix)
        with self._errors("write", prefix), self._temporary_file() as temporary:
            digest = _copy(path, temporary)
            return digest, self._link(temporary, self._path(f"{prefix}/{digest.sha256}"))

    def get(self, key: str) -> bytes:
        with self._errors("read", key):
            return self._path(key).read_bytes()

    def download(self, key: str, path: Path) -> None:
        with self._errors("read", key):
            source = self._path(key).open("rb")
        with (
            source,
            self._errors(f"write {path} from", key),
            atomic_file(path) as temporary,
            temporary.open("wb") as target,
        ):
            shutil.copyfileobj(source, target, _CHUNK)

    def digest(self, key: str) -> Digest:
        with self._errors("read", key):
            return Digest.of_file(self._path(key))

    def size(self, key: str) -> int:
        with self._errors("read", key):
            return self._path(key).stat().st_size

    def modified(self, key: str) -> datetime:
        with self._errors("read", key):
            return datetime.fromtimestamp(self._path(key).stat().st_mtime, UTC)

    def exists(self, key: str) -> bool:
        return self._path(key).is_file()

    def list(self, prefix: str = "") -> Keys:
        folder = prefix.rpartition("/")[0]
        top = self._path(folder) if folder else self.root
        keys: Keys = []
        with self._errors("list", prefix):
            for path, _, names in os.walk(top, onerror=_raise_unless_missing):  # pathlib takes several times as long
                base = Path(path).relative_to(self.root).as_posix()
                keys += names if base == "." else [f"{base}/{name}" for name in names]
        return sorted(key for key in keys if key.startswith(prefix) and not key.startswith(f"{_TEMPORARY}/"))

    def delete(self, key: str) -> None:
        path = self._path(key)
        with self._errors("delete", key), suppress(FileNotFoundError, NotADirectoryError, IsADirectoryError):
            path.unlink()
            fsync_folder(path.parent)

    def _path(self, key: str) -> Path:
        validate_key(key)
        return self.root / key

    def _create(self, key: str, write: Callable[[Path], object]) -> bool:
        final = self._path(key)
        with self._errors("write", key):
            if final.exists():
                return False
            with self._temporary_file() as temporary:
                write(temporary)
                return self._link(temporary, final)

    def _link(self, temporary: Path, final: Path) -> bool:
        if final.exists():
            return False
        self._make_folder(final.parent)
        try:
            link_exclusively(temporary, final)
        except FileExistsError:
            return False
        return True

    @contextmanager
    def _temporary_file(self) -> Iterator[Path]:
        """Yield a path for a temporary file, which is deleted afterwards. Delete abandoned files beside it."""
        folder = self.root / _TEMPORARY
        self._make_folder(folder)
        for path in folder.iterdir():
            with suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > _ABANDONED_SECONDS:
                    path.unlink()
        temporary = folder / f"{uuid.uuid4().hex}.tmp"
        try:
            yield temporary
        finally:
            temporary.unlink(missing_ok=True)

    def _make_folder(self, folder: Path) -> None:
        """Create `folder` and its parents, and sync each parent that changed."""
        if folder.is_dir():
            return
        self._make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        fsync_folder(folder.parent)

    @contextmanager
    def _errors(self, action: str, key: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            reason = "no such object" if error.filename == str(self.root / key) else f"{error.filename} does not exist"
            raise StorageError(
                f"cannot {action} {key!r} in {self.root}: {reason}. Check the key and the path."
            ) from error
        except OSError as error:
            if error.errno == errno.ENOSPC:
                reason = "no space left on the disk. Free some space there, or use a store on another disk."
            elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
                reason = "permission denied. Give this user write access to the folder, or use another store."
            else:
                reason = f"{error.strerror}. Check that it is a folder on a working disk with hard links."
            raise StorageError(f"cannot {action} {key!r} in {self.root}: {reason}") from error


def _raise_unless_missing(error: OSError) -> None:
    """Raise the error of a folder that cannot be listed; one that does not exist has no objects."""
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise error


def _copy(source: Path, target: Path) -> Digest:
    """Copy a file, and return the digest of what was copied."""
    digest, size = hashlib.sha256(), 0
    with source.open("rb") as reader, target.open("wb") as writer:
        while chunk := reader.read(_CHUNK):
            digest.update(chunk)
            size += len(chunk)
            writer.write(chunk)
    return Digest(size=size, sha256=digest.hexdigest())
