"""Object storage: immutable objects under string keys, in a local folder today and on S3 later.

Owns: the seam `ObjectStore`, its local backend, and the one primitive all of it stands on: create an object unless its
key exists (S3: PutObject with `If-None-Match: *`; a local folder: an exclusive link). Does not own what keys mean.
There is no overwrite and no delete, so that a reader never sees an object change.
"""

import errno
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Protocol
from urllib.parse import unquote, urlsplit

from brew_platform.errors import StorageError

__all__ = ["LocalStore", "ObjectStore", "open_store"]

Keys = list[str]  # inside the classes below `list` is a method
_ABANDONED_SECONDS = 24 * 3600.0  # a temporary file that nobody has written to for a day belongs to a dead process
_PART = re.compile(r"[A-Za-z0-9_=+@-][A-Za-z0-9._=+@-]*")


class ObjectStore(Protocol):
    """What a backend must do; the contract tests hold each backend to it.

    A key is one or more parts joined by `/`; a part is of letters, digits and `._-=+@` and does not start with a dot.
    Every method raises StorageError for a malformed key and when the store fails; then nothing is half-written.
    """

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Creates the object, whole and durable; False, and nothing is changed, when the key exists already."""

    def upload_if_absent(self, key: str, path: Path) -> bool:
        """As `put_if_absent`, streaming the content of the file `path`, which may be larger than memory."""

    def get(self, key: str) -> bytes:
        """The object's content. Raises StorageError when there is none."""

    def download(self, key: str, path: Path) -> None:
        """Writes the object to the file `path`, which appears when whole. Raises StorageError when there is none."""

    def exists(self, key: str) -> bool:
        """Whether the object is there."""

    def list(self, prefix: str = "") -> Keys:
        """All keys that start with `prefix`, sorted."""


def open_store(url: str) -> ObjectStore:
    """The store that `url` names: a folder (made on the first write), or `file:///folder`.

    Raises:
        StorageError: a scheme that is not supported.
    """
    scheme, separator, _ = url.partition("://")
    if not separator:
        return LocalStore(Path(url).expanduser())
    if scheme == "file":
        parts = urlsplit(url)
        if parts.netloc not in ("", "localhost"):
            raise StorageError(
                f"{url} names the host {parts.netloc!r}; a local folder has three slashes: file:///folder."
            )
        return LocalStore(Path(unquote(parts.path)))
    if scheme == "s3":
        raise StorageError(f"{url}: the S3 backend is not there yet. Use a folder, for example runs/store.")
    raise StorageError(f"{url}: no store speaks {scheme}://. Use a folder, for example runs/store, or file:///folder.")


class LocalStore:
    """An ObjectStore in a folder, safe for many processes at once, and for `kill -9` and power loss at any moment.

    An object is written to the folder's own `.tmp`, synced, and linked to its final name, which fails when that name
    exists. The folder must be on one file system that has hard links.

    Args:
        root: the folder; it is made when something is first written.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()

    def __repr__(self) -> str:
        return f"LocalStore({str(self.root)!r})"

    def put_if_absent(self, key: str, data: bytes) -> bool:
        return self._create(key, lambda target: target.write(data))

    def upload_if_absent(self, key: str, path: Path) -> bool:
        def write(target: BinaryIO) -> None:
            with path.open("rb") as source:
                shutil.copyfileobj(source, target, 8 * 1024 * 1024)

        return self._create(key, write)

    def get(self, key: str) -> bytes:
        with self._errors("read", key):
            return self._path(key).read_bytes()

    def download(self, key: str, path: Path) -> None:
        part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
        with self._errors("read", key):
            source = self._path(key).open("rb")
        with source, self._errors(f"write {path} from", key):
            try:
                with part.open("wb") as target:
                    shutil.copyfileobj(source, target, 8 * 1024 * 1024)
                part.replace(path)
            finally:
                part.unlink(missing_ok=True)

    def exists(self, key: str) -> bool:
        return self._path(key).is_file()

    def list(self, prefix: str = "") -> Keys:
        folder = prefix.rpartition("/")[0]
        top = self._path(folder) if folder else self.root
        with self._errors("list", prefix):
            keys = [path.relative_to(self.root).as_posix() for path in top.rglob("*") if path.is_file()]
        return sorted(key for key in keys if key.startswith(prefix) and not key.startswith(".tmp/"))

    def _path(self, key: str) -> Path:
        if not all(_PART.fullmatch(part) for part in key.split("/")):
            raise StorageError(
                f"{key!r} cannot be a key: its parts, between single slashes, must be of letters, digits and ._-=+@ "
                f"and not start with a dot. Rename it."
            )
        return self.root / key

    def _create(self, key: str, write: Callable[[BinaryIO], object]) -> bool:
        final = self._path(key)
        with self._errors("write", key):
            if final.exists():
                return False
            self._make_folder(final.parent)
            temporary = self._temporary()
            try:
                with temporary.open("xb") as target:
                    write(target)
                    target.flush()
                    os.fsync(target.fileno())
                os.link(temporary, final)
            except FileExistsError:
                return False
            finally:
                temporary.unlink(missing_ok=True)
            _sync_folder(final.parent)
            return True

    def _temporary(self) -> Path:
        folder = self.root / ".tmp"
        self._make_folder(folder)
        for left in folder.iterdir():  # by a process that was killed while it wrote
            with suppress(FileNotFoundError):
                if time.time() - left.stat().st_mtime > _ABANDONED_SECONDS:
                    left.unlink()
        return folder / uuid.uuid4().hex

    def _make_folder(self, folder: Path) -> None:
        """Makes `folder`, and syncs each folder above it that changed, so that its name survives a power loss."""
        if folder.is_dir():
            return
        self._make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        _sync_folder(folder.parent)

    @contextmanager
    def _errors(self, action: str, key: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            what = "no such object" if error.filename == str(self.root / key) else f"{error.filename} does not exist"
            raise StorageError(
                f"cannot {action} {key!r} in {self.root}: {what}. Check the key and the path."
            ) from error
        except OSError as error:
            if error.errno == errno.ENOSPC:
                reason = "no space left on the disk. Free some space there, or use a store on another disk."
            elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
                reason = "permission denied. Give this user write access to the folder, or use another store."
            else:
                reason = f"{error.strerror}. Check that it is a folder on a working disk with hard links."
            raise StorageError(f"cannot {action} {key!r} in {self.root}: {reason}") from error


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
