"""`plan.json` of a folder of packed bins: its schema, its hash, and the check of the files that it lists."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, fields, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Self

from brew_platform.errors import DataError, UserError
from brew_platform.files import replace_atomically

__all__ = ["FORMAT_VERSION", "PLAN_FILE", "SLATES_VERSION", "BinsFile", "BinsPlan", "digest_file", "hash_plan"]

PLAN_FILE = "plan.json"
FORMAT_VERSION = 2  # 1: without a version and without the digests of the files
SLATES_VERSION = 3  # some documents have several segments
BINS = "bins-*.parquet"


@dataclass(frozen=True, kw_only=True)
class BinsFile:
    """One file of a folder of bins."""

    name: str
    sha256: str
    bytes: int
    bins: int  # rows


@dataclass(frozen=True, kw_only=True)
class BinsPlan:
    """The contents of `plan.json`.

    `plan_hash` is the SHA-256 of everything else in it, and so binds the bytes of all files. A run records it, and
    continues only on bins with the same hash.
    """

    plan_hash: str = ""  # set by `sealed`
    format_version: int = FORMAT_VERSION
    kind: str = "documents"  # or pairs: each chosen document is followed by the rejected one
    context_length: int  # tokens of a bin
    vocabulary_size: int  # ids of the tokenizer
    prompt_digest: str  # of the `PromptBundle` that compiled the documents
    n_bins: int
    n_documents: int
    n_tokens: int
    fill: float  # n_tokens / (n_bins * context_length)
    fields_cut: int = 0  # fields of records that were shortened or left out to fit their budgets
    tokens_cut: int = 0  # tokens that instructions, profiles and entities lost
    turns_dropped: int = 0  # interactions before an example that its prompt does not show
    files: list[BinsFile] = field(default_factory=list)  # in the order of their bins

    def sealed(self) -> Self:
        """Return the plan with its hash."""
        return replace(self, plan_hash=hash_plan(asdict(self)))

    def write(self, folder: Path) -> None:
        """Write `plan.json`, which marks the folder as complete."""
        replace_atomically(folder / PLAN_FILE, json.dumps(asdict(self), indent=2))

    @staticmethod
    def load(folder: Path) -> "BinsPlan":
        """Read `plan.json`.

        Raises:
            UserError: The folder has no plan.
            DataError: The plan is damaged, was changed after it was written, or is of another release.
        """
        path = folder / PLAN_FILE
        if not path.is_file():
            raise UserError(
                f"{folder} has no {PLAN_FILE}, so it is not a complete folder of bins: build the data first."
            )
        try:
            content = path.read_bytes()
        except OSError as error:
            raise DataError(f"{path} cannot be read ({error}); copy the folder again, or repair the disk.") from error
        return BinsPlan.parse(content, name=str(path))

    @staticmethod
    def parse(data: bytes, *, name: str) -> "BinsPlan":
        """Parse `plan.json`.

        Args:
            data: The content of the file.
            name: The path or address of the file, for messages.

        Raises:
            DataError: The plan is damaged, was changed after it was written, or is of another release.
        """
        try:
            content = dict(json.loads(data))
        except (ValueError, TypeError) as error:
            raise DataError(f"{name} is not a JSON object ({error}); build the data again.") from error
        if content.get("format_version") not in (FORMAT_VERSION, SLATES_VERSION):
            raise DataError(
                f"{name} has format_version {content.get('format_version', 1)!r}, but this release reads "
                f"{FORMAT_VERSION} and {SLATES_VERSION}, which have the digest of each file: build the data again with "
                f"this release."
            )
        if content.get("plan_hash") != hash_plan(content):
            raise DataError(
                f"{name} was changed after it was written: its plan_hash is {str(content.get('plan_hash'))[:12]}, but "
                f"its content has {hash_plan(content)[:12]}; build the data again, or copy the whole folder again."
            )
        names = {field.name for field in fields(BinsPlan)}
        try:
            files = [BinsFile(**file) for file in content["files"]]
            return BinsPlan(**{key: value for key, value in content.items() if key in names} | {"files": files})
        except (KeyError, TypeError) as error:
            raise DataError(f"{name} has other fields ({error}); build the data again.") from error

    def check_files(self, folder: Path) -> None:
        """Check that the folder holds exactly the files of the plan, with their sizes. Reads no file.

        Raises:
            DataError: A file is missing, has another size, or is not in the plan. The message names it.
        """
        sizes = {path.name: path.stat().st_size for path in folder.iterdir() if path.is_file()}
        self.check_sizes(sizes, folder=str(folder))

    def check_sizes(self, sizes: Mapping[str, int], *, folder: str) -> None:
        """Check that the files of a folder are exactly those of the plan.

        Args:
            sizes: The bytes of each file in the folder, by its name.
            folder: The path or address of the folder, for messages.

        Raises:
            DataError: A file is missing, has another size, or is not in the plan. The message names it.
        """
        for file in self.files:
            size = sizes.get(file.name)
            if size is None:
                raise DataError(
                    f"{folder}/{file.name} is missing: {PLAN_FILE} lists it with {file.bins} bins. Copy the folder "
                    f"again, or build the data again."
                )
            if size != file.bytes:
                raise DataError(
                    f"{folder}/{file.name} has {size:,} bytes, but {PLAN_FILE} lists it with {file.bytes:,}: it was "
                    f"cut short or replaced. Copy the folder again, or build the data again."
                )
        listed = {file.name for file in self.files}
        added = sorted(name for name in sizes if name not in listed and fnmatchcase(name, BINS))
        if added:
            raise DataError(
                f"{folder}/{added[0]} is not in {PLAN_FILE}, so it belongs to another plan. Remove it, or build the "
                f"data again into an empty folder."
            )

    def verify_files(self, folder: Path, *, on_progress: Callable[[int, int], None] = lambda done, total: None) -> None:
        """Check the SHA-256 of every file. Threads read several files at once.

        Args:
            folder: The folder of the bins.
            on_progress: Called with (bytes read, total bytes) after each file.

        Raises:
            DataError: As `check_files`, or the content of a file has changed.
        """
        self.check_files(folder)
        total, done = sum(file.bytes for file in self.files), 0
        for file, sha256 in self._digests(folder):
            if sha256 != file.sha256:
                raise DataError(
                    f"{folder / file.name} was replaced or damaged: its SHA-256 is {sha256[:12]}, but {PLAN_FILE} "
                    f"lists {file.sha256[:12]}. Copy the folder again, or build the data again."
                )
            done += file.bytes
            on_progress(done, total)

    def _digests(self, folder: Path) -> Iterator[tuple[BinsFile, str]]:
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as threads:
            paths = [folder / file.name for file in self.files]
            yield from zip(self.files, threads.map(digest_file, paths), strict=True)


def hash_plan(content: Mapping[str, Any]) -> str:
    """Return the SHA-256 of the content of `plan.json` without its hash, as JSON with sorted keys."""
    body = {key: value for key, value in content.items() if key != "plan_hash"}
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def digest_file(path: Path) -> str:
    """Return the SHA-256 of a file.

    Raises:
        DataError: The file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error}); copy the folder again, or repair the disk.") from error
