"""Where input files are: paths and globs, local or on S3, and the bytes of each file, decompressed."""

import fnmatch
import hashlib
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.fs as pa_fs

from brew_platform.errors import DataError, UserError

__all__ = ["BLOCK_BYTES", "Location", "find_files"]

BLOCK_BYTES = 4 * 2**20


@dataclass(frozen=True)
class Location:
    """A file, local or on S3.

    Args:
        name: As the recipe names it; messages use it.
        filesystem: The file system.
        path: The path there.
    """

    name: str
    filesystem: pa_fs.FileSystem
    path: str

    def open_stream(self) -> BinaryIO:
        """Open the file for reading from its start; .gz, .bz2 and .zst files are decompressed."""
        try:
            stream = self.filesystem.open_input_stream(self.path, compression="detect")
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"{self.name} cannot be read ({error}). Check the path and the permissions.") from error
        return io.BufferedReader(_Raw(stream, self.name), BLOCK_BYTES)

    def digest(self) -> str:
        """Return the sha256 of the file as it is stored.

        Raises:
            DataError: The file cannot be read.
        """
        digest = hashlib.sha256()
        try:
            with self.filesystem.open_input_stream(self.path, compression=None) as stream:
                while block := stream.read(BLOCK_BYTES):
                    digest.update(block)
        except OSError as error:
            raise DataError(f"{self.name} cannot be read ({error}). Check the path and the permissions.") from error
        return digest.hexdigest()


class _Raw(io.RawIOBase):
    """pyarrow's stream as a raw Python stream: gzip streams of pyarrow have no readinto of their own."""

    def __init__(self, stream: pa.NativeFile, name: str) -> None:
        self._stream, self._name = stream, name

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            block = self._stream.read(len(buffer))
        except (OSError, pa.ArrowException) as error:
            raise DataError(
                f"{self._name} cannot be read to its end ({error}). It is cut short, damaged, or not compressed as its "
                f"ending says. Copy it again."
            ) from error
        buffer[: len(block)] = block
        return len(block)

    def close(self) -> None:
        if not self.closed:
            self._stream.close()
        super().close()


def find_files(patterns: Sequence[str]) -> list[Location]:
    """Return the files that the patterns name, each once, in order; the matches of one pattern are sorted.

    Args:
        patterns: Paths or globs (`*`, `?`), relative to the working folder, or `s3://bucket/key`. Credentials for S3
            come from the environment.

    Raises:
        DataError: A pattern matches no file, or a store cannot be reached.
        UserError: An address is not supported.
    """
    found: dict[tuple[str, str], Location] = {}
    for pattern in patterns:
        for location in _matches(pattern):
            found.setdefault((location.filesystem.type_name, location.path), location)
    return list(found.values())


def _matches(pattern: str) -> list[Location]:
    if "://" not in pattern:
        path = Path(pattern).expanduser()
        has_glob = any(character in pattern for character in "*?[") and not path.is_file()
        found = sorted(Path(path.anchor or ".").glob(str(path.relative_to(path.anchor)))) if has_glob else [path]
        files = [file for file in found if file.is_file()]
        if not files:
            kind = "matches no file" if has_glob else "is not a file"
            raise DataError(f"{pattern} {kind} (working folder: {Path.cwd()}). Correct the path in the recipe.")
        local = pa_fs.LocalFileSystem()
        return [Location(str(file), local, str(file.absolute())) for file in files]
    parts = urlsplit(pattern)
    if parts.scheme != "s3":
        raise UserError(
            f"{pattern}: the scheme {parts.scheme}:// is not supported. Use a local path or s3://bucket/key."
        )
    if "@" in parts.netloc or parts.query:
        raise UserError(
            f"s3://{parts.netloc.rpartition('@')[2]}{parts.path}: the address has credentials or options. Write "
            f"s3://bucket/key only; credentials, region and endpoint come from the environment (AWS_*)."
        )
    key = f"{parts.netloc}{parts.path}"
    try:
        store = _s3()
        if not any(character in key for character in "*?["):
            infos = [store.get_file_info(key)]
        else:
            folder = key.split("*")[0].split("?")[0].split("[")[0].rpartition("/")[0]
            infos = [
                info
                for info in store.get_file_info(pa_fs.FileSelector(folder, recursive=True))
                if fnmatch.fnmatchcase(info.path, key)
            ]
    except OSError as error:
        raise DataError(
            f"{pattern} cannot be read ({error}). Check the address and the credentials in the environment."
        ) from error
    infos = sorted((info for info in infos if info.type == pa_fs.FileType.File), key=lambda info: info.path)
    if not infos:
        raise DataError(f"{pattern} matches no object. Correct the address in the recipe.")
    return [Location(f"s3://{info.path}", store, info.path) for info in infos]


def _s3() -> pa_fs.S3FileSystem:
    """The store that the environment names; pyarrow reads credentials and region, but not the endpoint."""
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if not endpoint:
        return pa_fs.S3FileSystem()
    parts = urlsplit(endpoint)
    return pa_fs.S3FileSystem(endpoint_override=parts.netloc, scheme=parts.scheme)
