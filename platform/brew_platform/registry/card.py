"""The card of a version: what it is, where it comes from, how it was measured and what happened to it, as Markdown.

The sections follow Mitchell et al., "Model Cards for Model Reporting" (arXiv:1810.03993), as far as the registry knows
the content. A card is generated from the manifest and the events, so it is always current. Pure functions.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from brew_platform.registry.events import Event, aliases, approvers, collected, retired
from brew_platform.registry.gates import BENCHMARK, find_figure
from brew_platform.registry.version import Version

__all__ = ["version_card"]

_LINEAGE = ("parent", "plan_hashes", BENCHMARK, "copied_from")  # have sections of their own


def version_card(version: Version, events: Sequence[Event], *, model: str) -> str:
    """Return the card of a version.

    Args:
        version: The version.
        events: All events of the model.
        model: Name of the model.
    """
    details = {"published": version.time, "by": version.author, "size": f"{version.size:,} bytes"}
    own = [event for event in events if event.version == version.number and event.kind != "policy"]
    parts = [
        f"# {_text(model)}, version {version.number}\n",
        _state(version, events),
        _section("Details", _pairs(details)),
        _section("Intended use", _pairs(_flat(version.signature))),
        _section("Training data", _training(version.lineage)),
        _section("Code and configuration", _pairs(_flat(_without(version.lineage, _LINEAGE)))),
        _section("Evaluation data", _pairs(_flat(version.lineage.get(BENCHMARK) or {}))),
        _section("Metrics", _metrics(version.metrics)),
        _section("Gates", _gates(version)),
        _section("Approvals", "".join(f"- {_text(name)}\n" for name in approvers(version.number, events))),
        _section("History", _history(own)),
        _section("Files", _table(("file", "bytes", "SHA-256"), _files(version))),
    ]
    return "\n".join(parts)


def _state(version: Version, events: Sequence[Event]) -> str:
    names = [alias for alias, number in aliases(events).items() if number == version.number]
    sentences = [f"Aliases: {', '.join(names) or 'none'}."]
    if version.number in retired(events):
        sentences.append("The version is retired: no alias can be moved to it.")
    if event := collected(events).get(version.number):
        sentences.append(f"Its files were removed at {event.time}.")
    return " ".join(sentences) + "\n"


def _training(lineage: Mapping[str, Any]) -> str:
    """Return the plans of the training data, and the models that the training started from, newest first."""
    rows = [(stage, digest) for stage, digest in (lineage.get("plan_hashes") or {}).items()]
    text = _table(("stage", "plan of the data"), rows) if rows else ""
    parent, depth = lineage.get("parent"), 0
    lines = []
    while isinstance(parent, Mapping):
        folder, digest = _text(parent.get("folder", "a model")), _text(parent.get("digest", "unknown"))
        lines.append(f"{'  ' * depth}- started from {folder}, digest {digest}\n")
        parent, depth = (parent.get("lineage") or {}).get("parent"), depth + 1
    if isinstance(parent, int):  # of a data set
        lines.append(f"- continues version {parent}\n")
    if not lines and "parent" in lineage:
        lines.append("- trained from scratch\n")
    if isinstance(origin := lineage.get("copied_from"), Mapping):
        lines.append(f"- copied from version {origin.get('version')} of {_text(origin.get('model', ''))}\n")
    return "\n".join(filter(None, [text, "".join(lines)]))


def _metrics(metrics: Mapping[str, Any]) -> str:
    """Return a table with a row per task, and the other figures."""
    tasks = {name: figures for name, figures in metrics.items() if isinstance(figures, Mapping)}
    columns = list(dict.fromkeys(column for figures in tasks.values() for column in figures))
    rows = [(name, *(_value(figures.get(column)) for column in columns)) for name, figures in tasks.items()]
    others = _pairs(_flat(_without(metrics, tasks)))
    return "\n".join(filter(None, [_table(("task", *columns), rows) if rows else "", others]))


def _gates(version: Version) -> str:
    rows = [
        (gate.figure, rule, f"{threshold:g}", _value(find_figure(version.metrics, gate.figure)))
        for gate in version.gates
        for rule, threshold in gate.thresholds.items()
    ]
    return _table(("figure", "rule", "threshold", "measured"), rows)


def _history(events: Iterable[Event]) -> str:
    rows = []
    for event in events:
        details = [str(outcome) for outcome in event.gates if not outcome.passed]
        if event.share is not None:
            details.append(f"{event.share:.0%} of the traffic")
        if event.force_reason is not None:
            details.append(f"forced: {event.force_reason}")
        if event.note:
            details.append(event.note)
        rows.append((event.time, event.kind, event.alias or "", event.author, "; ".join(details)))
    return _table(("time", "event", "alias", "by", "details"), rows)


def _files(version: Version) -> list[tuple[str, ...]]:
    return [(file.path, f"{file.size:,}", file.sha256) for file in version.files]


def _section(title: str, text: str) -> str:
    return f"## {title}\n\n" + (text or "Not recorded.\n")


def _pairs(values: Mapping[str, Any]) -> str:
    return _table(("name", "value"), [(name, _value(value)) for name, value in values.items()])


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return ""
    lines = [[_text(cell) for cell in row] for row in (columns, *rows)]
    lines.insert(1, ["---"] * len(columns))
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        elif value is not None:
            flat[f"{prefix}{name}"] = value
    return flat


def _without(values: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    excluded = set(names)
    return {name: value for name, value in values.items() if name not in excluded}


def _value(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return str(value)


def _text(value: Any) -> str:
    """Return a text from outside so that Markdown shows it literally, on one line."""
    text = " ".join("".join(char if char.isprintable() else " " for char in str(value)).split())
    for char in "\\`*_[]<>|#":
        text = text.replace(char, f"\\{char}")
    return text
