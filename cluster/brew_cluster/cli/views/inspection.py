"""Prints documents and prompts token by token."""

from itertools import groupby

from rich.text import Text

from brew_cluster.jobs.data_inspect import Inspection, Part, Token
from brew_data.prompts.budget import Cut
from brew_platform.console.plain_console import PlainConsole, escape_controls

__all__ = ["show_inspection"]

MARGIN = 14  # characters for the name of a part


def show_inspection(console: PlainConsole, inspection: Inspection) -> None:
    """Print a document: a line of figures, then its parts, each with its tokens, its origin and what was cut.

    Tokens are separated by `|`; runs of tokens that carry loss stand in brackets, and are green on a terminal.
    """
    share = inspection.loss_tokens / inspection.tokens
    console.print(
        f"{inspection.title}: {inspection.tokens:,} of {inspection.context_length:,} tokens, "
        f"{inspection.loss_tokens:,} carry loss ({share:.1%})",
        style="bold",
    )
    for reason, count in inspection.left_out.items():
        console.print(f"left out: {count:,} interaction{'s' * (count != 1)}: {reason}", style="yellow")
    if inspection.cut:
        console.print(_cut(inspection.cut), style="yellow")
    for part in inspection.parts:
        console.print(_tokens(part, console.encoding), soft_wrap=True)
        for note in _notes(part):
            console.print(f"{'':{MARGIN}}{note}", style="yellow" if note.startswith("cut") else "dim")
    console.print("")


def _tokens(part: Part, encoding: str) -> Text:
    line = Text(f"{escape_controls(part.name, encoding):{MARGIN}}", style="bold")
    separator = ""
    for has_loss, run in groupby(part.tokens, key=lambda token: token.has_loss):
        line.append(separator, style="dim not bold")
        if has_loss:
            line.append("[", style="bold green")
        for number, token in enumerate(run):
            line.append("|" if number else "", style="dim not bold")
            line.append(escape_controls(token.text, encoding), style=_style(token))
        if has_loss:
            line.append("]", style="bold green")
        separator = "|"
    return line


def _style(token: Token) -> str:
    if token.has_loss:
        return "bold green"
    return "cyan not bold" if token.is_control else "not bold"


def _cut(cut: Cut) -> str:
    return f"cut: {cut.tokens:,} tokens, {cut.fields:,} field{'s' * (cut.fields != 1)}"


def _notes(part: Part) -> list[str]:
    """Return what is known of a part beside its tokens, each in one line."""
    notes = []
    if part.prefix is not None:
        notes.append(f"attends to itself and to the first {part.prefix:,} tokens")
    if (origin := part.origin) is not None:
        notes.append(f"{origin.reason}: {origin.action} on {origin.surface}, {origin.entity_type}, {origin.time}")
    if part.cut:
        notes += [_cut(part.cut), f"full text: {part.full_text}"]
    return notes
