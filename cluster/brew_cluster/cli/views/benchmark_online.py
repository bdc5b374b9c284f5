"""The tables of `brew360 benchmark online`."""

from typing import TYPE_CHECKING

from brew_cluster.cli.views.table import add_row, make_table, print_table
from brew_eval.report.tables import figure_text
from brew_platform.console.plain_console import PlainConsole

if TYPE_CHECKING:
    from brew_cluster.jobs.benchmark_online import OnlineEvaluation

__all__ = ["show_online"]


def show_online(console: PlainConsole, evaluation: "OnlineEvaluation") -> None:
    """Print how many candidates have an event, and the figures of each version by task."""
    numbers = ("joined", "unjoined", "too young")
    title = f"Candidates, by event within {evaluation.window / 86_400e6:g} days"
    counts = make_table("role", "version", *numbers, title=title, right={"version", *numbers})
    figures = make_table("role", "version", "task", "rows", "AUC", "log loss", right={"version", "rows"})
    for arm in evaluation.arms:
        add_row(counts, arm.role, arm.version, *(f"{n:,}" for n in (arm.joined, arm.unjoined, arm.too_young)))
        for name, task in arm.report.tasks.items():
            texts = [figure_text(task.figures.get(figure)) for figure in ("auc", "logloss")]
            add_row(figures, arm.role, arm.version, name, f"{task.counts.used:,}", *texts)
    print_table(console, counts, empty="no version has answers.")
    print_table(console, figures, empty="no task has rows.")
    console.print(
        f"{evaluation.known_events:,} of {evaluation.events:,} events are of logged answers. Left out: "
        f"{evaluation.replaced:,} rows of answers that were replaced, and {evaluation.not_received:,} of candidates "
        f"that no caller received."
    )
