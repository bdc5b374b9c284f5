"""The steps from tables to the input of training, for `brew360 demo` and `brew360 data build`."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from brew_cluster.jobs.dataset_card import dataset_card, write_card
from brew_cluster.jobs.dataset_check import EVALUATION_MEMBERS, HELD_OUT, TRAINING_MEMBERS
from brew_cluster.jobs.dataset_config import DatasetConfig
from brew_cluster.jobs.dataset_tables import Prepared, prepare
from brew_cluster.jobs.disk_space import require_space
from brew_cluster.jobs.tables_state import TABLES_STATE
from brew_cluster.ray.local_ray import any_ray
from brew_data.corpora.document_sources import TableRows
from brew_data.corpora.preferences import build_pairs, pairs_from_interactions
from brew_data.data_folder import DatasetInfo
from brew_data.entity_index import EntityIndex
from brew_data.mixing.mix_file import MIX_FILE
from brew_data.packed_bins.plan import PLAN_FILE, BinsPlan
from brew_data.pipelines.corpus_bins import build_corpus
from brew_data.pipelines.documents import build_bins
from brew_data.prompts.bundle import PromptBundle
from brew_data.prompts.variation import VariationConfig
from brew_data.schema import Tables
from brew_data.split import EVERYONE
from brew_data.table_shards import TableShards
from brew_platform.config import config_digest
from brew_platform.console.progress import Phases
from brew_platform.provenance import source_commit

__all__ = ["finish_dataset", "make_bins", "make_dataset", "phase_names"]

ROWS_PER_PAIR = 50  # interactions that preference pairs are drawn from, for each pair


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
        if (finished := _finished_plan(prepared, out, [PLAN_FILE])) is not None:
            progress.update(finished.n_bins, total=finished.n_bins)
            return finished
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


def _finished_plan(prepared: Prepared, out: Path, files: Sequence[str]) -> BinsPlan | None:
    """Return the plan of bins that an earlier build finished in `out`, with equal prompts and with `files`."""
    if not prepared.is_continued or not all((out / name).is_file() for name in files):
        return None
    plan = BinsPlan.load(out)
    return plan if plan.prompt_digest == PromptBundle.of(prepared.compiler).digest else None


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
        if (finished := _finished_plan(prepared, out, [PLAN_FILE, MIX_FILE])) is not None:
            progress.update(finished.n_bins, total=finished.n_bins)
            return finished
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
