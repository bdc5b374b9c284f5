"""Implements an object store in a bucket of S3, or of a server that speaks its protocol."""

import hashlib
import os
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from botocore.exceptions import IncompleteReadError

from brew_platform.errors import StorageError
from brew_platform.files import atomic_file
from brew_platform.storage.base import Digest, Keys, is_valid_key, require_unchanged, validate_key
from brew_platform.storage.s3_client import Refused, Retries, S3Client
from brew_platform.storage.s3_upload import WRITE_ID, MultipartUpload, part_size

__all__ = ["S3Store", "open_s3"]

_CHUNK = 1024 * 1024  # bytes that are read from a response at a time
_DOWNLOADS = 8  # ranges of one object that are downloaded at a time
_MISSING = ("NoSuchKey", "404")
_EXISTS = ("PreconditionFailed", "412")
_PROBE = ".probe/create-only"  # not a valid key, so no listing shows it


def open_s3(url: str) -> "S3Store":
    """Open the store at `s3://bucket/prefix`, and check that it creates objects only if they are absent.

    Raises:
        StorageError: The address has credentials or options, or `S3Store.require_create_only` fails.
    """
    parts = urlsplit(url)
    prefix = unquote(parts.path).strip("/")
    if "@" in parts.netloc or ":" in parts.netloc or parts.query or parts.fragment:
        raise StorageError(
            f"s3://{parts.hostname}{parts.path}: the address has credentials or options. Write s3://bucket/prefix "
            f"only; credentials, region and endpoint come from the environment (AWS_*)."
        )
    if not parts.netloc:
        raise StorageError(f"{url} has no bucket. Write s3://bucket/prefix.")
    if prefix:
        validate_key(prefix)
    store = S3Store(parts.netloc, prefix)
    store.require_create_only()
    return store


