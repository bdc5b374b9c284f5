"""Prints what a data set contains, after `brew360 data build` and `data append`."""

from pathlib import Path
from typing import Any

from brew_cluster.jobs.dataset_config import DatasetConfig
from brew_platform.console.plain_console import PlainConsole
from brew_platform.console.progress import duration

__all__ = ["print_summary"]


def print_summary(card: dict[str, Any], config: DatasetConfig, out: Path, console: PlainConsole) -> None:
    """Print what a data set contains, and the next command."""
    line = console.print
    entities = sum(card["entities"].values())
    line(f"{card['rows']:,} interactions, {card['members']:,} members, {entities:,} entities")
    for surface, actions in card["actions"].items():
        line(f"{surface}: {', '.join(f'{action} {count:,}' for action, count in actions.items())}")
    for name, task in card["tasks"].items():
        rate = task["training_positive_rate"]
        positive = "" if rate is None else f", {rate:.1%} positive"
        line(
            f"task {name}: {task['training_rows']:,} training rows{positive}, {task['benchmark_rows']:,} benchmark rows"
        )
    quarantined = {table: sum(counts.values()) for table, counts in card["quarantined"].items()}
    if quarantined:
        line(f"quarantined: {', '.join(f'{count:,} {table}' for table, count in quarantined.items())} (quarantine/)")
    if card["members_opted_out"]:
        line(f"removed: {card['members_opted_out']:,} members who opted out")
    fields = sum(count for place, kinds in card["removed"].items() if "." in place for count in kinds.values())
    if fields:
        line(f"removed: identifiers in {fields:,} fields of members and entities")
    bins = card["bins"]["bins"]
    line(
        f"bins: {bins['n_documents']:,} documents, {bins['n_tokens']:,} tokens in {bins['n_bins']:,} bins of "
        f"{bins['context_length']:,}, fill {bins['fill']:.1%}"
    )
    line(f"{duration(sum(card['seconds'].values()))} in all; card: {out / 'card.md'}")
    start = "" if config.tokenizer.from_ is None else f" train.model.init_from={config.tokenizer.from_}"
    line(f"next: brew360 train cpt data={out} run=runs/cpt context_length={bins['context_length']}{start}")
