"""Defines the protocol of an object store, validates keys, and opens stores by URL.

Objects are immutable and have string keys. They are created if their key does not exist (S3: PutObject with
`If-None-Match: *`; a local folder: a hard link). They are never overwritten or deleted, so a reader never sees an
object change.
"""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

from brew_platform.errors import StorageError

__all__ = ["Digest", "Keys", "ObjectStore", "open_store", "validate_key"]

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
    dot. Every method raises StorageError for a malformed key and when the store fails; a failed write leaves no object.
    """

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Create the object durably. Return False, and change nothing, if the key exists."""

    def upload_if_absent(self, key: str, path: Path, *, expected: Digest | None = None) -> bool:
        """Same as `put_if_absent`, but stream the content of the file `path`, which may be larger than memory.

        The bytes are hashed while they are sent. Raises StorageError, and creates no object, if they are not the
        `expected` ones.
        """

    def get(self, key: str) -> bytes:
        """Return the object's content. Raise StorageError if the object does not exist."""

    def download(self, key: str, path: Path) -> None:
        """Write the object to the file `path`, which appears when complete. Raise StorageError if it is missing."""

    def digest(self, key: str) -> Digest:
        """Return size and hash of the object's present content. Raises StorageError if the object does not exist."""

    def exists(self, key: str) -> bool:
        """Return whether the object exists."""

    def list(self, prefix: str = "") -> Keys:
        """Return all keys that start with `prefix`, sorted."""


def open_store(url: str) -> ObjectStore:
    """Open the store that `url` names: a folder (created on the first write), or `file:///folder`.

    Raises:
        StorageError: The scheme is not supported.
    """
    from brew_platform.storage.local import LocalStore  # imports this module

    if not url.strip():
        raise StorageError("the address of the store is empty. Use a folder, for example runs/store.")
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
        raise StorageError(f"{url}: S3 is not supported yet. Use a folder, for example runs/store.")
    raise StorageError(
        f"{url}: the scheme {scheme}:// is not supported. Use a folder, for example runs/store, or file:///folder."
    )


def validate_key(key: str) -> None:
    """Check that `key` is well-formed, as `ObjectStore` defines it.

    Raises:
        StorageError: The key is malformed.
    """
    if not all(_PART.fullmatch(part) for part in key.split("/")):
        raise StorageError(
            f"{key!r} is not a valid key: its parts, between single slashes, must consist of letters, digits and "
            f"._-=+@ and must not start with a dot. Rename it."
        )
