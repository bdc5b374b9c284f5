"""Explanations as tables, as Markdown, and as one self-contained HTML page with a bar chart."""

from collections.abc import Sequence

from brew_eval.explanation import Change, Explanation
from brew_eval.report.markdown import page_markdown
from brew_eval.report.page import render_page
from brew_eval.report.plots import bar_plot
from brew_eval.report.tables import Table

__all__ = [
    "NOTE",
    "change_table",
    "explanation_markdown",
    "explanation_notes",
    "explanation_page",
    "label_table",
    "part_name",
]

NOTE = (
    "Each change is the score of the prompt that is compiled again without the part, minus the score of the whole "
    "prompt. The other turns stay as they are. Changes of several parts do not add up."
)
_BARS = 30  # of the chart
_LONGEST = 100  # characters of a part in a table; the prompt has all of them
_NAMES = {"profile": "profile, ", "interaction": "", "entity": "candidate, "}


def label_table(explanation: Explanation) -> Table:
    """Return the probability of each label."""
    rows = [
        [
            explanation.labels[name],
            name,
            f"{probability:.4f}",
            "yes" if name in explanation.positive else "",
            "yes" if name == explanation.outcome else "",
        ]
        for name, probability in explanation.probabilities.items()
    ]
    return Table("Labels", ["label", "outcome", "P", "positive", "true"], rows)


def change_table(changes: Sequence[Change]) -> Table:
    """Return what changes without each part."""
    rows = [
        [
            part_name(change.kind, change.name),
            _short(change.text),
            change.time or "",
            f"{change.score:.4f}",
            f"{change.change:+.4f}",
            "-" if change.log_odds_change is None else f"{change.log_odds_change:+.4f}",
        ]
        for change in changes
    ]
    columns = ["without", "text", "time", "P(positive)", "change", "change of log-odds"]
    return Table("What changes without a part", columns, rows)


def explanation_notes(explanation: Explanation) -> list[str]:
    """Return what a reader must know: of the row, and of parts without a score."""
    parts = [f"{part_name(part.kind, part.name)}: {part.reason}" for part in explanation.left_out]
    return [*explanation.warnings, *parts]


def explanation_page(explanation: Explanation) -> str:
    """Return an explanation as HTML."""
    largest = explanation.changes[:_BARS]
    bars = [(f"{part_name(change.kind, change.name)}: {change.text}", change.change) for change in largest]
    title = "Change of P(positive) without a part"
    return render_page(
        _title(explanation),
        _pairs(explanation),
        explanation_notes(explanation),
        [(title, bar_plot(bars, title=title))],
        _tables(explanation),
        NOTE,
        warnings_title="Notes",
        prompt=[(part.name, part.text) for part in explanation.prompt],
    )


def explanation_markdown(explanation: Explanation) -> str:
    """Return an explanation as Markdown."""
    prompt = Table("Prompt", ["part", "text"], [[part.name, part.text] for part in explanation.prompt])
    return page_markdown(
        _title(explanation),
        _pairs(explanation),
        explanation_notes(explanation),
        [prompt, *_tables(explanation)],
        NOTE,
        warnings_title="Notes",
    )


def part_name(kind: str, name: str) -> str:
    """Return the name of a part with its kind."""
    return f"{_NAMES[kind]}{name}"


def _title(explanation: Explanation) -> str:
    return f"Explanation of a score of {explanation.origin.get('model', 'a model')}"


def _pairs(explanation: Explanation) -> dict[str, str]:
    pairs = {name: str(value) for name, value in explanation.origin.items() if value is not None}
    odds = "not finite" if explanation.log_odds is None else f"{explanation.log_odds:+.4f}"
    return pairs | {
        "true outcome": explanation.outcome or "not an outcome of the task",
        "P(positive)": f"{explanation.score:.4f}",
        "log-odds": odds,
        "tokens": f"{explanation.tokens:,}",
    }


def _tables(explanation: Explanation) -> list[Table]:
    tables = [label_table(explanation), change_table(explanation.changes)]
    return [table for table in tables if table.rows]


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "\u2026"
