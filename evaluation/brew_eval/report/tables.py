"""The tables of reports and comparisons, as text; Markdown and HTML show the same ones."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from brew_eval.compare import Comparison
from brew_eval.intervals import Figure
from brew_eval.measurement import FIGURES
from brew_eval.report.report import Report
from brew_eval.scored_rows import ScoredRowsInfo

__all__ = ["NAMES", "Table", "comparison_tables", "figure_text", "interval_note", "origin", "report_tables"]

NAMES = {"auc": "AUC", "uauc": "AUC by member", "ndcg": "NDCG", "logloss": "log loss", "ece": "ECE"}
_NONE = "-"


@dataclass(frozen=True)
class Table:
    """A table of texts."""

    title: str
    columns: list[str]
    rows: list[list[str]]


def figure_text(figure: Figure | None, *, signed: bool = False) -> str:
    """Return a figure with its interval, as in `.7512 [.7433, .7590]`."""
    if figure is None or figure.value is None:
        return _NONE
    text = _number(figure.value, signed)
    if figure.low is None or figure.high is None:
        return text
    return f"{text} [{_number(figure.low, signed)}, {_number(figure.high, signed)}]"


def origin(info: ScoredRowsInfo) -> dict[str, str]:
    """Return where scored rows come from, as pairs of name and text."""
    cut = None if info.train_until is None else datetime.fromtimestamp(info.train_until // 1_000_000, UTC).isoformat()
    pairs: dict[str, Any] = {
        "model": info.name,
        "version": info.version,
        "suite": info.suite,
        "history": info.history,
        "trained until": cut,
        "data": info.data_digest[:12],
        "calibration": info.calibration and info.calibration[:12],
        "seed": info.seed,
        "scored": info.date,
        "commit": info.commit,
    }
    return {name: str(value) for name, value in pairs.items() if value is not None}


def report_tables(report: Report) -> list[Table]:
    """Return the tables of a report: means, tasks, differences to baselines, slices."""
    names = list(report.baselines)
    means = Table(
        "Means over tasks",
        ["group", "tasks", *NAMES.values(), *(f"AUC difference to {name}" for name in names)],
        [
            [
                group,
                str(part.tasks),
                *_texts(part.figures, FIGURES),
                *(figure_text(part.differences.get(name), signed=True) for name in names),
            ]
            for group, part in report.groups.items()
        ],
    )
    tasks = Table(
        "Tasks",
        ["task", "tier", "surface", "rows", "positive", *NAMES.values(), "best AUC"],
        [
            [
                name,
                task.tier,
                task.surface,
                f"{task.counts.used:,}",
                _NONE if task.counts.positive_rate is None else f"{task.counts.positive_rate:.1%}",
                *_texts(task.figures, FIGURES),
                figure_text(task.best_auc),
            ]
            for name, task in report.tasks.items()
        ],
    )
    baselines = Table(
        "Baselines",
        ["task", "baseline", "AUC", "AUC difference", "log loss", "log loss difference", "gap closed"],
        [
            [
                name,
                other,
                figure_text(part.figures["auc"]),
                figure_text(part.differences["auc"], signed=True),
                figure_text(part.figures["logloss"]),
                figure_text(part.differences["logloss"], signed=True),
                figure_text(part.gap_closed),
            ]
            for name, task in report.tasks.items()
            for other, part in task.baselines.items()
        ],
    )
    slices = Table(
        "Slices",
        ["task", "by", "slice", "rows", "AUC", "log loss", *(f"AUC of {name}" for name in names)],
        [
            [
                name,
                part.dimension,
                part.name,
                f"{part.rows:,}",
                *_texts(part.figures, ("auc", "logloss")),
                *(figure_text(part.baselines.get(other)) for other in names),
            ]
            for name, task in report.tasks.items()
            for part in task.slices
        ],
    )
    return [table for table in (means, tasks, baselines, slices) if table.rows]


def comparison_tables(comparison: Comparison) -> list[Table]:
    """Return the tables of a comparison: means, figures, slices."""
    heads = ["A", "B", "difference", "A is"]
    means = [
        [group, *_change(change.a, change.b, change.difference), change.verdict("auc")]
        for group, change in comparison.groups.items()
    ]
    tasks = [
        [name, NAMES[figure], *_change(change.a, change.b, change.difference), change.verdict(figure)]
        for name, task in comparison.tasks.items()
        for figure, change in task.figures.items()
        if change.a.value is not None
    ]
    slices = [
        [
            name,
            part.dimension,
            part.name,
            f"{part.rows:,}",
            *_change(part.auc.a, part.auc.b, part.auc.difference),
            part.auc.verdict("auc"),
        ]
        for name, task in comparison.tasks.items()
        for part in task.slices
    ]
    tables = [
        Table("Mean AUC over tasks", ["group", *heads], means),
        Table("Tasks", ["task", "figure", *heads], tasks),
        Table("AUC of slices", ["task", "by", "slice", "rows", *heads], slices),
    ]
    return [table for table in tables if table.rows]


def interval_note(config: Mapping[str, Any]) -> str:
    """Return how the intervals were computed, from the settings of a report."""
    return (
        f"Intervals: {config['level']:.0%}, bootstrap over members, {config['replicates']:,} replicates, seed "
        f"{config['seed']}. Differences are paired."
    )


def _change(a: Figure, b: Figure, difference: Figure) -> list[str]:
    return [figure_text(a), figure_text(b), figure_text(difference, signed=True)]


def _texts(figures: Mapping[str, Figure], names: Iterable[str]) -> list[str]:
    return [figure_text(figures.get(name)) for name in names]


def _number(value: float, signed: bool) -> str:
    text = f"{value:+.4f}" if signed else f"{value:.4f}"
    return text.replace("0.", ".", 1) if abs(value) < 1 and text.lstrip("+-").startswith("0.") else text
