"""The table of a benchmark."""

from collections.abc import Mapping

from rich.console import Console
from rich.table import Table
from rich.text import Text

from brew_serve.benchmark import TaskQuality

__all__ = ["show_quality"]


def show_quality(console: Console, quality: Mapping[str, TaskQuality], *, title: str, column: str) -> None:
    """Print the AUC of each task between the popularity baseline and the best reachable one.

    Args:
        console: Receives the table.
        quality: Figures by task.
        title: Of the table.
        column: Heading of the model's AUC.
    """
    table = Table(title=Text(title), title_justify="left")
    for heading in ["task", "rows", "popularity", column, "best", "gap closed", "logloss"]:
        table.add_column(heading, justify="left" if heading == "task" else "right")
    for name, task in quality.items():
        table.add_row(
            Text(name),
            f"{task.rows:,}",
            _auc(task.baseline_auc),
            f"[bold]{_auc(task.auc)}[/bold]",
            _auc(task.best_auc),
            "-" if task.gap_closed is None else f"{task.gap_closed:.0%}",
            f"{task.logloss:.4f}",
        )
    console.print(table)


def _auc(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
