"""The card of a data set: what it was made from and what it contains, as `card.json` and `card.md`."""

import json
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from brew_cluster.jobs.dataset_config import DatasetConfig
from brew_data.packed_bins.plan import BinsPlan
from brew_data.prompts.suite import TaskSuite
from brew_data.schema import Tables, micros
from brew_data.sources.base import Source
from brew_data.sources.quarantine import Quarantine
from brew_data.split import Split
from brew_data.table_cleaning import ContactCounts
from brew_platform.config import config_digest
from brew_platform.files import replace_atomically
from brew_platform.provenance import source_commit

__all__ = ["dataset_card", "write_card"]

FORMAT_VERSION = 1


def dataset_card(
    config: DatasetConfig,
    *,
    source: Source,
    tables: Tables,
    suite: TaskSuite,
    split: Split,
    quarantine: Quarantine,
    contacts: ContactCounts,
    prompt_digest: str,
    plans: dict[str, BinsPlan],
    seconds: dict[str, float],
) -> dict[str, Any]:
    """Describe a data set.

    Args:
        config: The configuration that it was built with.
        source: The source of its tables.
        tables: Its tables.
        suite: The suite of its prompts.
        split: The cut in time.
        quarantine: The rows that were left out.
        contacts: The rows of which contacts were removed, by field and kind.
        prompt_digest: Of the `PromptBundle`.
        plans: The plan of each folder of bins.
        seconds: Seconds of each phase.

    Returns:
        Plain data for `write_card`.
    """
    times = micros(tables.interactions)
    bounds = pc.min_max(times)
    inputs = source.input_files() if hasattr(source, "input_files") else []
    return {
        "format_version": FORMAT_VERSION,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": source_commit(),
        "source": config.source,
        "inputs": [{"file": location.name, "sha256": location.digest()} for location in inputs],
        "config": json.loads(json.dumps(asdict(config), default=str)),
        "config_digest": config_digest(config),
        "suite": suite.name,
        "prompt_digest": prompt_digest,
        "rows": tables.interactions.num_rows,
        "members": tables.members.num_rows,
        "members_opted_out": int(pc.sum(tables.members["opted_out"]).as_py() or 0),
        "entities": dict(sorted(_counts(tables.entities["entity_type"]).items())),
        "time_range": [_iso(bounds["min"].as_py()), _iso(bounds["max"].as_py())],
        "split": {name: _iso(getattr(split, name)) for name in ("train_until", "benchmark_after", "until")},
        "actions": _actions(tables.interactions),
        "tasks": _tasks(tables.interactions, suite, split),
        "quarantined": quarantine.counts(),
        "contacts_removed": contacts,
        "bins": {name: _figures(plan) for name, plan in plans.items()},
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
    }


def write_card(card: dict[str, Any], folder: Path) -> None:
    """Write `card.json` and `card.md`."""
    replace_atomically(folder / "card.json", json.dumps(card, indent=1, ensure_ascii=False) + "\n")
    replace_atomically(folder / "card.md", _markdown(card))


def _counts(column: pa.ChunkedArray) -> dict[str, int]:
    return {item["values"]: item["counts"] for item in pc.value_counts(column).to_pylist()}


def _actions(rows: pa.Table) -> dict[str, dict[str, int]]:
    counted = rows.group_by(["surface", "action"]).aggregate([("interaction_id", "count")]).to_pylist()
    actions: dict[str, dict[str, int]] = {}
    for row in sorted(counted, key=lambda row: (row["surface"], -row["interaction_id_count"])):
        actions.setdefault(row["surface"], {})[row["action"]] = row["interaction_id_count"]
    return actions


