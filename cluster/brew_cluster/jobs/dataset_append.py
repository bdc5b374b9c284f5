"""Adds further days to a data set, for `brew360 data append`. The result is a data folder of its own.

Prompts and the bins of earlier days stay as they are: their files are linked. Members, entities and interactions are
merged. Interactions that were not trained before, and are not later than the new cut, become further bins.
"""

import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset

from brew_cluster.jobs.dataset_card import dataset_card, read_card, write_card
from brew_cluster.jobs.dataset_check import EVALUATION_MEMBERS, TRAINING_MEMBERS
from brew_cluster.jobs.dataset_config import DatasetConfig
from brew_cluster.jobs.dataset_tables import Prepared, prepare
from brew_cluster.jobs.disk_space import require_space
from brew_cluster.ray.local_ray import any_ray
from brew_data.data_folder import DataFolder, DatasetInfo
from brew_data.member_network import add_network
from brew_data.packed_bins.extension import extend_bins, link_file
from brew_data.packed_bins.plan import PLAN_FILE, BinsPlan
from brew_data.pipelines.documents import build_bins
from brew_data.prompts.bundle import PromptBundle
from brew_data.prompts.network import NETWORK_FIELDS
from brew_data.prompts.suite import TaskSuite
from brew_data.prompts.tokenizer import TokenizerConfig
from brew_data.schema import TIMESTAMP
from brew_data.split import EVERYONE, Split, SplitConfig, are_in_part, hash_ids
from brew_data.table_append import append_tables
from brew_platform.config import config_digest
from brew_platform.console.progress import Phases
from brew_platform.errors import UserError
from brew_platform.provenance import source_commit

__all__ = ["append_days", "append_phases"]

DAYS = "days"  # what was read of the further days, in the folder that is written; it is removed at the end
_ANY_CUT = SplitConfig(train_share=0.5)  # of the further days alone; the merged interactions have the recipe's cut
_PARTS = {"bins": TRAINING_MEMBERS, "evaluation": EVALUATION_MEMBERS}


def append_days(config: DatasetConfig, data: DataFolder, folder: Path, phases: Phases) -> dict[str, Any]:
    """Write a data set that has the rows of another one, and those of further days.

    Folders of bins other than `bins` and `evaluation`, such as preference pairs, stay as they are.

    Args:
        config: The recipe of the data set; its source reads the further days.
        data: The data set that exists.
        folder: Receives the files of a data folder, `dataset.json` last.
        phases: Shows progress; from `append_phases`.

    Returns:
        The content of `card.json`.

    Raises:
        UserError: The recipe has other prompts, or its split moves the cut back.
        DataError: The further days cannot be read, a check of them fails, or none of their rows is for training.
        BrewError: A step failed; the message gives the cause and the fix.
    """
    require_space(folder)
    info, bundle = data.info, data.bundle()
    prompts = TokenizerConfig(from_=str(data.folder / "prompts"))
    days = prepare(replace(config, tokenizer=prompts, split=_ANY_CUT), folder / DAYS, phases)
    _require_same_prompts(days.suite, config, bundle)
    _require_same_members(days, data)
    with phases.phase("merge", unit="rows") as progress:
        written = append_tables(
            data.tables_folder,
            folder / DAYS / "tables",
            folder / "tables",
            after=info.split.train_until,
            computed=NETWORK_FIELDS if (data.tables_folder / "connections.parquet").exists() else (),
        )
        progress.update(sum(written.rows.values()), **written.rows)
    split = _split(folder / "tables", config.split)
    _require_later_cut(split, info.split, folder / "tables", bundle.suite)
    add_network(folder / "tables", bundle.suite, until=split.train_until)
    (folder / "prompts").mkdir()
    for path in sorted((data.folder / "prompts").iterdir()):
        link_file(path, folder / "prompts" / path.name)
    with any_ray(detached=False, logs=folder / "logs" / "ray"):
        plans = {name: _bins(name, config, data, folder, split, phases) for name in _folders(data)}
    if (quarantine := folder / DAYS / "quarantine").exists():
        quarantine.rename(folder / "quarantine")
    shutil.rmtree(folder / DAYS)
    return _finish(config, data, folder, days=days, split=split, plans=plans, phases=phases)


def append_phases(data: DataFolder) -> list[str]:
    """Return the phases of `append_days`, in order."""
    return ["tables", "tokenizer", "merge", *_folders(data)]


def _folders(data: DataFolder) -> list[str]:
    """Return the folders of bins."""
    return sorted(path.parent.name for path in data.folder.glob(f"*/{PLAN_FILE}"))


def _require_same_prompts(suite: TaskSuite, config: DatasetConfig, bundle: PromptBundle) -> None:
    """Check that the recipe describes the prompts of the data set. Quantiles stay those of the data set."""
    if config.prompt != bundle.format:
        what, found, expected = "prompt format", str(config.prompt), str(bundle.format)
    elif _without_quantiles(suite) != _without_quantiles(bundle.suite):
        what, found, expected = "task suite", suite.name, f"{bundle.suite.name}, with other tasks or templates"
    else:
        return
    raise UserError(
        f"the recipe has the {what} {found}, but the data set has {expected}. Prompts cannot change when days are "
        f"appended: restore the setting, or build the data again."
    )


