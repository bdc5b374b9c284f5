"""Copies whole folders to an object store and back, with verification.

The files of a folder are objects with the same relative paths, so that other programs can read them (a part that
starts with a dot gets a `_` before it). An index, `folder.json`, lists them with size and SHA-256. It is written last:
a folder in a store is complete if it has an index.
"""

import json
import shutil
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from brew_platform.errors import StorageError, UserError
from brew_platform.files import fsync_folder
from brew_platform.storage.base import Digest, ObjectStore, is_valid_key

__all__ = ["INDEX", "download_folder", "read_index", "upload_folder"]

INDEX = "folder.json"
_FORMAT = 1  # version of the index
_LEFT_OUT = (".tmp", ".part", ".lock")  # endings of hidden files of processes that run, or were killed
_THREADS = 8  # small files that are copied at a time
_SMALL = 8 * 1024 * 1024  # bytes; the store copies the parts of a larger file at the same time
Progress = Callable[[int, int], None]


def upload_folder(
    folder: Path, store: ObjectStore, prefix: str = "", *, on_progress: Progress = lambda done, total: None
) -> dict[str, Digest]:
    """Upload all files below `folder`, except temporary ones. The same call completes a call that was interrupted.

    Args:
        folder: The folder. No process may write to it.
        store: The object store.
        prefix: The folder in the store; the empty string for the whole store.
        on_progress: Called with (bytes in the store, bytes of all files).

    Returns:
        Size and hash of each file, by its relative path with forward slashes.

    Raises:
        UserError: The folder is missing or empty, a name is not a valid key, or another folder is stored there.
        StorageError: The store failed, or a file changed while it was uploaded.
    """
    paths = _files(folder)
    try:
        files = {name: Digest.of_file(path) for name, path in paths.items()}
    except OSError as error:
        raise StorageError(
            f"{folder} cannot be read ({error.strerror}). Check its permissions and its disk."
        ) from error
    existing = read_index(store, prefix)
    if existing is not None:
        if existing != files:
            raise UserError(
                f"{_address(store, prefix)} holds another folder, with {len(existing)} files. Objects are never "
                f"overwritten: choose another address."
            )
        return files

    def upload(name: str) -> int:
        key = _key(prefix, name)
        if not store.upload_if_absent(key, paths[name], expected=files[name]) and store.digest(key) != files[name]:
            raise UserError(
                f"{key} in {store.url} has other content than {paths[name]}. Objects are never overwritten: choose "
                f"another address."
            )
        return files[name].size

    _copy_all(files, upload, on_progress)
    listed = [{"path": name, "size": file.size, "sha256": file.sha256} for name, file in files.items()]
    text = json.dumps({"format": _FORMAT, "files": listed}, indent=1)
    if not store.put_if_absent(_key(prefix, INDEX), text.encode()) and read_index(store, prefix) != files:
        raise UserError(f"another process stored another folder at {_address(store, prefix)}: choose another address.")
    return files


def download_folder(
    store: ObjectStore, folder: Path, prefix: str = "", *, on_progress: Progress = lambda done, total: None
) -> dict[str, Digest]:
    """Download a folder, which appears when the digests of all its files are verified.

    Args:
        store: The object store.
        folder: The folder to create.
        prefix: The folder in the store; the empty string for the whole store.
        on_progress: Called with (bytes on the disk, bytes of all files).

    Returns:
        As `upload_folder`.

    Raises:
        UserError: `folder` exists, or the store has no complete folder at this address.
        StorageError: The store or the disk failed, or an object is missing or damaged.
    """
    if folder.exists():
        raise UserError(f"{folder} exists. Choose a folder that does not, or remove it.")
    files = read_index(store, prefix)
    if files is None:
        raise UserError(
            f"{_address(store, prefix)} has no {INDEX}: no folder was stored there, or its upload was not completed. "
            f"Check the address, or upload it again."
        )
    part = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}.part")

    def download(name: str) -> int:
        path = part / name
        path.parent.mkdir(parents=True, exist_ok=True)
        store.download(_key(prefix, name), path)
        if (found := Digest.of_file(path)) != files[name]:
            raise StorageError(
                f"{_key(prefix, name)} in {store.url} is damaged: it has {found.size} bytes with sha256 "
                f"{found.sha256[:12]}..., and {files[name].size} bytes were uploaded. Upload the folder again to "
                f"another address."
            )
        return found.size

    try:
        part.mkdir(parents=True)
        _copy_all(files, download, on_progress)
        part.rename(folder)
        fsync_folder(folder.parent)
    except OSError as error:
        raise StorageError(
            f"cannot write {folder}: {error.strerror}. Free space on its disk, or choose another folder."
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return files


def read_index(store: ObjectStore, prefix: str = "") -> dict[str, Digest] | None:
    """Return the files of a folder in a store, as `upload_folder` does; None if there is no complete folder.

    Raises:
        StorageError: The store failed, or the index is damaged.
    """
    key = _key(prefix, INDEX)
    if not store.exists(key):
        return None
    try:
        document = json.loads(store.get(key))
        files = {file["path"]: Digest(size=file["size"], sha256=file["sha256"]) for file in document["files"]}
        if document["format"] != _FORMAT or not all(map(_is_valid, files)):
            raise ValueError("unknown format or path")
    except (ValueError, KeyError, TypeError) as error:
        raise StorageError(
            f"{key} in {store.url} is damaged, or of another release ({error}). Upload the folder again to another "
            f"address."
        ) from error
    return files


def _files(folder: Path) -> dict[str, Path]:
    """Return the files of a folder by relative path, sorted."""
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder. Pass a folder of data, of a run, or of an exported model.")
    files = {}
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if not path.is_file() or (path.name.startswith(".") and path.suffix in _LEFT_OUT):
            continue
        name = relative.as_posix()
        if not _is_valid(name):
            raise UserError(
                f"{path} cannot be uploaded: names must consist of letters, digits and ._-=+@, must not start with "
                f"`_.`, and {INDEX} is the name of the index. Rename it."
            )
        files[name] = path
    if not files:
        raise UserError(f"{folder} has no files. Pass a folder of data, of a run, or of an exported model.")
    return files


def _copy_all(files: Mapping[str, Digest], copy: Callable[[str], int], on_progress: Progress) -> None:
    """Call `copy` for each file, for small ones at the same time."""
    total, done = sum(file.size for file in files.values()), 0
    small = [name for name, file in files.items() if file.size <= _SMALL]
    with ThreadPoolExecutor(_THREADS) as pool:
        for size in pool.map(copy, small):
            done += size
            on_progress(done, total)
    for name in files:
        if files[name].size > _SMALL:
            done += copy(name)
            on_progress(done, total)


def _is_valid(name: str) -> bool:
    """Return whether `name` is a relative path that can be stored and leads to a file in its folder."""
    parts = name.split("/")
    own = name == INDEX or any(part in (".", "..") or part.startswith("_.") for part in parts)
    return is_valid_key(_key("", name)) and not own


def _key(prefix: str, name: str) -> str:
    """Return the key of a file with the relative path `name`."""
    parts = [f"_{part}" if part.startswith(".") else part for part in name.split("/")]
    return "/".join([prefix, *parts] if prefix else parts)


def _address(store: ObjectStore, prefix: str) -> str:
    return f"{store.url}/{prefix}" if prefix else store.url
