"""Folders of packed bins, on a local disk or on S3."""

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import pyarrow as pa
import pyarrow.fs as pa_fs

from brew_data.packed_bins.plan import PLAN_FILE, BinsFile, BinsPlan
from brew_data.sources.locations import Location, find_files
from brew_platform.errors import BrewError, ConfigError, DataError
from brew_train.config import InputsConfig
from brew_train.inputs.host_cache import HostCache

__all__ = ["BinFolder", "absolute", "open_folder", "read_plan"]

logger = logging.getLogger(__name__)
DOWNLOADS = 8  # at a time, of each worker


class BinFolder(Protocol):
    """A folder of bins. Its files are those of its plan, with their sizes."""

    name: str  # path or address, for messages
    plan: BinsPlan

    def open(self, file: BinsFile) -> pa.NativeFile:
        """Opens a file of the plan for reading.

        Raises:
            OSError: the file cannot be read.
            DataError, StorageError: as `HostCache.open`.
        """

    def fetch(self, files: Sequence[BinsFile]) -> None:
        """Makes local copies of files on S3, several at a time. A file that cannot be copied is left to `open`."""

    def verify(self, on_progress: Callable[[int, int], None]) -> None:
        """Compares the SHA-256 of every local file with the plan; a file on S3 is compared when a host loads it.

        Args:
            on_progress: called with (bytes read, total bytes) after each file.

        Raises:
            DataError: a file was replaced or damaged; the message names it.
        """


def open_folder(address: Path | str, inputs: InputsConfig) -> BinFolder:
    """Opens a folder of bins.

    Args:
        address: a local folder, or `s3://bucket/folder`; credentials, region and endpoint come from the environment.
        inputs: where copies of files on S3 are kept.

    Raises:
        UserError: the folder has no plan, or the address is not supported.
        DataError: the plan is damaged or of another release; a file is missing, added, or of another size than in the
            plan; or the store cannot be reached.
        ConfigError: the cache cannot hold a file of the folder.
    """
    return _S3Folder(str(address), inputs) if _is_address(address) else _LocalFolder(Path(address))


def read_plan(address: Path | str) -> BinsPlan:
    """Reads the plan of a folder of bins.

    Args:
        address: as in `open_folder`.

    Raises:
        UserError: the folder has no plan, or the address is not supported.
        DataError: the plan is damaged or of another release, or the store cannot be reached.
    """
    if not _is_address(address):
        return BinsPlan.load(Path(address))
    return _parse(_find_plan(str(address).rstrip("/")))


def absolute(address: Path | str) -> Path | str:
    """Returns an address that means the same folder in every working folder."""
    return address if _is_address(address) else Path(address).resolve()


def _is_address(address: Path | str) -> bool:
    return isinstance(address, str) and "://" in address


class _LocalFolder:
    def __init__(self, folder: Path) -> None:
        self.name, self._folder = str(folder), folder
        self.plan = BinsPlan.load(folder)
        self.plan.check_files(folder)

    def open(self, file: BinsFile) -> pa.NativeFile:
        return pa.OSFile(str(self._folder / file.name))

    def fetch(self, files: Sequence[BinsFile]) -> None:
        pass

    def verify(self, on_progress: Callable[[int, int], None]) -> None:
        self.plan.verify_files(self._folder, on_progress=on_progress)


class _S3Folder:
    def __init__(self, address: str, inputs: InputsConfig) -> None:
        self.name = address.rstrip("/")
        plan = _find_plan(self.name)
        self._filesystem, self._path = plan.filesystem, plan.path.rpartition("/")[0]
        self.plan = _parse(plan)
        self.plan.check_sizes(self._sizes(), folder=self.name)
        self._require_space(inputs.cache_bytes)
        self._cache = HostCache(Path(inputs.cache_folder).expanduser(), limit_bytes=inputs.cache_bytes)
        self._downloads = ThreadPoolExecutor(DOWNLOADS, thread_name_prefix="bin-download")

    def open(self, file: BinsFile) -> pa.NativeFile:
        source = Location(f"{self.name}/{file.name}", self._filesystem, f"{self._path}/{file.name}")
        return self._cache.open(file, source)

    def fetch(self, files: Sequence[BinsFile]) -> None:
        list(self._downloads.map(self._fetch, files))

    def _fetch(self, file: BinsFile) -> None:
        with suppress(BrewError):
            self.open(file).close()

    def verify(self, on_progress: Callable[[int, int], None]) -> None:
        pass  # `HostCache.open` compares each file when it loads it

    def _sizes(self) -> dict[str, int]:
        try:
            found = self._filesystem.get_file_info(pa_fs.FileSelector(self._path))
        except OSError as error:
            raise DataError(f"{self.name} cannot be listed ({error}). Check the permissions.") from error
        return {info.base_name: info.size for info in found if info.type == pa_fs.FileType.File}

    def _require_space(self, cache_bytes: int) -> None:
        sizes = [file.bytes for file in self.plan.files]
        if max(sizes, default=0) > cache_bytes:
            raise ConfigError(
                f"train.inputs.cache_bytes is {cache_bytes:,}, but a file of {self.name} has {max(sizes):,} bytes: "
                f"raise it, best to the {sum(sizes):,} bytes of the whole folder."
            )
        if sum(sizes) > cache_bytes:
            logger.warning(
                "%s has %.1f GB, more than the %.1f GB of train.inputs.cache_bytes: a host downloads its files several "
                "times in each epoch",
                self.name,
                sum(sizes) / 1e9,
                cache_bytes / 1e9,
            )


def _find_plan(address: str) -> Location:
    (location,) = find_files([f"{address}/{PLAN_FILE}"])
    return location


def _parse(plan: Location) -> BinsPlan:
    with plan.open_stream() as stream:
        return BinsPlan.parse(stream.read(), name=plan.name)
