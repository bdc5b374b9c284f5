"""Prints the explanation of a score: the prompt turn by turn, the labels, and what changes without each part."""

from rich.text import Text

from brew_cluster.cli.views.table import add_row, make_table
from brew_eval.explanation import Explanation
from brew_eval.report.explanation import NOTE, change_table, explanation_notes, label_table
from brew_eval.report.tables import Table
from brew_platform.console.plain_console import PlainConsole, escape_controls

__all__ = ["show_explanation"]

MARGIN = 14  # characters for the name of a part


def show_explanation(console: PlainConsole, explanation: Explanation, *, member: str, top: int) -> None:
    """Print an explanation.

    Args:
        console: Receives it.
        explanation: The explanation.
        member: The member, as the tables name it.
        top: Number of changes to print.
    """
    origin = explanation.origin
    console.print(
        f"{origin['model']}: task {origin['task']}, interaction {origin['interaction']} of member {member}, "
        f"{origin['time']}; {explanation.tokens:,} tokens, history {origin['history']}",
        style="bold",
    )
    for part in explanation.prompt:
        line = Text(f"{escape_controls(part.name, console.encoding):{MARGIN}}", style="bold")
        line.append(escape_controls(part.text, console.encoding), style="not bold")
        console.print(line, soft_wrap=True)
    _show(console, label_table(explanation))
    odds = "not finite" if explanation.log_odds is None else f"{explanation.log_odds:+.4f}"
    console.print(
        f"P(positive): {explanation.score:.4f}, log-odds {odds}. The member's action: {origin['action']}"
        f"{'' if explanation.outcome else ', which is not an outcome of the task'}."
    )
    if explanation.changes:
        _show(console, change_table(explanation.changes[:top]))
        if len(explanation.changes) > top:
            console.print(f"{top:,} of {len(explanation.changes):,} parts; --top shows more, --json and --report all.")
        console.print(NOTE)
    for text in explanation_notes(explanation):
        console.print(f"note: {text}", style="yellow")


def _show(console: PlainConsole, table: Table) -> None:
    numbers = [name for name in table.columns if name.startswith(("P", "change"))]
    shown = make_table(*table.columns, title=table.title, right=numbers)
    for row in table.rows:
        add_row(shown, *row)
    console.print(shown)
