"""The tables of benchmarks and comparisons."""

from rich.table import Table

from brew_cluster.cli.views.table import add_row, make_table
from brew_eval.baselines.by_name import REFERENCE
from brew_eval.compare import Comparison
from brew_eval.intervals import Figure
from brew_eval.report.report import Report, TaskReport
from brew_eval.report.tables import comparison_tables, interval_note
from brew_platform.console.plain_console import PlainConsole

__all__ = ["show_comparison", "show_report"]


def show_report(console: PlainConsole, report: Report, *, title: str) -> None:
    """Print the AUC of each task between the entity's mean label and the best reachable one; T1 and T2 apart.

    Below the tasks of a tier are their mean, and the mean AUC of each other baseline.

    Args:
        console: Receives the table.
        report: The report.
        title: Of the table.
    """
    by_member = any(task.figures["uauc"].value is not None for task in report.tasks.values())
    figures = ["rows", "entity mean", "AUC", *(["by member"] if by_member else []), "best", "gap closed", "logloss"]
    table = make_table("task", *figures, title=title, right=figures)
    tiers = sorted({task.tier for task in report.tasks.values()})
    for tier in tiers:
        tasks = {name: task for name, task in report.tasks.items() if task.tier == tier}
        if table.row_count:
            table.add_section()
        for name, task in tasks.items():
            baseline = task.baselines.get(REFERENCE)
            cells = [_number(baseline.figures["auc"]) if baseline else "-", _number(task.figures["auc"])]
            cells += [_number(task.figures["uauc"])] if by_member else []
            add_row(
                table, name, f"{task.counts.used:,}", *cells, _number(task.best_auc), _closed(task),
                _number(task.figures["logloss"]),
            )  # fmt: skip
        _add_means(table, report, tier, tasks=len(tasks), by_member=by_member)
    console.print(table)


def show_comparison(console: PlainConsole, comparison: Comparison) -> None:
    """Print the means and the figures of each task with paired differences; the report has the slices."""
    console.print(f"A: {comparison.a.name}, B: {comparison.b.name}")
    for part in comparison_tables(comparison):
        if "slices" not in part.title:
            table = make_table(*part.columns, title=part.title)
            for row in part.rows:
                add_row(table, *row)
            console.print(table)
    for text in comparison.warnings:
        console.print(f"not in the figures: {text}")
    console.print(interval_note(comparison.config))


def _add_means(table: Table, report: Report, tier: str, *, tasks: int, by_member: bool) -> None:
    group = report.groups[tier]
    extra = [""] if by_member else []
    if tasks > 1:
        uauc = [_number(group.figures["uauc"])] if by_member else []
        cells = [_number(group.baselines.get(REFERENCE)), _number(group.figures["auc"]), *uauc, "", ""]
        add_row(table, f"mean of {tasks} {tier} tasks", "", *cells, _number(group.figures["logloss"]))
    for name, auc in group.baselines.items():
        if name != REFERENCE:
            add_row(table, f"  {name}", "", "", _number(auc), *extra, "", "", "")


def _number(figure: Figure | None) -> str:
    return "-" if figure is None or figure.value is None else f"{figure.value:.4f}"


def _closed(task: TaskReport) -> str:
    """Return the share of the gap between the reference and the best AUC that the model closes."""
    baseline = task.baselines.get(REFERENCE)
    share = baseline.gap_closed.value if baseline else None
    return "-" if share is None else f"{share:.0%}"