def _require_same_members(days: Prepared, data: DataFolder) -> None:
    """Check that the further days have pseudonyms of the same key, and that no member opted out since the last build.

    Raises:
        UserError: They do not, or a member did, who would remain in the bins of earlier days.
    """
    if days.key_id != data.info.key_id:
        raise UserError(
            f"privacy.pseudonyms has the key {days.key_id or 'null'}, but the data set was built with "
            f"{data.info.key_id or 'null'}, so that the same member would be two. Restore the setting, or build the "
            f"data again."
        )
    known = pyarrow.dataset.dataset(data.tables_folder / "members.parquet").to_batches(columns=["member_id"])
    count = sum(id_ in days.opted_out for batch in known for id_ in batch["member_id"].to_pylist())
    if count:
        raise UserError(
            f"{count:,} members of the data set have opted out since it was built, and are in its bins. Build the data "
            f"again; days cannot be appended."
        )


def _without_quantiles(suite: TaskSuite) -> dict[str, Any]:
    bare = replace(
        suite,
        profile=replace(suite.profile, quantiles={}),
        entities={name: replace(template, quantiles={}) for name, template in suite.entities.items()},
    )
    return bare.to_dict()


def _split(tables: Path, config: SplitConfig) -> Split:
    """Return the cut of all interactions."""
    column = pyarrow.dataset.dataset(tables / "interactions.parquet").to_table(columns=["timestamp"])["timestamp"]
    return Split.of(np.sort(column.cast("int64").to_numpy()), config)


def _require_later_cut(split: Split, before: Split, tables: Path, suite: TaskSuite) -> None:
    if not _has_rows(tables, suite, before.train_until, split.train_until, EVERYONE):
        raise UserError(
            f"no interaction on a trained surface is between the cut of the data set ({_iso(before.train_until)}) and "
            f"the new cut ({_iso(split.train_until)}), so that nothing can be trained in addition. Append more days, "
            f"or move the split."
        )


def _has_rows(tables: Path, suite: TaskSuite, after: int, until: int, members: tuple[float, float]) -> bool:
    """Whether a part of the members has interactions on a trained surface in a time range."""
    field = pyarrow.dataset.field
    first, last = (pa.scalar(time, TIMESTAMP) for time in (after, until))
    rows = pyarrow.dataset.dataset(tables / "interactions.parquet").to_batches(
        columns=["member_id"],
        filter=(field("timestamp") > first)
        & (field("timestamp") <= last)
        & field("surface").isin(sorted(suite.trained_surfaces)),
    )
    return any(are_in_part(hash_ids(batch["member_id"].unique().to_pylist()), members).any() for batch in rows)


def _bins(name: str, config: DatasetConfig, data: DataFolder, folder: Path, split: Split, phases: Phases) -> BinsPlan:
    """Write a folder of bins: those that exist, and those of the further training rows."""
    bundle, after = data.bundle(), data.info.split.train_until
    members = _PARTS.get(name)
    if name == "bins" and "evaluation" not in _folders(data):
        members = EVERYONE
    with phases.phase(name, unit="bins") as progress:
        added = None
        if members is not None and _has_rows(folder / "tables", bundle.suite, after, split.train_until, members):
            added = folder / DAYS / name
            build_bins(
                folder / "tables",
                bundle.compiler(),
                split,
                added,
                members=members,
                variation=config.variation if name == "bins" else None,  # evaluation reads the first forms
                after=after,
                slates=config.slates,
                on_progress=lambda done, total: progress.update(done, total=total),
            )
        plan = extend_bins(data.folder / name, added, folder / name)
        progress.update(plan.n_bins)
    return plan


def _finish(
    config: DatasetConfig,
    data: DataFolder,
    folder: Path,
    *,
    days: Prepared,
    split: Split,
    plans: Mapping[str, BinsPlan],
    phases: Phases,
) -> dict[str, Any]:
    """Write the card, whose counts of removed rows and identifiers are those of all days, and `dataset.json`."""
    info, before = data.info, read_card(data.folder)
    inputs = [*info.inputs, *days.inputs.source]
    card = dataset_card(
        config,
        folder,
        inputs=inputs,
        suite=data.bundle().suite,
        split=split,
        quarantine=days.quarantine,
        removed=days.removed,
        prompt_digest=info.prompt_digest,
        plans=plans,
        seconds=phases.seconds,
        appended_to=info.digest,
    )
    for name in ("quarantined", "removed"):
        card[name] = _added(before[name], card[name])
    card["members_opted_out"] += before["members_opted_out"]
    card["mix"] = before.get("mix", {})  # corpora stay as they are
    write_card(card, folder)
    DatasetInfo(
        source=config.source,
        split=split,
        has_true_probabilities=info.has_true_probabilities,
        config_digest=config_digest(config),
        prompt_digest=info.prompt_digest,
        commit=source_commit(),
        gates=config.release.gates,
        inputs=inputs,
        appended_to=info.digest,
        key_id=info.key_id,
    ).write(folder)
    return card


def _added(
    before: Mapping[str, Mapping[str, int]], after: Mapping[str, Mapping[str, int]]
) -> dict[str, dict[str, int]]:
    """Return the sums of counts."""
    names = dict.fromkeys([*before, *after])
    return {name: dict(Counter(before.get(name, {})) + Counter(after.get(name, {}))) for name in names}


def _iso(microseconds: int) -> str:
    return datetime.fromtimestamp(microseconds // 1_000_000, UTC).isoformat()
