"""The table of a benchmark."""

from collections.abc import Mapping
from dataclasses import replace

from brew_cluster.cli.views.table import add_row, make_table
from brew_platform.console.plain_console import PlainConsole
from brew_serve.benchmark import TaskQuality

__all__ = ["show_quality"]


def show_quality(console: PlainConsole, quality: Mapping[str, TaskQuality], *, title: str, column: str) -> None:
    """Print the AUC of each task between popularity and the best reachable one, and those of further baselines.

    Args:
        console: Receives the table.
        quality: Figures by task.
        title: Of the table.
        column: Heading of the model's AUC.
    """
    figures = ["rows", "popularity", column, "best", "gap closed", "logloss"]
    table = make_table("task", *figures, title=title, right=figures)
    for name, task in quality.items():
        aucs = [_auc(task.baseline_auc), _auc(task.auc), _auc(task.best_auc)]
        add_row(table, name, f"{task.rows:,}", *aucs, _closed(task), f"{task.logloss:.4f}")
        for baseline, auc in task.other_aucs.items():
            add_row(table, f"  {baseline}", "", "", _auc(auc), "", "-" if auc is None else _closed(task, auc), "")
    console.print(table)


def _auc(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _closed(task: TaskQuality, auc: float | None = None) -> str:
    """Return the share of the gap that the model, or another AUC, closes."""
    share = (task if auc is None else replace(task, auc=auc)).gap_closed
    return "-" if share is None else f"{share:.0%}"
