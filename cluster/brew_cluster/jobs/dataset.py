"""The steps from a source to the input of training, for `brew360 demo` and `brew360 data`."""

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from brew_cluster.jobs.demo_config import DemoConfig
from brew_cluster.jobs.disk_space import require_space
from brew_cluster.ray.local_ray import local_ray
from brew_data.corpora.preferences import build_pairs, pairs_from_interactions
from brew_data.data_folder import DatasetInfo
from brew_data.packed_bins.schema import BinsPlan
from brew_data.pipelines.documents import build_bins, corpus_tokenizer
from brew_data.prompts.bundle import PromptBundle
from brew_data.prompts.compiler import PromptCompiler
from brew_data.prompts.suite import TaskSuite, load_suite
from brew_data.schema import Tables, micros, write_tables
from brew_data.sources.base import open_source, read_source
from brew_data.split import EVERYONE, Split
from brew_platform.config import config_digest
from brew_platform.console.progress import Phases
from brew_platform.provenance import source_commit

__all__ = ["Prepared", "finish_dataset", "make_bins", "make_dataset", "prepare"]

HELD_OUT = 0.05  # share of the members who are only evaluated on
EVALUATION_MEMBERS, TRAINING_MEMBERS = (0.0, HELD_OUT), (HELD_OUT, 1.0)


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """The input of bins, preference pairs and scoring requests."""

    folder: Path  # contains tables/
    tables: Tables
    split: Split
    suite: TaskSuite
    compiler: PromptCompiler


def prepare(config: DemoConfig, folder: Path, phases: Phases, *, path: Path | None) -> Prepared:
    """Read the tables of the source, split them in time, and train the tokenizer on the training part.

    Args:
        config: Names the source, the suite and the split.
        folder: Receives `tables/`.
        phases: Shows progress.
        path: Input files, for a source that reads some.

    Raises:
        UserError: The source cannot be loaded, or `path` is missing or not accepted.
        DataError: The source cannot read the input.
    """
    suite = load_suite(config.suite)
    with phases.phase("tables", unit="interactions") as progress:
        tables = read_source(open_source(config.source, config.source_config, path))
        write_tables(tables, folder / "tables")
        split = Split.of(micros(tables.interactions).to_numpy(), config.split)
        progress.update(
            tables.interactions.num_rows, members=tables.members.num_rows, entities=tables.entities.num_rows
        )
    with phases.phase("tokenizer", unit="tokens") as progress:
        tokenizer = corpus_tokenizer(folder / "tables", suite, split, config.vocabulary_size)
        progress.update(tokenizer.vocabulary_size)
    return Prepared(
        folder=folder,
        tables=tables,
        split=split,
        suite=suite,
        compiler=PromptCompiler(suite, tokenizer, config.prompt),
    )


def make_bins(
    prepared: Prepared, out: Path, phases: Phases, *, phase: str = "bins", members: tuple[float, float] = EVERYONE
) -> BinsPlan:
    """Pack the training documents of a part of the members into `out`; Ray must be initialized."""
    with phases.phase(phase, unit="bins") as progress:
        return build_bins(
            prepared.folder / "tables",
            prepared.compiler,
            prepared.split,
            out,
            members=members,
            on_progress=lambda done, total: progress.update(done, total=total),
        )


def make_dataset(config: DemoConfig, out: Path, console: Console, *, path: Path | None, pairs: int) -> None:
    """Write `tables/`, `prompts/`, `bins/`, `evaluation/` and, with pairs, `pairs/` and `pairs-evaluation/`.

    Args:
        config: Names the source, the suite and the split.
        out: Receives the folders.
        console: Shows progress.
        path: Input files, for a source that reads some.
        pairs: Number of preference pairs, evaluation pairs included; 0: none.

    Raises:
        BrewError: A step failed; the message gives the cause and the fix.
    """
    require_space(out)
    names = ["tables", "tokenizer", "bins", "evaluation", *(["pairs"] if pairs else [])]
    phases = Phases(names, console=console)
    prepared = prepare(config, out, phases, path=path)
    PromptBundle.of(prepared.compiler).save(out / "prompts")
    with local_ray(detached=False, logs=out / "logs" / "ray"):
        make_bins(prepared, out / "bins", phases, members=TRAINING_MEMBERS)
        make_bins(prepared, out / "evaluation", phases, phase="evaluation", members=EVALUATION_MEMBERS)
    if pairs:
        with phases.phase("pairs", total=pairs, unit="pairs") as progress:
            held_out = max(1, round(HELD_OUT * pairs))
            for folder, count, members in [
                ("pairs", pairs - held_out, TRAINING_MEMBERS),
                ("pairs-evaluation", held_out, EVALUATION_MEMBERS),
            ]:
                made = pairs_from_interactions(
                    prepared.tables, prepared.compiler, prepared.split, count=count, seed=0, members=members
                )
                build_pairs(made, prepared.compiler, out / folder)
            progress.update(pairs)
    finish_dataset(config, prepared)
    console.print(f"data: {out}", soft_wrap=True, markup=False)


def finish_dataset(config: DemoConfig, prepared: Prepared) -> None:
    """Write `dataset.json`, which marks the data folder as complete."""
    DatasetInfo(
        source=config.source,
        split=prepared.split,
        has_true_probabilities=prepared.tables.oracle is not None,
        config_digest=config_digest(config),
        prompt_digest=PromptBundle.of(prepared.compiler).digest,
        commit=source_commit(),
    ).write(prepared.folder)
