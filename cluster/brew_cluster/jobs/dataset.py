"""The steps from a source to the input of training, for `brew360 demo` and `brew360 data build`."""

import fcntl
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from brew_cluster.jobs.build_inputs import BuildInputs, read_inputs
from brew_cluster.jobs.dataset_card import dataset_card, write_card
from brew_cluster.jobs.dataset_check import EVALUATION_MEMBERS, HELD_OUT, TRAINING_MEMBERS, check_dataset
from brew_cluster.jobs.dataset_config import DatasetConfig
from brew_cluster.jobs.disk_space import require_space
from brew_cluster.jobs.tables_state import TABLES_STATE, TablesState
from brew_cluster.ray.local_ray import any_ray
from brew_data.corpora.document_sources import TableRows
from brew_data.corpora.preferences import build_pairs, pairs_from_interactions
from brew_data.data_folder import DATASET_FILE, DatasetInfo
from brew_data.entity_index import EntityIndex
from brew_data.member_network import add_network
from brew_data.mixing.mix_file import MIX_FILE
from brew_data.packed_bins.plan import PLAN_FILE, BinsPlan
from brew_data.pipelines.corpus import corpus_tokenizer
from brew_data.pipelines.corpus_bins import build_corpus
from brew_data.pipelines.documents import build_bins
from brew_data.privacy.report import Removals
from brew_data.prompts.bundle import PromptBundle
from brew_data.prompts.compiler import PromptCompiler
from brew_data.prompts.suite import TaskSuite
from brew_data.prompts.tokenizer import Tokenizer
from brew_data.prompts.variation import VariationConfig
from brew_data.quantiles import with_quantiles
from brew_data.schema import Tables, read_tables
from brew_data.sources.base import open_source
from brew_data.sources.quarantine import Quarantine
from brew_data.split import EVERYONE, Split
from brew_data.table_shards import TableShards, read_files, table_files
from brew_platform.config import config_digest
from brew_platform.console.plain_console import PlainConsole
from brew_platform.console.progress import Phases, duration
from brew_platform.errors import UserError
from brew_platform.files import fsync_file, fsync_folder
from brew_platform.provenance import source_commit

__all__ = [
    "Prepared",
    "build_folder",
    "finish_dataset",
    "make_bins",
    "make_dataset",
    "phase_names",
    "prepare",
    "print_summary",
]

LOCK = "building"  # file of a folder that is being built; a build holds a lock on it
ROWS_PER_PAIR = 50  # interactions that preference pairs are drawn from, for each pair


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
    _clear(folder, keep=(LOCK, "logs"))
    return None


def make_bins(
    prepared: Prepared,
    out: Path,
    phases: Phases,
    *,
    phase: str = "bins",
    members: tuple[float, float] = EVERYONE,
    variation: VariationConfig | None = None,
    slates: bool = False,
) -> BinsPlan:
    """Pack the training documents of a part of the members into `out`; Ray must be initialized."""
    with phases.phase(phase, unit="bins") as progress:
        if prepared.is_continued and (out / PLAN_FILE).is_file():  # it was finished before
            plan = BinsPlan.load(out)
            if plan.prompt_digest == PromptBundle.of(prepared.compiler).digest:
                progress.update(plan.n_bins, total=plan.n_bins)
                return plan
        return build_bins(
            prepared.folder / "tables",
            prepared.compiler,
            prepared.split,
            out,
            members=members,
            variation=variation,
            slates=slates,
            on_progress=lambda done, total: progress.update(done, total=total),
        )


