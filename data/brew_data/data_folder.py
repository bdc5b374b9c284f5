"""The folder that `brew360 data build` writes, as its readers see it.

tables/         members, entities, interactions and, for synthetic data, oracle
prompts/        suite, prompt format and tokenizer (`PromptBundle`)
bins/           packed training documents; further folders of bins beside it
dataset.json    source, cut in time, lineage, digest; written last, so that a folder without it is incomplete
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset

from brew_data.packed_bins.plan import PLAN_FILE, BinsPlan, digest_file
from brew_data.prompts.bundle import PromptBundle
from brew_data.schema import Tables, read_tables
from brew_data.split import Split
from brew_data.table_shards import restore_structs
from brew_platform.config import config_digest
from brew_platform.errors import DataError
from brew_platform.files import replace_atomically
from brew_platform.registry.gates import Gate

__all__ = ["DATASET_FILE", "DataFolder", "DatasetInfo", "InputFile", "read_plan_hash"]

FORMAT_VERSION = 2  # 1: without inputs and digest
DATASET_FILE = "dataset.json"


@dataclass(frozen=True, kw_only=True)
class InputFile:
    """A file that the source read."""

    file: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class DatasetInfo:
    """The content of `dataset.json`: what a data set is, and where it comes from."""

    source: str  # name of the source
    split: Split  # the cut between training and benchmark
    has_true_probabilities: bool  # of every interaction (`Tables.oracle`)
    config_digest: str  # of the configuration that the data were built with
    prompt_digest: str  # of the `PromptBundle` in prompts/
    commit: str | None  # git commit of the code
    gates: list[Gate] = field(default_factory=list)  # of the models that are trained on the data (`release.gates`)
    # Settings of a source that generates its tables; empty for one that reads files, and after an append.
    source_config: dict[str, Any] = field(default_factory=dict)
    inputs: list[InputFile] = field(default_factory=list)  # empty for a source that generates its tables
    appended_to: str | None = None  # digest of the data set whose files this one contains
    key_id: str | None = None  # of the pseudonyms of the members (`Pseudonyms.key_id`); None: members have their ids
    digest: str = ""  # of prompts, tables and bins; `write` computes it

    def write(self, folder: Path) -> "DatasetInfo":
        """Write `dataset.json` into a data folder that is otherwise complete.

        Returns:
            The content, with its digest.
        """
        info = replace(self, digest=_content_digest(folder, self.prompt_digest))
        gates = [gate.document() for gate in self.gates]
        content = {"format_version": FORMAT_VERSION, **asdict(info), "gates": gates}
        replace_atomically(folder / DATASET_FILE, json.dumps(content, indent=1) + "\n")
        return info


@dataclass(frozen=True, kw_only=True)
class DataFolder:
    """A complete data folder."""

    folder: Path
    info: DatasetInfo

    @staticmethod
    def open(folder: Path) -> "DataFolder":
        """Read `dataset.json`.

        Raises:
            DataError: The folder is not a data folder, it is incomplete, or `dataset.json` is damaged or of another
                release.
        """
        path = folder / DATASET_FILE
        if not folder.is_dir():
            raise DataError(f"{folder} is not a folder. Pass the folder that `brew360 data build` wrote.")
        if not path.is_file():
            raise DataError(
                f"{folder} has no {DATASET_FILE}: it is not a data folder, or its build did not finish. Pass the "
                f"folder that `brew360 data build` wrote, or build it again."
            )
        try:
            content = json.loads(path.read_text())
            if content["format_version"] != FORMAT_VERSION:
                raise DataError(
                    f"{path} has format_version {content['format_version']!r}, but this release reads {FORMAT_VERSION} "
                    f"only. Build the data again with this release."
                )
            info = DatasetInfo(
                source=str(content["source"]),
                source_config=dict(content["source_config"]),
                split=Split(**{name: int(time) for name, time in content["split"].items()}),
                has_true_probabilities=bool(content["has_true_probabilities"]),
                config_digest=str(content["config_digest"]),
                prompt_digest=str(content["prompt_digest"]),
                commit=content["commit"],
                gates=[Gate(**gate) for gate in content["gates"]],
                inputs=[InputFile(**file) for file in content["inputs"]],
                appended_to=content["appended_to"],
                key_id=content["key_id"],
                digest=str(content["digest"]),
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{path} is damaged ({error!r}). Build the data again.") from error
        for part in ("tables", "prompts"):
            if not (folder / part).is_dir():
                raise DataError(f"{folder} has no {part}/, so that it is incomplete. Build the data again.")
        return DataFolder(folder=folder, info=info)

    @cached_property
    def tables_folder(self) -> Path:
        """The folder of the tables."""
        return self.folder / "tables"

    def tables(self) -> Tables:
        """Read the tables.

        Raises:
            DataError: As `read_tables`.
        """
        return read_tables(self.tables_folder)

    def rows(self, table: str, column: str, values: Sequence[str] | Sequence[int]) -> pa.Table:
        """Read the rows of a table whose column has one of some values; the rest stays on the disk.

        Args:
            table: members, entities or interactions.
            column: A column of strings or integers.
            values: The values.

        Raises:
            DataError: The table is missing or damaged.
        """
        path = self.tables_folder / f"{table}.parquet"
        try:
            dataset = pyarrow.dataset.dataset(path)
            has_value = pyarrow.dataset.field(column).isin(pa.array(values, dataset.schema.field(column).type))
            return restore_structs(dataset.to_table(filter=has_value))
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"{path} cannot be read ({error}). Build the data again.") from error

    def bundle(self) -> PromptBundle:
        """Load suite, prompt format and tokenizer.

        Raises:
            UserError: As `PromptBundle.load`, or the bundle is not the one that the data were built with.
        """
        bundle = PromptBundle.load(self.folder / "prompts")
        if bundle.digest != self.info.prompt_digest:
            raise DataError(
                f"{self.folder / 'prompts'} has the digest {bundle.digest[:12]}, but the data were built with "
                f"{self.info.prompt_digest[:12]}. Build the data again."
            )
        return bundle

    def verify(self) -> None:
        """Check that prompts, tables and bins are those that were built. Every file is read.

        Raises:
            DataError: A file is missing, was changed, or is damaged.
        """
        self.bundle()
        found = _content_digest(self.folder, self.info.prompt_digest)
        if found != self.info.digest:
            raise DataError(
                f"{self.folder} has the digest {found[:12]}, but {DATASET_FILE} records {self.info.digest[:12]}: a "
                f"table or a plan was changed after the build. Copy the folder again, or build the data again."
            )
        for plan in sorted(self.folder.glob(f"*/{PLAN_FILE}")):
            BinsPlan.load(plan.parent).verify_files(plan.parent)

    def plan_hash(self) -> str | None:
        """The hash of the packing plan of bins/; None if there are no bins."""
        return read_plan_hash(self.folder / "bins") if (self.folder / "bins").is_dir() else None


def read_plan_hash(bins: Path) -> str:
    """Read the hash of the packing plan of a folder of bins or preference pairs.

    Raises:
        DataError: `plan.json` is missing or damaged.
    """
    try:
        return str(json.loads((bins / "plan.json").read_text())["plan_hash"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{bins / 'plan.json'} cannot be read ({error!r}). Build the data again.") from error


def _content_digest(folder: Path, prompt_digest: str) -> str:
    """Return the SHA-256 over prompts, tables and packing plans, which bind the bytes of the bins.

    Data sets with one digest give the same training and the same benchmark.
    """
    tables = sorted(path for path in (folder / "tables").rglob("*") if path.is_file())
    return config_digest(
        {
            "prompts": prompt_digest,
            "tables": {path.relative_to(folder).as_posix(): digest_file(path) for path in tables},
            "bins": {plan.parent.name: read_plan_hash(plan.parent) for plan in sorted(folder.glob(f"*/{PLAN_FILE}"))},
        }
    )
