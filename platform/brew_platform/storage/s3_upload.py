"""Uploads a large file to S3 in parts, and continues an upload that another process left."""

import hashlib
import uuid
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

from brew_platform.errors import StorageError
from brew_platform.storage.base import Digest, require_unchanged
from brew_platform.storage.s3_client import Refused, S3Client

__all__ = ["WRITE_ID", "MultipartUpload", "part_size"]

IDLE_SECONDS = 120.0  # after this time without a new part, the process of an upload is taken to be dead
WRITE_ID = "write-id"  # name of the metadata that identifies the write which created an object
_UPLOADS = 8  # parts that are sent at a time; the memory of an upload is this many parts
_MOST_PARTS = 10_000  # of S3
_MIB = 1024 * 1024
_ENDED = ("NoSuchUpload", "404", "InvalidPart", "InvalidPartOrder", "ConditionalRequestConflict", "OperationAborted")
_EXISTS = ("PreconditionFailed", "412")


def part_size(size: int, least: int) -> int:
    """Return the size of the parts of a file: at least `least`, whole MiB, and such that S3's 10,000 parts suffice.

    It depends on nothing else, so that a later process cuts the file in the same way.
    """
    return max(least, -(-size // _MOST_PARTS // _MIB) * _MIB)


@dataclass(frozen=True)
class _Part:
    """A part that the store has."""

    number: int  # from 1
    etag: str
    size: int  # bytes


class MultipartUpload:
    """The upload of one file to one key.

    The file is read once: each part is hashed, then sent while the next is read. If a process left an upload of this
    key incomplete, its parts are used where their ETag is the MD5 of the part. (An ETag that differs for another
    reason, such as encryption, only costs time.) Other incomplete uploads of the key are removed in the end.

    Args:
        client: The client.
        path: The key in the bucket.
        source: The file.
        part_bytes: Size of a part.
        expected: Digest that the content must have; None: any.
    """

    def __init__(
        self,
        client: S3Client,
        path: str,
        source: Path,
        *,
        part_bytes: int,
        expected: Digest | None,
    ) -> None:
        self._client, self._boto = client, client.boto
        self._path, self._source = path, source
        self._part_bytes, self._expected = part_bytes, expected
        self._attempts = 0
        self.write_id = uuid.uuid4().hex  # of the object, unless the upload of another process was continued

    def run(self) -> bool:
        """Upload the file.

        Returns:
            Whether this call created the object. If not, the object exists, or another process ended this upload and
            `run` can be called again.

        Raises:
            OSError: The file cannot be read.
            StorageError: The file does not have the expected digest, the store failed, or it failed repeatedly.
        """
        self._attempts += 1
        if self._attempts > 4:
            raise StorageError(
                f"cannot write {self._path!r}: other processes ended its upload {self._attempts - 1} times. Upload it "
                f"again when no other process uploads the same file."
            )
        idle = self._idle_uploads() if self._attempts == 1 else []
        upload_id, parts = idle[0] if idle else (self._create(), {})
        try:
            digest, etags = self._send_parts(upload_id, parts)
            if self._expected is not None and digest != self._expected:
                self._abort(upload_id)
                require_unchanged(self._source, digest, self._expected)
            self._complete(upload_id, etags)
        except Refused as refused:
            if refused.code in _EXISTS:
                self._abort(upload_id)
            return False
        for other, _ in idle[1:]:
            self._abort(other)
        return True

    def _create(self) -> str:
        response = self._client.send(
            "write",
            self._path,
            lambda: self._boto.create_multipart_upload(
                Bucket=self._client.bucket, Key=self._path, Metadata={WRITE_ID: self.write_id}
            ),
        )
        return str(response["UploadId"])

    def _send_parts(self, upload_id: str, existing: Mapping[int, _Part]) -> tuple[Digest, dict[int, str]]:
        """Send the parts that the store does not have. Returns the digest of the file, and the ETag of each part."""
        sha256, size = hashlib.sha256(), 0
        etags: dict[int, str] = {}
        running: deque[Future[None]] = deque()

        def send(number: int, data: bytes) -> None:
            response = self._client.send(
                "write",
                self._path,
                lambda: self._boto.upload_part(
                    Bucket=self._client.bucket, Key=self._path, UploadId=upload_id, PartNumber=number, Body=data
                ),
                handled=_ENDED,
            )
            etags[number] = response["ETag"]

        with ThreadPoolExecutor(_UPLOADS) as pool:
            for number, data in enumerate(self._read_parts(), start=1):
                sha256.update(data)
                size += len(data)
                if (part := existing.get(number)) and _is_same(part, data):
                    etags[number] = part.etag
                    continue
                running.append(pool.submit(send, number, data))
                if len(running) == _UPLOADS:
                    running.popleft().result()
            for future in running:
                future.result()
        return Digest(size=size, sha256=sha256.hexdigest()), etags

    def _read_parts(self) -> Iterator[bytes]:
        with self._source.open("rb") as file:
            while data := file.read(self._part_bytes):
                yield data

    def _complete(self, upload_id: str, etags: Mapping[int, str]) -> None:
        parts = [{"PartNumber": number, "ETag": etags[number]} for number in sorted(etags)]
        self._client.send(
            "write",
            self._path,
            lambda: self._boto.complete_multipart_upload(
                Bucket=self._client.bucket,
                Key=self._path,
                UploadId=upload_id,
                MultipartUpload={"Parts": parts},
                IfNoneMatch="*",  # AWS keeps this condition
            ),
            handled=(*_ENDED, *_EXISTS),
        )

    def _abort(self, upload_id: str) -> None:
        """Remove the parts of an upload. If this fails, the lifecycle rule of the bucket removes them later."""
        try:
            self._client.send(
                "remove the parts of",
                self._path,
                lambda: self._boto.abort_multipart_upload(
                    Bucket=self._client.bucket, Key=self._path, UploadId=upload_id
                ),
                handled=(*_ENDED, "AccessDenied"),
            )
        except Refused:
            return

    def _idle_uploads(self) -> list[tuple[str, dict[int, _Part]]]:
        """Return the uploads of this key that processes left, with their parts, most parts first."""
        try:
            uploads, now = self._client.send(
                "list the uploads of", self._path, self._list_uploads, handled=("AccessDenied",)
            )
        except Refused:  # these credentials may not list uploads
            return []
        found = []
        for upload_id, initiated in uploads:
            try:
                parts, latest = self._parts(upload_id)
            except Refused:  # it was completed meanwhile
                continue
            if now - max(initiated, latest or initiated) > timedelta(seconds=IDLE_SECONDS):
                found.append((upload_id, parts))
        return sorted(found, key=lambda upload: len(upload[1]), reverse=True)

    def _list_uploads(self) -> tuple[list[tuple[str, datetime]], datetime]:
        """Return id and start of each upload of this key, and the present time of the store."""
        uploads, now = [], datetime.now(UTC)
        pages = self._boto.get_paginator("list_multipart_uploads").paginate(
            Bucket=self._client.bucket, Prefix=self._path
        )
        for page in pages:
            now = _date(page) or now
            uploads += [
                (entry["UploadId"], entry["Initiated"])
                for entry in page.get("Uploads", ())
                if entry["Key"] == self._path
            ]
        return uploads, now

    def _parts(self, upload_id: str) -> tuple[dict[int, _Part], datetime | None]:
        """Return the parts of an upload by number, and when the latest was written."""

        def list_parts() -> list[dict[str, Any]]:
            pages = self._boto.get_paginator("list_parts").paginate(
                Bucket=self._client.bucket, Key=self._path, UploadId=upload_id
            )
            return [entry for page in pages for entry in page.get("Parts", ())]

        entries = self._client.send("list the parts of", self._path, list_parts, handled=(*_ENDED, "AccessDenied"))
        parts = {
            entry["PartNumber"]: _Part(entry["PartNumber"], entry["ETag"], int(entry["Size"])) for entry in entries
        }
        return parts, max((entry["LastModified"] for entry in entries if "LastModified" in entry), default=None)


def _is_same(part: _Part, data: bytes) -> bool:
    return part.size == len(data) and part.etag.strip('"') == hashlib.md5(data, usedforsecurity=False).hexdigest()


def _date(page: Mapping[str, Any]) -> datetime | None:
    """Return the time at which the store answered, by its own clock."""
    text = page.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date")
    return parsedate_to_datetime(text) if text else None
