"""From a source to what training reads: tables, the cut in time, a tokenizer, packed bins, preference pairs.

Owns: the order of these steps, for the demo and for `brew360 data`. Every step is brew_data's.
"""

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from brew_cluster.jobs.demo_config import DemoConfig
from brew_cluster.jobs.disk_space import require_space
from brew_cluster.ray.local_ray import local_ray
from brew_data.corpora.preferences import build_pairs, synthetic_pairs
from brew_data.packed_bins.schema import BinsPlan
from brew_data.pipelines.documents import build_bins, corpus_tokenizer
from brew_data.prompts.compiler import PromptCompiler
from brew_data.prompts.suite import TaskSuite, load_suite
from brew_data.schema import Tables, micros, write_tables
from brew_data.sources.movielens import read_movielens
from brew_data.sources.synthetic.generator import generate
from brew_data.split import EVERYONE, Split
from brew_platform.console.progress import Phases
from brew_platform.errors import UserError

__all__ = ["Prepared", "make_bins", "make_dataset", "prepare"]

HELD_OUT = 0.05  # share of the members who are for evaluation only
HELD_OUT_MEMBERS, TRAINED_ON = (0.0, HELD_OUT), (HELD_OUT, 1.0)


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What bins and requests are made from."""

    folder: Path  # holds tables/
    tables: Tables
    split: Split
    suite: TaskSuite
    compiler: PromptCompiler


def prepare(config: DemoConfig, folder: Path, phases: Phases, *, path: Path | None) -> Prepared:
    """Makes or reads the tables, cuts them in time, and trains the tokenizer on the training part.

    Args:
        folder: receives `tables/`.
        path: input files, for sources that read some.

    Raises:
        UserError: `path` does not fit the source.
        DataError: the input is not what the source reads.
    """
    suite = load_suite(config.suite)
    with phases.phase("tables", unit="interactions") as progress:
        tables = _tables(config, path)
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
    """Packs the training documents of a part of the members into `out`; Ray must be initialised."""
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
    """Writes `tables/`, `tokenizer/`, `bins/`, `evaluation/` and, with pairs, `pairs/` and `pairs-evaluation/`.

    Raises:
        BrewError: one clear sentence about what failed.
    """
    require_space(out)
    names = ["tables", "tokenizer", "bins", "evaluation", *(["pairs"] if pairs else [])]
    phases = Phases(names, console=console)
    prepared = prepare(config, out, phases, path=path)
    prepared.compiler.tokenizer.save(out / "tokenizer")
    with local_ray(detached=False, logs=out / "logs" / "ray"):
        make_bins(prepared, out / "bins", phases, members=TRAINED_ON)
        make_bins(prepared, out / "evaluation", phases, phase="evaluation", members=HELD_OUT_MEMBERS)
    if pairs:
        with phases.phase("pairs", total=pairs, unit="pairs") as progress:
            held_out = max(1, round(HELD_OUT * pairs))
            for folder, count, members in [
                ("pairs", pairs - held_out, TRAINED_ON),
                ("pairs-evaluation", held_out, HELD_OUT_MEMBERS),
            ]:
                made = synthetic_pairs(
                    prepared.tables, prepared.compiler, prepared.split, count=count, seed=0, members=members
                )
                build_pairs(made, prepared.compiler, out / folder)
            progress.update(pairs)
    console.print(f"data: {out}", soft_wrap=True)


def _tables(config: DemoConfig, path: Path | None) -> Tables:
    if config.source == "movielens":
        if path is None:
            raise UserError(
                "source movielens needs --path, the folder that holds ml-100k.inter, ml-100k.item and ml-100k.user."
            )
        return read_movielens(path)
    if path is not None:
        raise UserError(f"source {config.source} makes its own data and takes no --path; leave it out.")
    return generate(config.synthetic)
