"""What the demo leaves behind: `report.json`, and the tables that it prints.

Owns: their form. Does not own: the figures, which each stage measures.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from brew_serve.benchmark import TaskQuality

__all__ = ["quality_table", "ranking_table", "task_figures", "write_report"]


def write_report(path: Path, report: Mapping[str, object]) -> None:
    """Writes the report as JSON, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(path.name + ".part")
    draft.write_text(json.dumps(report, indent=2) + "\n")
    draft.replace(path)


def task_figures(quality: TaskQuality) -> dict[str, object]:
    """One task's part of the report."""
    return {**asdict(quality), "gap_closed": quality.gap_closed}


def quality_table(console: Console, quality: Mapping[str, TaskQuality]) -> None:
    """Prints AUC per task between the popularity baseline and the best reachable one."""
    table = Table(title="Benchmark: rows strictly later than training", title_justify="left")
    for column in ["task", "rows", "positive", "popularity AUC", "brew360 AUC", "best AUC", "gap closed", "logloss"]:
        table.add_column(column, justify="left" if column == "task" else "right")
    for name, task in quality.items():
        table.add_row(
            name,
            f"{task.rows:,}",
            f"{task.positive_rate:.0%}",
            _auc(task.baseline_auc),
            f"[bold]{_auc(task.auc)}[/bold]",
            _auc(task.best_auc),
            "unknown" if task.gap_closed is None else f"{task.gap_closed:.0%}",
            f"{task.logloss:.4f}",
        )
    console.print(table)


def ranking_table(console: Console, title: str, rows: Sequence[tuple[str, float]]) -> None:
    """Prints one ranked slate: (what the entity says, probability), best first."""
    table = Table(title=title, title_justify="left")
    for column in ["", "candidate", "probability"]:
        table.add_column(column, justify="left" if column == "candidate" else "right")
    for place, (text, probability) in enumerate(rows, start=1):
        table.add_row(str(place), text, f"{probability:.3f}")
    console.print(table)


def _auc(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4f}"
