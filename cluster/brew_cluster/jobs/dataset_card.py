"""The card of a data set: what it was made from and what it contains, as `card.json`, `card.md` and `plots/`."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset

from brew_cluster.cli.views.bar_chart import bar_chart_svg
from brew_cluster.jobs.dataset_config import DatasetConfig
from brew_data.data_folder import InputFile
from brew_data.mixing.mix_file import MIX_FILE, read_mix
from brew_data.packed_bins.packed_documents import document_figures
from brew_data.packed_bins.plan import BinsPlan
from brew_data.privacy.opt_out import OPTED_OUT
from brew_data.privacy.report import Removals
from brew_data.prompts.suite import TaskSuite
from brew_data.sources.base import Source
from brew_data.sources.quarantine import Quarantine
from brew_data.split import Split
from brew_platform.config import config_digest
from brew_platform.console.plain_console import escape_controls
from brew_platform.errors import DataError
from brew_platform.files import replace_atomically
from brew_platform.provenance import now, source_commit

__all__ = ["dataset_card", "input_files", "read_card", "write_card"]

FORMAT_VERSION = 2  # 1: without the documents of the bins
CARD, PLOTS = "card.json", "plots"


def dataset_card(
    config: DatasetConfig,
    folder: Path,
    *,
    inputs: Sequence[InputFile],
    suite: TaskSuite,
    split: Split,
    quarantine: Quarantine,
    removed: Removals,
    prompt_digest: str,
    plans: Mapping[str, BinsPlan],
    seconds: Mapping[str, float],
    appended_to: str | None = None,
) -> dict[str, Any]:
    """Describe a data set. Its tables and bins are read as a stream.

    Args:
        config: The configuration that it was built with.
        folder: Contains `tables/` and the folders of bins.
        inputs: The files that its source read.
        suite: The suite of its prompts.
        split: The cut in time.
        quarantine: The rows that were left out.
        removed: The rows that were removed, or from which something was, by table or field and by what it was.
        prompt_digest: Of the `PromptBundle`.
        plans: The plan of each folder of bins.
        seconds: Seconds of each phase.
        appended_to: The digest of the data set whose rows and bins it continues.

    Returns:
        Plain data for `write_card`.
    """
    tables = folder / "tables"
    counts, times = _interactions(tables, split)
    opted_out = _column_counts(tables, "members", "opted_out")
    mix = {name: read_mix(folder / name) for name in plans if (folder / name / MIX_FILE).is_file()}
    return {
        "format_version": FORMAT_VERSION,
        "created": now(),
        "commit": source_commit(),
        "source": config.source,
        "inputs": [asdict(file) for file in inputs],
        "config": json.loads(json.dumps(asdict(config), default=str)),
        "config_digest": config_digest(config),
        "appended_to": appended_to,
        "suite": suite.name,
        "prompt_digest": prompt_digest,
        "rows": counts.total(),
        "members": opted_out.total(),
        "members_opted_out": opted_out[True] + removed.get("members", {}).get(OPTED_OUT, 0),
        "entities": dict(sorted(_column_counts(tables, "entities", "entity_type").items())),
        "time_range": [_iso(time) for time in times],
        "split": {name: _iso(getattr(split, name)) for name in ("train_until", "benchmark_after", "until")},
        "actions": _actions(counts),
        "tasks": _tasks(counts, suite),
        "quarantined": quarantine.counts() | _quarantined(mix),
        "removed": removed,
        "bins": {name: _bins(plan, folder / name) for name, plan in plans.items()},
        "mix": mix,
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
    }


def input_files(source: Source) -> list[InputFile]:
    """Return the files that a source read, with their digests; none for a source that generates its tables."""
    locations = source.input_files() if hasattr(source, "input_files") else []
    return [InputFile(file=location.name, sha256=location.digest()) for location in locations]


def write_card(card: Mapping[str, Any], folder: Path) -> None:
    """Write `card.json`, `card.md` and the plots that it shows."""
    replace_atomically(folder / CARD, json.dumps(card, indent=1, ensure_ascii=False) + "\n")
    (folder / PLOTS).mkdir(exist_ok=True)
    plots = dict(_plots(card))
    for name, (title, rows) in plots.items():
        replace_atomically(folder / PLOTS / f"{name}.svg", bar_chart_svg(rows, title=title))
    images = {name: f"![{title}]({PLOTS}/{name}.svg)" for name, (title, _) in plots.items()}
    replace_atomically(folder / "card.md", _markdown(card, images))


def read_card(folder: Path) -> dict[str, Any]:
    """Read the `card.json` of a data folder.

    Raises:
        DataError: It is missing, damaged, or of another release.
    """
    path = folder / CARD
    try:
        card = dict(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"the card {path} cannot be read ({error}). Build the data again.") from error
    if card.get("format_version") != FORMAT_VERSION:
        raise DataError(
            f"{path} has format_version {card.get('format_version')!r}, but this release reads {FORMAT_VERSION} only. "
            f"Build the data again with this release."
        )
    return card


_Counts = Counter[tuple[str, str, str]]
"""Interactions by surface, action and part: training, benchmark or neither."""


def _batches(tables: Path, name: str, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    return pyarrow.dataset.dataset(tables / f"{name}.parquet").to_batches(
        columns=list(columns), batch_readahead=2, fragment_readahead=1
    )


def _interactions(tables: Path, split: Split) -> tuple[_Counts, tuple[int, int]]:
    """Count the interactions, and find the first and the last time."""
    counts: _Counts = Counter()
    times: list[int] = []
    for batch in _batches(tables, "interactions", ["surface", "action", "timestamp"]):
        if not batch.num_rows:
            continue
        time = batch["timestamp"].cast(pa.int64())
        bounds = pc.min_max(time)
        times += [bounds["min"].as_py(), bounds["max"].as_py()]
        is_benchmark = pc.and_(pc.greater(time, split.benchmark_after), pc.less_equal(time, split.until))
        part = pc.if_else(
            pc.less_equal(time, split.train_until), "training", pc.if_else(is_benchmark, "benchmark", "neither")
        )
        rows = pa.table({"surface": batch["surface"], "action": batch["action"], "part": part})
        for row in rows.group_by(rows.column_names).aggregate([([], "count_all")]).to_pylist():
            counts[row["surface"], row["action"], row["part"]] += row["count_all"]
    return counts, (min(times, default=0), max(times, default=0))


def _column_counts(tables: Path, name: str, column: str) -> Counter[Any]:
    """Count the values of a column."""
    counts: Counter[Any] = Counter()
    for batch in _batches(tables, name, [column]):
        for item in pc.value_counts(batch[column]).to_pylist():
            counts[item["values"]] += item["counts"]
    return counts


def _actions(counts: _Counts) -> dict[str, dict[str, int]]:
    actions: dict[str, Counter[str]] = {}
    for (surface, action, _), count in sorted(counts.items()):
        actions.setdefault(surface, Counter())[action] += count
    return {surface: dict(found.most_common()) for surface, found in actions.items()}


def _tasks(counts: _Counts, suite: TaskSuite) -> dict[str, dict[str, Any]]:
    tasks: dict[str, dict[str, Any]] = {}
    for task in suite.tasks:
        positive = set(suite.positive_actions(task))
        figures: dict[str, Any] = {
            "surface": task.surface,
            "in_training": task.in_training,
            "outcomes": len(suite.outcomes(task)),
            "history": task.history.name,
        }
        for name in ("training", "benchmark"):
            rows = {a: count for (s, a, part), count in counts.items() if (s, part) == (task.surface, name)}
            shown, clicked = sum(rows.values()), sum(count for action, count in rows.items() if action in positive)
            figures[f"{name}_rows"] = shown
            figures[f"{name}_positive_rate"] = round(clicked / shown, 6) if shown else None
        tasks[task.name] = figures
    return tasks


def _bins(plan: BinsPlan, folder: Path) -> dict[str, Any]:
    """Return the figures of a plan, without the list of its files, and those of its documents."""
    figures = {key: value for key, value in asdict(plan).items() if key not in ("format_version", "files")}
    return {**figures, "documents": asdict(document_figures(folder, plan))}


def _quarantined(mix: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, int]]:
    """Return the rows that corpora left out, by corpus and source, and reason."""
    return {
        f"{name}/{source}": reasons for name, corpus in mix.items() for source, reasons in corpus["quarantined"].items()
    }


def _iso(microseconds: int) -> str:
    return datetime.fromtimestamp(microseconds // 1_000_000, UTC).isoformat()


def _plots(card: Mapping[str, Any]) -> Iterator[tuple[str, tuple[str, list[tuple[str, float]]]]]:
    """Yield name, title and rows of each plot."""
    actions = [(f"{surface}: {action}", n) for surface, found in card["actions"].items() for action, n in found.items()]
    yield "actions", ("interactions by surface and action", actions)
    tokens = [
        (f"{name}: {kind}", plan[key])
        for name, plan in card["bins"].items()
        for kind, key in (("tokens", "n_tokens"), ("tokens cut", "tokens_cut"))
    ]
    yield "tokens", ("tokens of the documents, and tokens cut to fit the budgets", tokens)
    for name, plan in card["bins"].items():
        for key, title in (("tokens", "tokens"), ("loss_tokens", "tokens that carry loss")):
            buckets = plan["documents"][key]["buckets"]
            rows = [(f"{bucket['first']:,} to {bucket['last']:,}", bucket["documents"]) for bucket in buckets]
            yield f"{name}-{key.replace('_', '-')}", (f"{name}: documents by {title}", rows)


def _markdown(card: Mapping[str, Any], images: Mapping[str, str]) -> str:
    entities = ", ".join(f"{count:,} {kind}" for kind, count in card["entities"].items())
    facts = [
        ("source", card["source"]),
        ("suite", card["suite"]),
        ("created", f"{card['created']}, commit {card['commit']}"),
        ("interactions", f"{card['rows']:,}"),
        ("members", f"{card['members']:,} ({card['members_opted_out']:,} opted out)"),
        ("entities", entities),
        ("time", " to ".join(card["time_range"])),
        ("training", f"up to {card['split']['train_until']}"),
        ("benchmark", f"after {card['split']['benchmark_after']}, up to {card['split']['until']}"),
        ("prompt digest", card["prompt_digest"]),
        ("config digest", card["config_digest"]),
        ("continues", card["appended_to"] or "no other data set"),
    ]
    tasks = [
        (
            name,
            task["surface"],
            "yes" if task["in_training"] else "no",
            task["outcomes"],
            task["history"],
            *(
                figure
                for part in ("training", "benchmark")
                for figure in (f"{task[f'{part}_rows']:,}", _rate(task[f"{part}_positive_rate"]))
            ),
        )
        for name, task in card["tasks"].items()
    ]
    actions = [(s, a, f"{count:,}") for s, found in card["actions"].items() for a, count in found.items()]
    bins = [
        (
            name,
            *(f"{plan[key]:,}" for key in ("n_documents", "n_tokens")),
            f"{plan['documents']['loss_share']:.1%}",
            *(f"{plan[key]:,}" for key in ("n_bins", "context_length")),
            f"{plan['fill']:.1%}",
            *(f"{plan[key]:,}" for key in ("fields_cut", "tokens_cut", "turns_dropped")),
        )
        for name, plan in card["bins"].items()
    ]
    documents = [
        (name, kind, f"{found['mean']:,}", *(f"{value:,}" for value in found["quantiles"].values()))
        for name, plan in card["bins"].items()
        for kind, found in (("all", plan["documents"]["tokens"]), ("with loss", plan["documents"]["loss_tokens"]))
    ]
    mix = [
        (
            name,
            source,
            f"{found['tokens']:,}",
            f"{found['share']:.1%}",
            f"{found['documents']:,}",
            f"{found['tokens_available']:,}",
            f"{found['repeats']:.2f}",
        )
        for name, corpus in card.get("mix", {}).items()
        for source, found in corpus["sources"].items()
    ]
    quarantined = [
        (table, reason, f"{n:,}") for table, found in card["quarantined"].items() for reason, n in found.items()
    ]
    removed = [(name, kind, f"{n:,}") for name, kinds in card["removed"].items() for kind, n in kinds.items()]
    parts = ("training rows", "positive", "benchmark rows", "positive")
    sections = [
        "# Data set",
        _table(("", ""), facts),
        "## Tasks",
        _table(("task", "surface", "trained", "outcomes", "history", *parts), tasks),
        "## Actions",
        _table(("surface", "action", "rows"), actions),
        images["actions"],
        "## Bins",
        _table(
            (
                *("folder", "documents", "tokens", "with loss", "bins", "context", "fill"),
                *("fields cut", "tokens cut", "turns dropped"),
            ),
            bins,
        ),
        images["tokens"],
        "### Tokens per document",
        _table(("folder", "tokens", "mean", "5%", "50%", "95%", "longest"), documents),
        *(image for name, image in images.items() if name not in ("actions", "tokens")),
        "## Mix",
        _table(("folder", "source", "tokens", "share", "documents", "tokens of the source", "repeats"), mix),
        "## Quarantined rows",
        _table(("table", "reason", "rows"), quarantined),
        "## Removed for privacy",
        _table(("table or field", "removed", "rows"), removed),
        "## Input files",
        _table(("file", "sha256"), [(item["file"], item["sha256"]) for item in card["inputs"]]),
    ]
    return "\n\n".join(sections) + "\n"


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a table, or a sentence if it has no rows. Text from outside cannot end a cell or a line."""
    if not rows:
        return "None."
    cells = [[escape_controls(str(cell)).replace("|", r"\|") for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in [list(head), ["---"] * len(head), *cells])


def _rate(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"
