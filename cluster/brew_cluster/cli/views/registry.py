"""Prints the output of the registry commands."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich.table import Table

from brew_cluster.cli.json_option import print_json
from brew_cluster.cli.views.table import add_row, make_table, print_table
from brew_platform.console.plain_console import PlainConsole
from brew_platform.registry.diff import Difference, VersionDiff
from brew_platform.registry.events import Event, collected, retired
from brew_platform.registry.garbage import Garbage
from brew_platform.registry.policy import Policy
from brew_platform.registry.registry import Fault, Version

__all__ = [
    "print_event",
    "show_datasets",
    "show_diff",
    "show_event",
    "show_faults",
    "show_garbage",
    "show_log",
    "show_policy",
    "show_version",
    "show_versions",
]


def show_versions(console: PlainConsole, versions: Sequence[Version], events: Sequence[Event]) -> None:
    """Print one row per version: when and by whom it was published, its aliases, and the AUC of each task."""
    gone, removed = retired(events), collected(events)
    roles = _roles(events)
    tasks = sorted({task for version in versions for task in _tasks(version.metrics)})
    table = make_table("version", "published", "by", "size", "aliases", *tasks)
    if tasks:
        table.title, table.title_justify = "AUC by task", "right"
    for version in versions:
        aliases = [*roles.get(version.number, []), *(["retired"] if version.number in gone else [])]
        aliases += ["files removed"] if version.number in removed else []
        figures = [_number(_tasks(version.metrics).get(task, {}).get("auc")) for task in tasks]
        time = version.time[:16].replace("T", " ")
        add_row(table, version.number, time, version.author, _size(version.size), ", ".join(aliases), *figures)
    console.print(table)


def show_datasets(console: PlainConsole, versions: Sequence[Version]) -> None:
    """Print one row per version of a data set: what it contains, when it was published, and what it continues."""
    figures = ["version", "interactions", "tokens", "size"]
    table = make_table(*figures, "source", "published", "by", "continues", "digest", right=figures)
    for version in versions:
        tokens = sum(plan["n_tokens"] for plan in version.metrics["bins"].values())
        counts = [f"{version.metrics['rows']:,}", f"{tokens:,}", _size(version.size)]
        origin = [version.signature["source"], version.time[:16].replace("T", " "), version.author]
        add_row(table, version.number, *counts, *origin, version.lineage["parent"], version.signature["digest"][:12])
    print_table(console, table, empty="no versions")


def show_version(console: PlainConsole, version: Version, events: Sequence[Event]) -> None:
    """Print all that a version records."""
    aliases = ", ".join(_roles(events).get(version.number, [])) or "none"
    console.print(f"version {version.number}, published {version.time} by {version.author}; aliases: {aliases}")
    parts = [("signature", version.signature), ("lineage", version.lineage), ("figures", version.metrics)]
    for title, values in parts:
        table = make_table(title, "")
        for name, value in _flatten(values):
            add_row(table, name, value)
        print_table(console, table, empty=f"no {title}")
    gates = make_table("gate", "threshold")
    for gate in version.gates:
        for rule, threshold in gate.thresholds.items():
            add_row(gates, gate.figure, f"{rule} {threshold:g}")
    print_table(console, gates, empty="no gates")
    files = make_table("file", "size", "sha256")
    for file in version.files:
        add_row(files, file.path, _size(file.size), file.sha256[:12])
    print_table(console, files, empty="no files")


def show_log(console: PlainConsole, events: Sequence[Event]) -> None:
    """Print the events, the oldest first."""
    table = make_table("event", "time", "by", "kind", "version", "alias", "details")
    for event in events:
        version = event.version or None  # a policy belongs to no version
        add_row(table, event.number, event.time, event.author, event.kind, version, event.alias, _details(event))
    print_table(console, table, empty="no events")


def print_event(console: PlainConsole, event: Event, model: str, *, as_json: bool) -> None:
    """Print an event as JSON, or in one line what it did."""
    if as_json:
        print_json(asdict(event))
    else:
        show_event(console, event, model)


def show_event(console: PlainConsole, event: Event, model: str) -> None:
    """Print in one line what an event did."""
    texts = {
        "promote": f"{event.alias} is version {event.version} of {model} now",
        "rollback": f"{event.alias} is version {event.version} of {model} again",
        "retire": f"version {event.version} of {model} is retired",
        "approve": f"version {event.version} of {model} is approved by {event.author}",
        "policy": f"the policy of {model} is replaced",
        "tag": f"version {event.version} of {model} can be promoted to {event.alias}",
    }
    text = texts.get(event.kind, f"{event.kind} of version {event.version} of {model}")
    console.print(f"{text} (event {event.number}{f': {details}' if (details := _details(event)) else ''})")


def show_diff(console: PlainConsole, diff: VersionDiff) -> None:
    """Print the differences of two versions, and for figures the change."""
    columns = f"version {diff.before}", f"version {diff.after}"
    files = make_table("file", *columns)
    for file in diff.files:
        add_row(
            files, file.path, *(f"{_size(f.size)} {f.sha256[:12]}" if f else "-" for f in (file.before, file.after))
        )
    print_table(console, files, empty="no file differs")
    console.print(f"{diff.same_files} files are equal")
    for title, differences in [("signature", diff.signature), ("lineage", diff.lineage), ("figure", diff.metrics)]:
        if differences:
            console.print(_differences(title, columns, differences))
    if not (diff.files or diff.signature or diff.lineage or diff.metrics):
        console.print("nothing differs")


def show_faults(console: PlainConsole, faults: Sequence[Fault]) -> None:
    """Print the missing and damaged files of `registry verify`."""
    table = make_table("version", "file", "problem")
    for fault in faults:
        add_row(table, fault.version, fault.name, fault.problem)
    console.print(table)


def show_policy(console: PlainConsole, policy: Policy) -> None:
    """Print the roles, and the conditions of moving each alias."""
    roles = make_table("role", "people")
    for role, people in policy.roles.items():
        add_row(roles, role, ", ".join(people))
    print_table(console, roles, empty="no roles")
    rules = make_table("alias", "moved by", "approvals of a version")
    for alias, rule in policy.aliases.items():
        approvals = ", ".join(f"{number} of {role}" for role, number in rule.approvals.items())
        add_row(rules, alias, " or ".join(rule.move) or "everyone", approvals or "none")
    print_table(console, rules, empty="every alias can be moved by everyone")
    console.print(f"this policy is changed by {' or '.join(policy.change) or 'everyone'}")


def show_garbage(console: PlainConsole, garbage: Garbage, *, dry_run: bool) -> None:
    """Print what a garbage collection removed, or would remove, and which retired versions keep their files."""
    verb = "would be removed" if dry_run else "removed"
    for number in garbage.versions:
        console.print(f"the files of version {number} {verb if dry_run else 'are ' + verb}")
    kept = make_table("version", "keeps its files, because")
    for number, reason in garbage.kept.items():
        add_row(kept, number, reason)
    if kept.row_count:
        console.print(kept)
    number = len(garbage.blobs)
    console.print(f"{number} file{'' if number == 1 else 's'}, {_size(garbage.size)}, {verb}")
    if not garbage.finished:
        console.print("The time of one collection has ended before all files were removed. Run the same command again.")


def _differences(title: str, columns: tuple[str, str], differences: Sequence[Difference]) -> Table:
    table = make_table(title, *columns, "change")
    for item in differences:
        change = "" if item.change is None else f"{item.change:+.4g}"
        add_row(table, item.name, _number(item.before), _number(item.after), change)
    return table


def _details(event: Event) -> str:
    parts = [str(gate) for gate in event.gates]
    if event.share is not None:
        parts.append(f"{event.share:.0%} of the traffic")
    if event.force_reason is not None:
        parts.append(f"forced: {event.force_reason}")
    return "; ".join([*parts, *([event.note] if event.note else [])])


def _roles(events: Sequence[Event]) -> dict[int, list[str]]:
    from brew_platform.registry.events import aliases

    roles: dict[int, list[str]] = {}
    for alias, number in aliases(events).items():
        roles.setdefault(number, []).append(alias)
    return roles


def _tasks(metrics: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {name: figures for name, figures in metrics.items() if isinstance(figures, Mapping) and "auc" in figures}


def _flatten(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for name, value in sorted(values.items()):
        if isinstance(value, Mapping):
            rows += _flatten(value, f"{prefix}{name}.")
        elif value is not None:
            rows.append((f"{prefix}{name}", _number(value)))
    return rows


def _number(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if isinstance(value, str) and re.fullmatch(r"[0-9a-f]{40,64}(\+changes)?", value):
        return value[:12] + value.partition("+")[1] + value.partition("+")[2]
    return "-" if value is None else str(value)


def _size(size: int) -> str:
    for unit in ("B", "KB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000  # type: ignore[assignment]
    return f"{size:,.3g} GB"