def _tasks(rows: pa.Table, suite: TaskSuite, split: Split) -> dict[str, dict[str, Any]]:
    is_training = pc.less_equal(micros(rows), split.train_until)
    is_benchmark = pc.and_(pc.greater(micros(rows), split.benchmark_after), pc.less_equal(micros(rows), split.until))
    tasks: dict[str, dict[str, Any]] = {}
    for task in suite.tasks:
        positive = pa.array(suite.positive_actions(task), pa.string())
        figures: dict[str, Any] = {"surface": task.surface}
        for name, part in (("training", is_training), ("benchmark", is_benchmark)):
            shown = rows.filter(pc.and_(part, pc.equal(rows["surface"], task.surface)))["action"]
            rate = pc.mean(pc.is_in(shown, value_set=positive).cast(pa.int64())).as_py() if len(shown) else None
            figures[f"{name}_rows"] = len(shown)
            figures[f"{name}_positive_rate"] = None if rate is None else round(rate, 6)
        tasks[task.name] = figures
    return tasks


def _iso(microseconds: int) -> str:
    return datetime.fromtimestamp(microseconds // 1_000_000, UTC).isoformat()


def _markdown(card: dict[str, Any]) -> str:
    lines = [
        "# Data set",
        "",
        "| | |",
        "|---|---|",
        f"| source | {card['source']} |",
        f"| suite | {card['suite']} |",
        f"| created | {card['created']}, commit {card['commit']} |",
        f"| interactions | {card['rows']:,} |",
        f"| members | {card['members']:,} ({card['members_opted_out']:,} opted out) |",
        f"| entities | {', '.join(f'{count:,} {kind}' for kind, count in card['entities'].items())} |",
        f"| time | {card['time_range'][0]} to {card['time_range'][1]} |",
        f"| training | up to {card['split']['train_until']} |",
        f"| benchmark | after {card['split']['benchmark_after']}, up to {card['split']['until']} |",
        f"| prompt digest | {card['prompt_digest']} |",
        f"| config digest | {card['config_digest']} |",
        "",
        "## Tasks",
        "",
        "| task | surface | training rows | positive | benchmark rows | positive |",
        "|---|---|---|---|---|---|",
    ]
    for name, task in card["tasks"].items():
        rates = [task[f"{part}_positive_rate"] for part in ("training", "benchmark")]
        shown = ["-" if rate is None else f"{rate:.1%}" for rate in rates]
        lines.append(
            f"| {name} | {task['surface']} | {task['training_rows']:,} | {shown[0]} | {task['benchmark_rows']:,} | "
            f"{shown[1]} |"
        )
    lines += ["", "## Actions", "", "| surface | action | rows |", "|---|---|---|"]
    lines += [
        f"| {surface} | {action} | {count:,} |"
        for surface, actions in card["actions"].items()
        for action, count in actions.items()
    ]
    lines += ["", "## Bins", "", "| folder | figures |", "|---|---|"]
    for name, plan in card["bins"].items():
        figures = ", ".join(f"{key} {_number(value)}" for key, value in plan.items() if key != "prompt_digest")
        lines.append(f"| {name} | {figures} |")
    lines += ["", "## Quarantined rows", ""]
    reasons = [
        f"| {table} | {reason.replace('|', chr(92) + '|')} | {count:,} |"
        for table, counts in card["quarantined"].items()
        for reason, count in counts.items()
    ]
    lines += ["| table | reason | rows |", "|---|---|---|", *reasons] if reasons else ["None."]
    lines += ["", "## Removed contacts", ""]
    removed = [
        f"| {name} | {kind} | {count:,} |"
        for name, kinds in card["contacts_removed"].items()
        for kind, count in kinds.items()
    ]
    lines += ["| field | contacts | rows |", "|---|---|---|", *removed] if removed else ["None."]
    lines += ["", "## Input files", ""]
    lines += [f"- {item['file']}, sha256 {item['sha256']}" for item in card["inputs"]] or ["None."]
    return "\n".join(lines) + "\n"


def _number(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _figures(plan: BinsPlan) -> dict[str, Any]:
    """Return the plan without the list of its files."""
    return {key: value for key, value in asdict(plan).items() if key not in ("format_version", "files")}
