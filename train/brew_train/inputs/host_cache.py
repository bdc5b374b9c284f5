"""Keeps copies of files of bins on a disk of the host, shared by all processes of the host."""

import hashlib
from functools import partial
from pathlib import Path

import pyarrow as pa

from brew_data.packed_bins.plan import PLAN_FILE, BinsFile
from brew_data.sources.locations import BLOCK_BYTES, Location
from brew_platform.errors import DataError
from brew_platform.storage import host_cache
from brew_platform.storage.base import Digest

__all__ = ["HostCache"]


class HostCache:
    """The cache of `brew_platform.storage.host_cache` for files of bins.

    Args:
        folder: folder on a disk of this host; made when the first file is downloaded.
        limit_bytes: of all copies.
    """

    def __init__(self, folder: Path, *, limit_bytes: int) -> None:
        remedy = "lower train.inputs.cache_bytes, or choose another train.inputs.cache_folder"
        self._copies = host_cache.HostCache(folder, limit_bytes=limit_bytes, remedy=remedy)

    def open(self, file: BinsFile, source: Location) -> pa.NativeFile:
        """Returns the copy of a file, open for reading; downloads it if there is no intact copy.

        Args:
            file: its digest and size.
            source: where it is stored.

        Raises:
            DataError: the source cannot be read, or its content has another digest.
            StorageError: the copy cannot be written.
        """
        return self._copies.open(
            Digest(size=file.bytes, sha256=file.sha256),
            name=source.name,
            download=partial(_download, source, file),
            opener=lambda path: pa.OSFile(str(path)),
        )


def _download(source: Location, file: BinsFile, path: Path) -> Digest:
    digest = hashlib.sha256()
    with source.open_stream() as stream, path.open("wb") as copy:
        while block := stream.read(BLOCK_BYTES):
            digest.update(block)
            copy.write(block)
    if digest.hexdigest() != file.sha256:
        raise DataError(
            f"{source.name} was replaced or damaged: its SHA-256 is {digest.hexdigest()[:12]}, but {PLAN_FILE} "
            f"lists {file.sha256[:12]}. Copy the folder again, or build the data again."
        )
    return Digest(size=file.bytes, sha256=file.sha256)
