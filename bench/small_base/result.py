"""The figures of `make base-model`: bench/out/small_base.json and the table."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from brew_platform.errors import DataError

__all__ = ["curve_point", "gap_closed", "show"]

REGRESSIONS = ("matches", "text", "history")  # columns of the ablation that stand beside the model


def curve_point(
    *, model: str, point: str, tokens: int, report: Mapping[str, Any], regressions: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """Return the figures of a model at a point of its training.

    Args:
        model: Name of its size.
        point: Name of the point.
        tokens: Tokens that it was trained on.
        report: Of `brew360 benchmark`.
        regressions: By task, from `bench.small_base.regressions`.

    Returns:
        `rows` and `rows_digest` of the interactions that were scored, and by task: `rows`, `is_trained`, `auc`,
        `popularity`, `best`, `gap_closed`, and the AUCs of the regressions, which are those of a larger graph with the
        same seed.
    """
    tasks = {}
    for name, figures in report["tasks"].items():
        known = regressions[name]
        tasks[name] = {
            "is_trained": known["is_trained"],
            "rows": figures["rows"],
            "auc": figures["auc"],
            "popularity": figures["baseline_auc"],
            "best": figures["best_auc"],
            "gap_closed": figures["gap_closed"],
            **{regression: known[regression] for regression in REGRESSIONS},
        }
    return {
        "model": model,
        "point": point,
        "tokens": tokens,
        "rows": report["sample"]["rows"],
        "rows_digest": report["sample"]["rows_digest"],
        "tasks": tasks,
    }


def gap_closed(point: Mapping[str, Any], *, is_trained: bool) -> float | None:
    """Return the closed part of the gaps between popularity and the best, summed over tasks.

    Single tasks with few rows have noisy gaps; the ratio of sums gives them little weight.

    Args:
        point: From `curve_point`.
        is_trained: Whether to take the tasks that are trained, or those that are not.

    Returns:
        Sum of (AUC - popularity) over sum of (best - popularity); None without a task, or without a gap.
    """
    tasks = [
        task
        for task in point["tasks"].values()
        if task["is_trained"] == is_trained and None not in (task["auc"], task["popularity"], task["best"])
    ]
    gap = sum(task["best"] - task["popularity"] for task in tasks)
    return sum(task["auc"] - task["popularity"] for task in tasks) / gap if gap else None


def show(points: Sequence[Mapping[str, Any]], console: Console) -> None:
    """Print the AUC of each task at each point, between popularity and the best.

    Raises:
        DataError: The points were not measured on the same rows.
    """
    if len({point["rows_digest"] for point in points}) > 1:
        raise DataError(
            "the models were measured on different rows, so their figures cannot be compared. Run again with --fresh."
        )
    if not points:
        return
    table = Table(title="AUC on the last month of a graph that no model was trained on", title_justify="left")
    table.add_column("task")
    table.add_column("")
    for name in ("rows", "popularity", *REGRESSIONS):
        table.add_column(name, justify="right")
    for point in points:
        table.add_column(f"{point['model']} {point['point']}\n{point['tokens'] / 1e6:.1f}M tokens", justify="right")
    table.add_column("best", justify="right")
    for name, first in points[0]["tasks"].items():
        values = [first["popularity"], *(first[regression] for regression in REGRESSIONS)]
        values += [*(point["tasks"][name]["auc"] for point in points), first["best"]]
        part = "T1" if first["is_trained"] else "T2"
        table.add_row(name, part, f"{first['rows']:,}", *map(_number, values))
    for is_trained, label in ((True, "gap closed, T1"), (False, "gap closed, T2")):
        means = [gap_closed(point, is_trained=is_trained) for point in points]
        table.add_row(label, "", "", *[""] * (1 + len(REGRESSIONS)), *map(_number, means), "")
    console.print(table)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
