"""Prints the card of a data set."""

from collections.abc import Mapping
from typing import Any

from brew_cluster.cli.views.table import add_row, make_table, print_table
from brew_platform.console.plain_console import PlainConsole

__all__ = ["show_card"]


def show_card(console: PlainConsole, card: Mapping[str, Any]) -> None:
    """Print the content of a card as tables."""
    entities = ", ".join(f"{count:,} {kind}" for kind, count in card["entities"].items())
    first, last = card["time_range"]
    console.print(f"{card['source']}, suite {card['suite']}, built {card['created']} by commit {card['commit']}")
    console.print(
        f"{card['rows']:,} interactions from {first} to {last}, {card['members']:,} members "
        f"({card['members_opted_out']:,} opted out), {entities}"
    )
    figures = ["training rows", "positive", "benchmark rows", "benchmark positive"]
    tasks = make_table("task", "surface", "trained", "history", *figures, title="Tasks", right=figures)
    for name, task in card["tasks"].items():
        cells = [
            cell
            for part in ("training", "benchmark")
            for cell in (f"{task[f'{part}_rows']:,}", _rate(task[f"{part}_positive_rate"]))
        ]
        add_row(tasks, name, task["surface"], "yes" if task["in_training"] else "no", task["history"], *cells)
    print_table(console, tasks, empty="no tasks")
    actions = make_table("surface", "action", "rows", title="Actions", right=["rows"])
    for surface, found in card["actions"].items():
        for action, count in found.items():
            add_row(actions, surface, action, f"{count:,}")
    print_table(console, actions, empty="no actions")
    columns = ["documents", "tokens", "with loss", "5%", "50%", "95%", "longest", "fill", "tokens cut"]
    bins = make_table("folder", *columns, title="Documents and their tokens", right=columns)
    for name, plan in card["bins"].items():
        lengths = [f"{value:,}" for value in plan["documents"]["tokens"]["quantiles"].values()]
        share = f"{plan['documents']['loss_share']:.1%}"
        counts = [f"{plan[key]:,}" for key in ("n_documents", "n_tokens")]
        add_row(bins, name, *counts, share, *lengths, f"{plan['fill']:.1%}", f"{plan['tokens_cut']:,}")
    print_table(console, bins, empty="no bins")
    columns = ["tokens", "share", "documents", "repeats"]
    mix = make_table("folder", "source", *columns, title="Mix", right=columns)
    for name, corpus in card.get("mix", {}).items():
        for source, found in corpus["sources"].items():
            tokens, documents = f"{found['tokens']:,}", f"{found['documents']:,}"
            add_row(mix, name, source, tokens, f"{found['share']:.1%}", documents, f"{found['repeats']:.2f}")
    if mix.row_count:
        console.print(mix)
    left_out = make_table("left out of", "reason", "rows", right=["rows"])
    for table, reasons in card["quarantined"].items():
        for reason, count in reasons.items():
            add_row(left_out, table, reason, f"{count:,}")
    for name, kinds in card["removed"].items():
        for kind, count in kinds.items():
            add_row(left_out, name, kind, f"{count:,}")
    print_table(console, left_out, empty="nothing was quarantined or removed")


def _rate(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"
