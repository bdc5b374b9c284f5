"""The first steps of a data set and of the demo: tables from a source, their split, the suite and the tokenizer."""

import ctypes
import gc
import shutil
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pyarrow as pa

from brew_cluster.jobs.build_folder import LOCK, clear_folder
from brew_cluster.jobs.build_inputs import BuildInputs, read_inputs
from brew_cluster.jobs.dataset_check import check_dataset
from brew_cluster.jobs.dataset_config import DatasetConfig
from brew_cluster.jobs.tables_state import TablesState
from brew_data.member_network import add_network
from brew_data.pipelines.corpus import corpus_tokenizer
from brew_data.privacy.report import Removals
from brew_data.prompts.compiler import PromptCompiler
from brew_data.prompts.suite import TaskSuite
from brew_data.prompts.tokenizer import Tokenizer
from brew_data.quantiles import with_quantiles
from brew_data.schema import Tables, read_tables
from brew_data.sources.base import open_source
from brew_data.sources.quarantine import Quarantine
from brew_data.split import Split
from brew_data.table_shards import read_files, table_files
from brew_platform.console.progress import Phases

__all__ = ["Prepared", "prepare"]


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """The input of bins, preference pairs and scoring requests."""

    folder: Path  # contains tables/
    inputs: BuildInputs  # as they were before the tables were written
    quarantine: Quarantine
    removed: Removals  # for privacy
    key_id: str | None  # of the pseudonyms of the members
    opted_out: frozenset[str]  # ids of the members who opted out, as the tables name members; empty if it continues
    has_true_probabilities: bool
    split: Split
    suite: TaskSuite  # with the quantiles of the training part
    compiler: PromptCompiler
    is_continued: bool = False  # the tables are those of a build that did not finish, and its bins can be kept

    @cached_property
    def tables(self) -> Tables:
        """All tables in memory, for steps that are made for small data. They are read when they are first used."""
        return read_tables(self.folder / "tables")


def prepare(
    config: DatasetConfig, folder: Path, phases: Phases, *, held_out: bool = False, continues: bool = False
) -> Prepared:
    """Write and check the tables of the source, split them in time, and load the tokenizer or train it.

    Args:
        config: Names the source, the suite, the split and the tokenizer.
        folder: Receives `tables/`, and `quarantine/` if rows break the schema.
        phases: Shows progress.
        held_out: Whether bins for evaluation and preference pairs are to be made.
        continues: Use the tables that an earlier call with equal settings wrote to `folder`, if the inputs have not
            changed since. If they have, `folder` is emptied, except for its logs.

    Raises:
        UserError: The source cannot be loaded, or its path is missing or not accepted.
        DataError: The source cannot read the input, or a check of it fails.
    """
    tables = folder / "tables"
    with phases.phase("tables", unit="rows") as progress:
        found = _finished_tables(config, folder, phases) if continues else None
        opted_out: frozenset[str] = frozenset()
        is_continued = found is not None
        if found is None:
            shutil.rmtree(folder / "quarantine", ignore_errors=True)
            check = check_dataset(
                config,
                tables_folder=tables,
                quarantine_folder=folder / "quarantine",
                held_out=held_out,
                on_rows=progress.update,
            )
            check.require_good()
            assert check.written is not None
            assert check.split is not None
            assert check.inputs is not None
            opted_out = check.opted_out
            found = TablesState(
                inputs=check.inputs,
                written=check.written,
                split=check.split,
                quarantine=check.quarantine,
                removed=check.removed,
            )
            if continues:
                found.write(folder)
        suite, until = config.load_suite(), found.split.train_until
        add_network(tables, suite, until=until)
        rows = found.written.rows
        kept = {name: rows[name] for name in ("members", "entities", "interactions")}
        progress.update(sum(kept.values()), **kept)
    with phases.phase("tokenizer", unit="tokens") as progress:
        suite = with_quantiles(
            suite,
            *((read_files([file]) for file in table_files(tables, name)) for name in ("members", "entities")),
            until=until,
        )
        tokenizer = (
            corpus_tokenizer(
                tables,
                suite,
                found.split,
                config.tokenizer.vocabulary_size,
                merges=config.tokenizer.merges,
                variation=config.variation,
            )
            if config.tokenizer.from_ is None
            else Tokenizer.from_model(config.tokenizer.from_)
        )
        progress.update(tokenizer.vocabulary_size)
    _release_memory()
    return Prepared(
        folder=folder,
        inputs=found.inputs,
        quarantine=found.quarantine,
        removed=found.removed,
        key_id=None if config.privacy.pseudonyms is None else config.privacy.pseudonyms.open().key_id,
        opted_out=opted_out,
        has_true_probabilities="oracle" in rows,
        split=found.split,
        suite=suite,
        compiler=PromptCompiler(suite, tokenizer, config.prompt),
        is_continued=is_continued,
    )


def _release_memory() -> None:
    """Give the memory of the tables and of the tokenizer's training back, as this process then waits for workers.

    Allocators keep freed memory for later. Without glibc, only Arrow's is given back.
    """
    gc.collect()
    pa.default_memory_pool().release_unused()
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)


def _finished_tables(config: DatasetConfig, folder: Path, phases: Phases) -> TablesState | None:
    """Return what an earlier build knows of its tables, if it finished them and their inputs have not changed."""
    found = TablesState.read(folder)
    if found is None:
        return None
    source = open_source(config.source, config.source_config, None if config.path is None else Path(config.path))
    if source.path_contents is not None and not hasattr(source, "input_files"):
        return None  # which files it reads is not known
    changed = read_inputs(config, source, config.load_suite()).changes(found.inputs)
    if not changed:
        return found
    names = ", ".join(changed[:3]) + (f" and {len(changed) - 3} more" if len(changed) > 3 else "")
    phases.note(f"the build starts from the beginning, because these changed since it was interrupted: {names}.")
    clear_folder(folder, keep=(LOCK, "logs"))
    return None
