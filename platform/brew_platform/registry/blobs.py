"""Content-addressed files in an object store: `<prefix>/sha256/<digest>`, uploaded once.

Holds folder → blobs → the same folder again, verified.
"""

import hashlib
import shutil
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from brew_platform.errors import RegistryError, StorageError, UserError
from brew_platform.files import fsync_folder, replace_folder
from brew_platform.storage.base import ObjectStore

__all__ = ["Blobs", "File"]

_ABANDONED_SECONDS = 24 * 3600.0  # a partial folder of that age was left by a process that was killed


@dataclass(frozen=True)
class File:
    """One file of a folder."""

    path: str  # relative to the folder, with forward slashes
    size: int  # bytes
    sha256: str  # 64 hex digits; also the name of its blob


class Blobs:
    """Files by their content.

    Args:
        store: where.
        prefix: common start of their keys, without the last slash.
    """

    def __init__(self, store: ObjectStore, prefix: str) -> None:
        self.store = store
        self.prefix = prefix

    def upload(self, folder: Path) -> tuple[File, ...]:
        """Uploads all files of `folder` that the store does not have yet, and returns all, sorted by path.

        Raises:
            UserError: `folder` is missing or empty.
            RegistryError: a file changed while it was uploaded.
        """
        if not folder.is_dir():
            raise UserError(f"cannot publish {folder}: there is no such folder. Give the folder of an exported model.")
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        if not paths:
            raise UserError(f"cannot publish {folder}: it holds no files. Give the folder of an exported model.")
        files = []
        for path in paths:
            before = path.stat()
            file = File(path.relative_to(folder).as_posix(), before.st_size, _sha256(path))
            self.store.upload_if_absent(self._key(file), path)
            after = path.stat()
            if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
                raise RegistryError(
                    f"{path} changed while it was published. Publish again when nothing writes to {folder}."
                )
            files.append(file)
        return tuple(files)

    def fetch(self, files: Sequence[File], folder: Path) -> None:
        """Makes `folder` with the content of `files`; it appears only when all sizes and digests are right.

        A folder that has all files in their sizes is re-used; another one there is replaced. Safe for processes that
        fetch into the same folder at the same time.

        Raises:
            RegistryError: a blob is missing or damaged (it is named), or a path leads out of the folder.
            StorageError: the store or the disk failed.
        """
        if _is_whole(folder, files):
            return
        for left in folder.parent.glob(f".{folder.name}.*.part"):
            with suppress(FileNotFoundError):  # another process has just finished with it
                if time.time() - left.stat().st_mtime > _ABANDONED_SECONDS:
                    shutil.rmtree(left, ignore_errors=True)
        part = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}.part")
        try:
            for file in files:
                self._download(file, part)
            if _is_whole(folder, files):  # another process was faster, and may be reading it
                return
            if folder.exists():  # its files were changed after it was fetched
                replace_folder(part, folder)
            else:  # unlike a replacement, this fails if another process was faster
                part.rename(folder)
                fsync_folder(folder.parent)
        except OSError as error:
            if not _is_whole(folder, files):  # else another process was faster by a hair
                raise StorageError(
                    f"cannot write {folder}: {error.strerror}. Free space there, or choose another folder."
                ) from error
        finally:
            shutil.rmtree(part, ignore_errors=True)

    def _download(self, file: File, folder: Path) -> None:
        path = folder / file.path
        if not path.resolve().is_relative_to(folder.resolve()):
            raise RegistryError(f"a manifest names {file.path!r}, outside its folder. Do not use that version.")
        path.parent.mkdir(parents=True, exist_ok=True)
        key = self._key(file)
        remedy = "publish the same files again, or serve another version."
        if not self.store.exists(key):
            raise RegistryError(f"blob {key} ({file.path}) is gone from the store: {remedy}")
        self.store.download(key, path)
        size, digest = path.stat().st_size, _sha256(path)
        if (size, digest) != (file.size, file.sha256):
            raise RegistryError(
                f"blob {key} ({file.path}) is damaged: it has {size} bytes with sha256 {digest[:12]}..., and "
                f"{file.size} bytes were published. Delete that object from the store and {remedy}"
            )

    def _key(self, file: File) -> str:
        return f"{self.prefix}/sha256/{file.sha256}"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_whole(folder: Path, files: Sequence[File]) -> bool:
    """Whether `folder` has all of `files`, in their sizes."""
    paths = [(folder / file.path, file.size) for file in files]
    try:
        return all(path.is_file() and path.stat().st_size == size for path, size in paths)
    except FileNotFoundError:  # another process is replacing it
        return False
