"""Uploads folders to an object store as content-addressed blobs, and downloads them with verification.

The key of a blob is `<prefix>/sha256/<digest>`. Each blob is uploaded once.
"""

import shutil
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from brew_platform.errors import RegistryError, StorageError, UserError
from brew_platform.files import fsync_folder, replace_folder
from brew_platform.registry.hash_record import HashRecord
from brew_platform.storage.base import Digest, ObjectStore

__all__ = ["Blobs", "File", "list_files"]

_ABANDONED_SECONDS = 24 * 3600.0  # a partial folder of this age belongs to a killed process


@dataclass(frozen=True)
class File:
    """One file of a folder."""

    path: str  # relative to the folder, with forward slashes
    size: int  # bytes
    sha256: str  # 64 hex digits; also the name of its blob


class Blobs:
    """Content-addressed files in an object store.

    Args:
        store: The object store.
        prefix: The common prefix of the keys, without a slash at the end.
    """

    def __init__(self, store: ObjectStore, prefix: str) -> None:
        self.store = store
        self.prefix = prefix

    def upload(
        self,
        folder: Path,
        on_progress: Callable[[int, int], None] = lambda done, total: None,
        *,
        skip: Sequence[str] = (),
    ) -> tuple[File, ...]:
        """Uploads all files of `folder` that the store does not have yet, and returns all, sorted by path.

        Args:
            folder: The files to upload.
            on_progress: Called with (bytes of the files that are in the store, bytes of all files).
            skip: Names of files and folders in `folder` that are left out.

        Raises:
            UserError: `folder` is missing or empty.
            RegistryError: The store has a damaged blob of one of the files.
            StorageError: The store failed, or a file changed while it was uploaded; its changed content is not stored.
        """
        paths = list_files(folder, skip=skip)
        try:
            total, done = sum(path.stat().st_size for path in paths), 0
        except OSError as error:
            raise _changed(folder, error) from error
        files = []
        for path in paths:
            try:
                digest = Digest.of_file(path)
            except OSError as error:
                raise _changed(path, error) from error
            file = File(path.relative_to(folder).as_posix(), digest.size, digest.sha256)
            # The store hashes the bytes that it receives, because the file may change after it was hashed here.
            if not self.store.upload_if_absent(self._key(file), path, expected=digest) and (fault := self.check(file)):
                raise RegistryError(
                    f"cannot publish {path}: {fault}. Delete the object {self._key(file)} from the store and publish "
                    f"again."
                )
            files.append(file)
            done += file.size
            on_progress(done, total)
        return tuple(files)

    def check(self, file: File) -> str | None:
        """Hash the blob of a file in the store again; return what is wrong with it, or None."""
        key = self._key(file)
        if not self.store.exists(key):
            return f"blob {key} ({file.path}) is gone from the store"
        found = self.store.digest(key)
        if (found.size, found.sha256) != (file.size, file.sha256):
            return (
                f"blob {key} ({file.path}) is damaged: it has {found.size} bytes with sha256 {found.sha256[:12]}..., "
                f"and {file.size} bytes were published"
            )
        return None

    def fetch(self, files: Sequence[File], folder: Path) -> None:
        """Download `files` into `folder`, which appears after all sizes and digests are verified.

        An existing folder is reused if all its files are right, and replaced otherwise. A file is hashed again unless
        its size and times are those of its last verification, which a hidden file beside the folder records. Several
        processes can fetch into the same folder at the same time.

        Args:
            files: The files to download.
            folder: The folder to create.

        Raises:
            RegistryError: A blob is missing or damaged (the message names it), or a path leads out of the folder.
            StorageError: The store or the disk failed.
        """
        if _is_intact(folder, files):
            return
        for left in folder.parent.glob(f".{folder.name}.*.part"):
            with suppress(FileNotFoundError):  # another process has just deleted it
                if time.time() - left.stat().st_mtime > _ABANDONED_SECONDS:
                    shutil.rmtree(left, ignore_errors=True)
        part = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}.part")
        try:
            for file in files:
                self._download(file, part)
            if _is_intact(folder, files):  # another process was faster, and may read it now
                return
            if folder.exists():  # its files were changed after it was fetched
                replace_folder(part, folder)
            else:  # unlike a replacement, this fails if another process was faster
                part.rename(folder)
                fsync_folder(folder.parent)
            record = _record(folder)
            for file in files:
                record.add(file.path, Digest(size=file.size, sha256=file.sha256))
            record.save()
        except OSError as error:
            if not _is_intact(folder, files):  # otherwise another process was faster
                raise StorageError(
                    f"cannot write {folder}: {error.strerror}. Free space on its disk, or choose another folder."
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
        found = Digest.of_file(path)
        if (found.size, found.sha256) != (file.size, file.sha256):
            raise RegistryError(
                f"blob {key} ({file.path}) is damaged: it has {found.size} bytes with sha256 {found.sha256[:12]}..., "
                f"and {file.size} bytes were published. Delete that object from the store and {remedy}"
            )

    def _key(self, file: File) -> str:
        return f"{self.prefix}/sha256/{file.sha256}"


def list_files(folder: Path, *, skip: Sequence[str] = ()) -> list[Path]:
    """Return all files below a folder that is published, sorted, without those in entries of the folder named `skip`.

    Raises:
        UserError: `folder` is missing or empty.
    """
    if not folder.is_dir():
        raise UserError(f"cannot publish {folder}: the folder does not exist. Pass the folder of an exported model.")
    paths = sorted(
        path for path in folder.rglob("*") if path.is_file() and path.relative_to(folder).parts[0] not in skip
    )
    if not paths:
        raise UserError(f"cannot publish {folder}: it contains no files. Pass the folder of an exported model.")
    return paths


def _changed(path: Path, error: OSError) -> StorageError:
    return StorageError(
        f"cannot publish {path}: it changed meanwhile ({error.strerror}). Publish again when no process writes to it."
    )


def _is_intact(folder: Path, files: Sequence[File]) -> bool:
    """Return whether `folder` has all `files` with the right content."""
    record = _record(folder)
    try:
        intact = all(
            (folder / file.path).stat().st_size == file.size and record.digest(file.path).sha256 == file.sha256
            for file in files
        )
    except OSError:  # a file is missing, or another process is replacing the folder
        return False
    record.save()
    return intact


def _record(folder: Path) -> HashRecord:
    return HashRecord(folder.with_name(f".{folder.name}.verified"), folder)