def make_dataset(config: DatasetConfig, folder: Path, phases: Phases) -> dict[str, Any]:
    """Write a data set.

    Args:
        config: The recipe.
        folder: Receives `tables/`, `prompts/`, `bins/`, `evaluation/`, with pairs also `pairs/` and
            `pairs-evaluation/`, a folder for each corpus, the card, and last `dataset.json`. Of a build with equal
            settings that did not finish, tables and finished shards of bins are kept (`build_folder`).
        phases: Shows progress.

    Returns:
        The content of `card.json`.

    Raises:
        BrewError: A step failed; the message gives the cause and the fix.
    """
    require_space(folder)
    prepared = prepare(config, folder, phases, held_out=True, continues=True)
    shutil.rmtree(folder / "prompts", ignore_errors=True)
    PromptBundle.of(prepared.compiler).save(folder / "prompts")
    plans: dict[str, BinsPlan] = {}
    with any_ray(detached=False, logs=folder / "logs" / "ray"):
        plans["bins"] = make_bins(
            prepared,
            folder / "bins",
            phases,
            members=TRAINING_MEMBERS,
            variation=config.variation,
            slates=config.slates,
        )
        plans["evaluation"] = make_bins(
            prepared,
            folder / "evaluation",
            phases,
            phase="evaluation",
            members=EVALUATION_MEMBERS,
            slates=config.slates,
        )
        for name in config.corpora:
            plans[name] = _make_corpus(config, name, prepared, phases)
    if config.pairs:
        with phases.phase("pairs", total=config.pairs, unit="pairs") as progress:
            held_out = max(1, round(HELD_OUT * config.pairs))
            for name, count, members in [
                ("pairs", config.pairs - held_out, TRAINING_MEMBERS),
                ("pairs-evaluation", held_out, EVALUATION_MEMBERS),
            ]:
                selected = pairs_from_interactions(
                    _pair_tables(folder / "tables", count, members),
                    prepared.compiler,
                    prepared.split,
                    count=count,
                    seed=0,
                    members=members,
                )
                plans[name] = build_pairs(selected, prepared.compiler, folder / name)
            progress.update(config.pairs)
    (folder / TABLES_STATE).unlink(missing_ok=True)
    return finish_dataset(config, prepared, plans, phases)


def _make_corpus(config: DatasetConfig, name: str, prepared: Prepared, phases: Phases) -> BinsPlan:
    """Write the bins of a corpus, from the members that are trained on; Ray must be initialized."""
    out = prepared.folder / name
    with phases.phase(name, unit="bins") as progress:
        if prepared.is_continued and (out / PLAN_FILE).is_file() and (out / MIX_FILE).is_file():
            plan = BinsPlan.load(out)  # it was finished before
            if plan.prompt_digest == PromptBundle.of(prepared.compiler).digest:
                progress.update(plan.n_bins, total=plan.n_bins)
                return plan
        rows = TableRows(
            folder=prepared.folder / "tables",
            until=prepared.split.train_until,
            members=TRAINING_MEMBERS,
            variation=config.variation,
        )
        return build_corpus(
            config.corpora[name],
            rows,
            prepared.compiler,
            out,
            quarantine=prepared.folder / "quarantine",
            max_share=config.quarantine.max_share,
            on_progress=lambda done, total: progress.update(done, total=total),
        )


def _pair_tables(folder: Path, count: int, members: tuple[float, float]) -> Tables:
    """Return the tables of enough members for preference pairs: some shards, because the hash of an id is random."""
    shards = TableShards.open(folder)
    profiles, rows = [], []
    for shard in shards.of_part(members):
        profiles.append(shards.read("members", shard))
        rows.append(shards.read("interactions", shard))
        if sum(table.num_rows for table in rows) >= ROWS_PER_PAIR * count:
            break
    interactions = pa.concat_tables(rows).sort_by([("timestamp", "ascending"), ("interaction_id", "ascending")])
    entities = EntityIndex(folder).take(pc.unique(interactions["entity_id"]).to_pylist())
    return Tables(members=pa.concat_tables(profiles), entities=entities, interactions=interactions)


def phase_names(config: DatasetConfig) -> list[str]:
    """Return the phases of `make_dataset`, in order."""
    return ["tables", "tokenizer", "bins", "evaluation", *config.corpora, *(["pairs"] if config.pairs else [])]


def finish_dataset(
    config: DatasetConfig, prepared: Prepared, plans: Mapping[str, BinsPlan], phases: Phases
) -> dict[str, Any]:
    """Write the card, and last `dataset.json`, which marks the data folder as complete.

    Args:
        config: The recipe.
        prepared: What the folder contains.
        plans: The plan of each folder of bins.
        phases: The phases that were run.

    Returns:
        The content of `card.json`.
    """
    generates = config.path is None and not prepared.inputs.source
    inputs, digest = prepared.inputs.files, PromptBundle.of(prepared.compiler).digest
    card = dataset_card(
        config,
        prepared.folder,
        inputs=inputs,
        suite=prepared.suite,
        split=prepared.split,
        quarantine=prepared.quarantine,
        removed=prepared.removed,
        prompt_digest=digest,
        plans=plans,
        seconds=phases.seconds,
    )
    write_card(card, prepared.folder)
    DatasetInfo(
        source=config.source,
        source_config=asdict(config.source_config) if generates else {},
        split=prepared.split,
        has_true_probabilities=prepared.has_true_probabilities,
        config_digest=config_digest(config),
        prompt_digest=digest,
        commit=source_commit(),
        gates=config.release.gates,
        inputs=inputs,
        key_id=prepared.key_id,
    ).write(prepared.folder)
    return card


