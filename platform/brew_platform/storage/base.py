"""Defines the protocol of an object store, validates keys, and opens stores by URL.

Objects are immutable and have string keys. They are created if their key does not exist (S3: PutObject with
`If-None-Match: *`; a local folder: a hard link), and never overwritten, so a reader never sees an object change. Only
garbage collection deletes objects.
"""

import hashlib
import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

from brew_platform.errors import StorageError

__all__ = ["Digest", "Keys", "ObjectStore", "is_valid_key", "open_store", "require_unchanged", "validate_key"]

Keys = list[str]  # inside a store class `list` is a method
_PART = re.compile(r"[A-Za-z0-9_=+@-][A-Za-z0-9._=+@-]*")


@dataclass(frozen=True, kw_only=True)
class Digest:
    """Size and hash of a file or an object."""

    size: int  # bytes
    sha256: str  # 64 hex digits

    @staticmethod
    def of_file(path: Path) -> "Digest":
        """Hash a file.

        Raises:
            OSError: The file cannot be read.
        """
        with path.open("rb") as file:
            return Digest(sha256=hashlib.file_digest(file, "sha256").hexdigest(), size=file.tell())


class ObjectStore(Protocol):
    """The protocol of a storage backend. tests/platform/storage/test_contract.py tests every backend.

    A key is one or more parts joined by `/`; a part consists of letters, digits and `._-=+@` and does not start with a
    dot. Every method raises StorageError for a malformed key and when the store fails. A failed write leaves no partial
    object. If a remote store stops answering during a write, the whole object may exist.
    """

    @property
    def url(self) -> str:
        """The address of the store: `open_store(url)` opens it again, in any working folder."""

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Create the object durably. Return False, and change nothing, if the key exists."""

    def upload_if_absent(self, key: str, path: Path, *, expected: Digest | None = None) -> bool:
        """Same as `put_if_absent`, but stream the content of the file `path`, which may be larger than memory.

        The bytes are hashed while they are sent. Raises StorageError, and creates no object, if they are not the
        `expected` ones. If two callers upload different content of more than one part to one key at the same time, S3
        stores without conditional multipart uploads keep the later one; so keys of large objects contain their digest.
        """

    def upload_by_digest(self, prefix: str, path: Path) -> tuple[Digest, bool]:
        """Store the content of the file `path` under `<prefix>/<SHA-256 of the stored bytes>`.

        The key is always the digest of the bytes that were stored, also if the file changes meanwhile (S3: raises
        StorageError then). Return the digest, and whether the object was created (False: the key exists).
        """

    def get(self, key: str) -> bytes:
        """Return the object's content. Raise StorageError if the object does not exist."""

    def download(self, key: str, path: Path) -> None:
        """Write the object to the file `path`, which appears when complete. Raise StorageError if it is missing."""

    def digest(self, key: str) -> Digest:
        """Return size and hash of the object's present content. Raises StorageError if the object does not exist."""

    def size(self, key: str) -> int:
        """Return the size in bytes without reading the content. Raises StorageError if the object does not exist."""

    def modified(self, key: str) -> datetime:
        """Return when the object was created, with a time zone. Raises StorageError if the object does not exist."""

    def exists(self, key: str) -> bool:
        """Return whether the object exists."""

    def list(self, prefix: str = "") -> Keys:
        """Return all keys that start with `prefix`, sorted."""

    def delete(self, key: str) -> None:
        """Delete the object, for garbage collection only. A missing object is not an error."""


def open_store(url: str) -> ObjectStore:
    """Open the store that `url` names: `s3://bucket/prefix`, a folder (created on the first write), or `file:///folder`.

    The credentials, region and endpoint of S3 come from the environment and the files of the AWS tools.

    Raises:
        StorageError: The scheme is not supported, the address has credentials or options, or the S3 store cannot be
            reached, refuses the credentials, or cannot create objects only if they are absent.
    """
    if not url.strip():
        raise StorageError("the address of the store is empty. Use a folder, for example runs/store.")
    scheme, separator, _ = url.partition("://")
    if scheme == "s3" and separator:
        from brew_platform.storage.s3 import open_s3  # imports boto3

        return open_s3(url)

    from brew_platform.storage.local import LocalStore  # imports this module

    if not separator:
        return LocalStore(Path(url).expanduser())
    if scheme == "file":
        parts = urlsplit(url)
        if parts.netloc not in ("", "localhost"):
            raise StorageError(
                f"{url} names the host {parts.netloc!r}; a local folder has three slashes: file:///folder."
            )
        return LocalStore(Path(unquote(parts.path)))
    raise StorageError(
        f"{url}: the scheme {scheme}:// is not supported. Use s3://bucket/prefix, a folder, for example runs/store, or "
        f"file:///folder."
    )


def validate_key(key: str) -> None:
    """Check that `key` is well-formed, as `ObjectStore` defines it.

    Raises:
        StorageError: The key is malformed.
    """
    if not is_valid_key(key):
        raise StorageError(
            f"{key!r} is not a valid key: its parts, between single slashes, must consist of letters, digits and "
            f"._-=+@ and must not start with a dot. Rename it."
        )


def is_valid_key(key: str) -> bool:
    """Return whether `key` is well-formed, as `ObjectStore` defines it."""
    return all(_PART.fullmatch(part) for part in key.split("/"))


def require_unchanged(source: Path, read: Digest, expected: Digest | None) -> None:
    """Check that the bytes that were read from the file `source` for an upload are the expected ones.

    Raises:
        StorageError: They differ: a process wrote to the file.
    """
    if expected is not None and read != expected:
        raise StorageError(
            f"{source} changed while it was uploaded: {expected.size} bytes with sha256 {expected.sha256[:12]}... were "
            f"expected, and {read.size} with {read.sha256[:12]}... were read. Upload it again when no process writes "
            f"to it."
        )
