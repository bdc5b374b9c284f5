"""Reports and comparisons as Markdown."""

import re
from collections.abc import Mapping, Sequence

from brew_eval.compare import Comparison
from brew_eval.report.report import Report
from brew_eval.report.tables import Table, comparison_tables, interval_note, origin, report_tables

__all__ = ["comparison_markdown", "escape_markdown", "page_markdown", "report_markdown", "table_markdown"]

_SPECIAL = re.compile(r"([\\`*_#|~$]|(?<=\])[(\[:])")  # a link needs `](`; brackets alone are intervals
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+")


def report_markdown(report: Report) -> str:
    """Return a report as Markdown."""
    pairs = origin(report.info) | {"evaluated": report.date}
    if report.seconds is not None:
        pairs["seconds of scoring"] = f"{report.seconds:,.1f}"
    return page_markdown(
        f"Evaluation of {report.info.name}", pairs, report.warnings, report_tables(report), interval_note(report.config)
    )


def comparison_markdown(comparison: Comparison) -> str:
    """Return a comparison as Markdown."""
    pairs = {f"A: {name}": text for name, text in origin(comparison.a).items()}
    pairs |= {f"B: {name}": text for name, text in origin(comparison.b).items()}
    title = f"{comparison.a.name} (A) against {comparison.b.name} (B)"
    return page_markdown(
        title, pairs, comparison.warnings, comparison_tables(comparison), interval_note(comparison.config)
    )


def escape_markdown(text: str) -> str:
    """Return text that Markdown shows as it is, on a single line, also in the cell of a table."""
    text = _CONTROL.sub(" ", text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _SPECIAL.sub(r"\\\1", text).replace("://", ":&#47;&#47;")


def table_markdown(table: Table) -> str:
    """Return a table with its title as Markdown."""
    lines = [table.columns, ["---"] * len(table.columns), *table.rows]
    cells = [[cell if row == 1 else escape_markdown(cell) for cell in line] for row, line in enumerate(lines)]
    rows = "\n".join(f"| {' | '.join(line)} |" for line in cells)
    return f"## {escape_markdown(table.title)}\n\n{rows}"


def page_markdown(
    title: str,
    pairs: Mapping[str, str],
    warnings: Sequence[str],
    tables: Sequence[Table],
    note: str,
    *,
    warnings_title: str = "Not in the figures",
) -> str:
    """Return a page; the arguments are those of `brew_eval.report.page.render_page`."""
    facts = "\n".join(f"- {escape_markdown(name)}: {escape_markdown(text)}" for name, text in pairs.items())
    parts = [f"# {escape_markdown(title)}", facts]
    if warnings:
        parts += [f"## {warnings_title}", "\n".join(f"- {escape_markdown(text)}" for text in warnings)]
    parts += map(table_markdown, tables)
    return "\n\n".join([*parts, note]) + "\n"