@contextmanager
def build_folder(out: Path, *, settings: str | None = None) -> Iterator[Path]:
    """Yield the folder `<out>.partial` to build in, and rename it to `out` when the block succeeds.

    A build that fails or is killed leaves the partial folder with its log and its quarantined rows. The next build of
    `out` continues in it if it has the same settings and code, and replaces it otherwise.

    Args:
        out: The folder to create.
        settings: A digest of the settings; None: nothing is continued.

    Raises:
        UserError: `out` exists and is not empty, another build is writing it, or `<out>.partial` is not of a build.
    """
    if (out / DATASET_FILE).exists():
        raise UserError(f"{out} is a complete data set: choose another folder, or remove that one.")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} is not empty: choose another folder, or remove that one.")
    partial = out.with_name(f"{out.name}.partial")
    if partial.exists() and not (partial / LOCK).is_file():
        raise UserError(f"{partial} exists, but no build wrote it. Rename or remove it, or choose another --out.")
    partial.mkdir(parents=True, exist_ok=True)
    with (partial / LOCK).open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"another build is writing {out}. Wait for it, or choose another --out.") from None
        build = f"{settings} {source_commit()}"
        lock.seek(0)
        if settings is None or lock.read() != build:
            _clear(partial, keep=(LOCK,))  # of a build that failed
            lock.truncate(0)
            lock.write(build)
            lock.flush()
        yield partial
        for path in partial.rglob("*"):
            fsync_folder(path) if path.is_dir() else fsync_file(path)
        (partial / LOCK).unlink()
        partial.rename(out)  # an empty folder of that name is replaced
        fsync_folder(out.parent)


def _clear(folder: Path, *, keep: Sequence[str]) -> None:
    """Remove everything in a folder except for some names."""
    for path in folder.iterdir():
        if path.name not in keep:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def print_summary(card: dict[str, Any], config: DatasetConfig, out: Path, console: PlainConsole) -> None:
    """Print what a data set contains, and the next command."""
    line = console.print
    entities = sum(card["entities"].values())
    line(f"{card['rows']:,} interactions, {card['members']:,} members, {entities:,} entities")
    for surface, actions in card["actions"].items():
        line(f"{surface}: {', '.join(f'{action} {count:,}' for action, count in actions.items())}")
    for name, task in card["tasks"].items():
        rate = task["training_positive_rate"]
        positive = "" if rate is None else f", {rate:.1%} positive"
        line(
            f"task {name}: {task['training_rows']:,} training rows{positive}, {task['benchmark_rows']:,} benchmark rows"
        )
    quarantined = {table: sum(counts.values()) for table, counts in card["quarantined"].items()}
    if quarantined:
        line(f"quarantined: {', '.join(f'{count:,} {table}' for table, count in quarantined.items())} (quarantine/)")
    if card["members_opted_out"]:
        line(f"removed: {card['members_opted_out']:,} members who opted out")
    fields = sum(count for place, kinds in card["removed"].items() if "." in place for count in kinds.values())
    if fields:
        line(f"removed: identifiers in {fields:,} fields of members and entities")
    bins = card["bins"]["bins"]
    line(
        f"bins: {bins['n_documents']:,} documents, {bins['n_tokens']:,} tokens in {bins['n_bins']:,} bins of "
        f"{bins['context_length']:,}, fill {bins['fill']:.1%}"
    )
    line(f"{duration(sum(card['seconds'].values()))} in all; card: {out / 'card.md'}")
    start = "" if config.tokenizer.from_ is None else f" train.model.init_from={config.tokenizer.from_}"
    line(f"next: brew360 train cpt data={out} run=runs/cpt context_length={bins['context_length']}{start}")