class S3Store:
    """An ObjectStore below a prefix of a bucket. Several threads can use it; a pickled one connects again.

    An object is created by PutObject with `If-None-Match: *`, which is the only condition that all tested stores keep
    (AWS documents more; Ceph RGW 16 ignores the condition in multipart uploads, copies and deletions). Each write
    stores an id with the object. If the response to a write is lost, the repeated write is refused because the object
    exists (412), and the id shows whether it is its own. 409 means that another write was in progress; it is repeated.

    Files above one part are uploaded in parts, several at a time. An upload that a killed process left is continued.

    Args:
        bucket: The bucket.
        prefix: The common prefix of the keys, without slashes at its ends; the empty string for the whole bucket.
        retries: How often a request is sent.
        part_bytes: Size of the parts of an upload or a download, at least 5 MiB.

    Raises:
        StorageError: The settings of the environment are invalid.
    """

    def __init__(
        self, bucket: str, prefix: str = "", *, retries: Retries | None = None, part_bytes: int = 32 * 1024 * 1024
    ) -> None:
        self.bucket, self.prefix = bucket, prefix
        self._retries, self._part_bytes = retries or Retries(), part_bytes
        self._client = S3Client(bucket, store=self.url, retries=self._retries)
        self._boto = self._client.boto

    def __repr__(self) -> str:
        return f"S3Store({self.url!r})"

    def __reduce__(self) -> tuple[Callable[[], "S3Store"], tuple[()]]:
        return partial(S3Store, self.bucket, self.prefix, retries=self._retries, part_bytes=self._part_bytes), ()

    @property
    def url(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/")

    def require_create_only(self) -> None:
        """Check that the store refuses to create an object that exists. It keeps one small object for this check.

        Credentials that may only read are accepted, because they cannot overwrite an object.

        Raises:
            StorageError: The store overwrites objects, cannot be reached, or refuses the credentials.
        """

        def put() -> None:
            self._boto.put_object(Bucket=self.bucket, Key=self._full(_PROBE), Body=b"brew360", IfNoneMatch="*")

        try:
            for _ in range(2):  # the first creates the object if this prefix is new
                self._client.send("write", _PROBE, put, handled=(*_EXISTS, "AccessDenied", "NotImplemented", "501"))
        except Refused as refused:
            if refused.code in (*_EXISTS, "AccessDenied"):
                return
        raise StorageError(
            f"{self.url} cannot be used: the store at {self._boto.meta.endpoint_url} does not support conditional "
            f"writes (PutObject with If-None-Match: *), so that two processes would overwrite each other's objects. "
            f"Use AWS S3, Ceph RGW, another store that supports them, or a folder."
        )

    def put_if_absent(self, key: str, data: bytes) -> bool:
        path, write_id = self._path(key), uuid.uuid4().hex

        def put() -> None:
            self._boto.put_object(
                Bucket=self.bucket, Key=path, Body=data, IfNoneMatch="*", Metadata={WRITE_ID: write_id}
            )

        for _ in range(self._retries.attempts):
            try:
                self._client.send("write", key, put, handled=_EXISTS)
                return True
            except Refused:
                existing = self._write_id(key)
                if existing is not None:  # otherwise it was deleted meanwhile
                    return existing == write_id
        raise StorageError(
            f"cannot write {key!r} in {self.url}: the store says that the object exists, and that it does not. Try "
            f"again later, or ask the operator of the store."
        )

    def upload_if_absent(self, key: str, path: Path, *, expected: Digest | None = None) -> bool:
        if self.exists(key):
            return False
        with self._source_errors(key, path):
            size = path.stat().st_size
            if size <= self._part_bytes:
                data = path.read_bytes()
                require_unchanged(path, Digest(size=len(data), sha256=hashlib.sha256(data).hexdigest()), expected)
                return self.put_if_absent(key, data)
            upload = MultipartUpload(
                self._client, self._path(key), path, part_bytes=part_size(size, self._part_bytes), expected=expected
            )
            while not upload.run():
                if (existing := self._write_id(key)) is not None:
                    return existing == upload.write_id
            return True

    def upload_by_digest(self, prefix: str, path: Path) -> tuple[Digest, bool]:
        validate_key(prefix)
        with self._source_errors(prefix, path):
            digest = Digest.of_file(path)  # S3 needs the key before the first byte
        return digest, self.upload_if_absent(f"{prefix}/{digest.sha256}", path, expected=digest)

    def get(self, key: str) -> bytes:
        path = self._path(key)

        def get() -> bytes:
            with closing(self._boto.get_object(Bucket=self.bucket, Key=path)["Body"]) as body:
                return bytes(body.read())

        return self._client.send("read", key, get)

    def download(self, key: str, path: Path) -> None:
        head = self._head(key)
        size, etag = int(head["ContentLength"]), str(head["ETag"])
        try:
            with atomic_file(path) as temporary, temporary.open("wb") as file, ThreadPoolExecutor(_DOWNLOADS) as pool:
                file.truncate(size)
                descriptor = file.fileno()

                def write(position: int, data: bytes) -> None:
                    os.pwrite(descriptor, data, position)

                ranges = range(0, size, self._part_bytes)
                list(
                    pool.map(
                        lambda start: self._read(key, start, min(start + self._part_bytes, size), etag, write), ranges
                    )
                )
        except OSError as error:
            raise StorageError(
                f"cannot write {path} from {key!r} in {self.url}: {error.strerror}. Free space on its disk, or choose "
                f"another folder."
            ) from error

    def digest(self, key: str) -> Digest:
        head = self._head(key)
        digest, size = hashlib.sha256(), int(head["ContentLength"])
        self._read(key, 0, size, str(head["ETag"]), lambda position, data: digest.update(data))
        return Digest(size=size, sha256=digest.hexdigest())

    def size(self, key: str) -> int:
        return int(self._head(key)["ContentLength"])

    def modified(self, key: str) -> datetime:
        modified: datetime = self._head(key)["LastModified"]
        return modified

    def exists(self, key: str) -> bool:
        return self._write_id(key) is not None

    def list(self, prefix: str = "") -> Keys:
        top = len(self.prefix) + 1 if self.prefix else 0

        def list_all() -> Keys:
            pages = self._boto.get_paginator("list_objects_v2").paginate(
                Bucket=self.bucket, Prefix=f"{self.prefix}/{prefix}" if self.prefix else prefix
            )
            return [entry["Key"][top:] for page in pages for entry in page.get("Contents", ())]

        return sorted(filter(is_valid_key, self._client.send("list", prefix, list_all)))

    def delete(self, key: str) -> None:
        path = self._path(key)
        self._client.send("delete", key, lambda: self._boto.delete_object(Bucket=self.bucket, Key=path))

    def _path(self, key: str) -> str:
        validate_key(key)
        return self._full(key)

    def _full(self, key: str) -> str:
        return f"{self.prefix}/{key}" if self.prefix else key

    def _head(self, key: str) -> dict[str, Any]:
        path = self._path(key)
        head: dict[str, Any] = self._client.send(
            "read", key, lambda: self._boto.head_object(Bucket=self.bucket, Key=path)
        )
        return head

    def _write_id(self, key: str) -> str | None:
        """Return the id of the write that created the object; None if it does not exist."""
        path = self._path(key)
        try:
            head = self._client.send(
                "read", key, lambda: self._boto.head_object(Bucket=self.bucket, Key=path), handled=_MISSING
            )
        except Refused:
            return None
        return str(head.get("Metadata", {}).get(WRITE_ID, ""))

    def _read(self, key: str, start: int, stop: int, etag: str, consume: Callable[[int, bytes], object]) -> None:
        """Read the bytes from `start` to `stop` of an object. After a failure it continues where the response ended.

        Args:
            key: The key.
            start: Position of the first byte.
            stop: Position after the last byte.
            etag: The object must still have this ETag.
            consume: Called in order with (position, bytes).
        """
        path, position = self._path(key), start

        def read() -> None:
            nonlocal position
            if position == stop:
                return
            response = self._boto.get_object(Bucket=self.bucket, Key=path, Range=f"bytes={position}-{stop - 1}")
            if response["ETag"] != etag:
                raise StorageError(f"{key!r} in {self.url} was overwritten while it was read. Read it again.")
            with closing(response["Body"]) as body:
                while position < stop and (data := body.read(min(_CHUNK, stop - position))):
                    consume(position, data)
                    position += len(data)
            if position < stop:
                raise IncompleteReadError(actual_bytes=position - start, expected_bytes=stop - start)

        self._client.send("read", key, read)

    @contextmanager
    def _source_errors(self, key: str, path: Path) -> Iterator[None]:
        """Explain an error of the local file `path`."""
        try:
            yield
        except FileNotFoundError as error:
            raise StorageError(
                f"cannot write {key!r} in {self.url}: {path} does not exist. Check the key and the path."
            ) from error
        except OSError as error:
            raise StorageError(
                f"cannot write {key!r} in {self.url}: {path} cannot be read ({error.strerror}). Check its permissions "
                f"and its disk."
            ) from error
