"""Draws counts as horizontal bars in an SVG image."""

from collections.abc import Sequence

from brew_cluster.cli.views.svg import WIDTH, svg_document, svg_text
from brew_platform.console.plain_console import escape_controls

__all__ = ["MOST_BARS", "bar_chart_svg"]

MOST_BARS = 40  # the counts of further rows are added up in the last bar
LONGEST_LABEL = 36  # characters
CHARACTER = 7.0  # pixels, about
BAR, GAP, TOP, BOTTOM, RIGHT = 16, 6, 34, 12, 90  # pixels; the figures stand in the right margin
COLOUR = "#4878a8"


def bar_chart_svg(rows: Sequence[tuple[str, float]], *, title: str) -> str:
    """Draw one bar per row, in the order of the rows.

    Args:
        rows: Labels and values; values are finite and not negative.
        title: Text above the bars.

    Returns:
        The SVG document.
    """
    if len(rows) > MOST_BARS:
        others = rows[MOST_BARS - 1 :]
        rows = [*rows[: MOST_BARS - 1], (f"{len(others):,} others", sum(value for _, value in others))]
    labels = [_shortened(label) for label, _ in rows]
    left = 12 + CHARACTER * max(map(len, labels), default=0)
    longest = WIDTH - left - RIGHT
    largest = max((value for _, value in rows), default=0) or 1
    parts = [svg_text(title, 12, 20)]
    for number, (label, (_, value)) in enumerate(zip(labels, rows, strict=True)):
        y = TOP + number * (BAR + GAP)
        middle, width = y + BAR - 4, longest * (value / largest)
        parts.append(svg_text(label, f"{left - 6:.1f}", middle, anchor="end"))
        parts.append(f'<rect x="{left:.1f}" y="{y}" width="{width:.1f}" height="{BAR}" fill="{COLOUR}"/>')
        parts.append(svg_text(_figure(value), f"{left + width + 6:.1f}", middle))
    return svg_document(parts, height=TOP + len(rows) * (BAR + GAP) + BOTTOM)


def _shortened(label: str) -> str:
    label = escape_controls(label)
    return label if len(label) <= LONGEST_LABEL else f"{label[: LONGEST_LABEL - 3]}..."


def _figure(value: float) -> str:
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.3g}"
