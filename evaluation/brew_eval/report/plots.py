"""Plots as SVG, without a library: points with intervals by row, and reliability curves."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from brew_eval.intervals import Figure
from brew_eval.metrics.probability import ReliabilityBin

__all__ = ["DotRow", "clean", "dot_plot", "reliability_plot"]

# Colours that remain distinct with colour blindness (Okabe and Ito 2008); the first is the model.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#8a8a8a")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
_LEFT, _WIDTH, _ROW, _TOP = 260, 900, 22, 34
_LONGEST = 38  # characters of a label


@dataclass(frozen=True)
class DotRow:
    """A row of a dot plot: the figure of each series, in their order; None where a series has none."""

    label: str
    figures: Sequence[Figure | None]


def clean(text: str) -> str:
    """Replace characters that HTML and XML do not allow."""
    return _CONTROL.sub("\ufffd", text)


def dot_plot(rows: Sequence[DotRow], series: Sequence[str], *, title: str, reference: float | None = None) -> str:
    """Draw one line of points per row, each with its interval.

    Args:
        rows: From top to bottom.
        series: Names of the points of a row.
        title: Read by screen readers.
        reference: Value of a dashed vertical line, such as .5 for AUC or 0 for a difference.

    Returns:
        An SVG element; all text is escaped. Empty if there is no figure.
    """
    shown = [figure for row in rows for figure in row.figures if figure is not None and figure.value is not None]
    numbers = [number for figure in shown for number in (figure.value, figure.low, figure.high) if number is not None]
    if not numbers:
        return ""
    ticks = _ticks(min(numbers), max(numbers))
    low, high = ticks[0], ticks[-1]

    def x(value: float) -> float:
        return _LEFT + (value - low) / (high - low) * (_WIDTH - _LEFT - 20)

    step = max(_ROW, 7 * len(series) + 8)
    height = _TOP + step * len(rows) + 30
    parts = _legend(series)
    for tick in ticks:
        parts.append(f'<line class="grid" x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="{_TOP}" y2="{height - 24}"/>')
        parts.append(f'<text class="tick" x="{x(tick):.1f}" y="{height - 8}" text-anchor="middle">{tick:.4g}</text>')
    if reference is not None and low <= reference <= high:
        at = x(reference)
        parts.append(f'<line class="reference" x1="{at:.1f}" x2="{at:.1f}" y1="{_TOP}" y2="{height - 24}"/>')
    for number, row in enumerate(rows):
        middle = _TOP + step * (number + 0.5)
        parts.append(f'<text x="{_LEFT - 10}" y="{middle + 4:.1f}" text-anchor="end">{_label(row.label)}</text>')
        for place, figure in enumerate(row.figures):
            if figure is None or figure.value is None:
                continue
            y = middle + (place - (len(row.figures) - 1) / 2) * 7
            colour = _COLOURS[place % len(_COLOURS)]
            if figure.low is not None and figure.high is not None:
                parts.append(
                    f'<line x1="{x(figure.low):.1f}" x2="{x(figure.high):.1f}" y1="{y:.1f}" y2="{y:.1f}" '
                    f'stroke="{colour}" stroke-width="2"/>'
                )
            name = escape(clean(series[place]))
            parts.append(
                f'<circle cx="{x(figure.value):.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"><title>{name}: '
                f"{figure.value:.4f}</title></circle>"
            )
    return _svg(_WIDTH, height, title, parts)


def reliability_plot(bins: Sequence[ReliabilityBin], *, title: str) -> str:
    """Draw the share of positive rows over the predicted probability; the diagonal is a perfect calibration.

    Both axes end at the largest value, because the rates of many tasks are low. The area of a point grows with its
    rows.
    """
    if not bins:
        return ""
    end = _ticks(0.0, max(max(point.probability, point.rate) for point in bins))[-1]
    size, left, top = 190, 40, 24

    def place(probability: float, rate: float) -> tuple[float, float]:
        return left + probability / end * size, top + size - rate / end * size

    most = max(point.rows for point in bins)
    points = [place(point.probability, point.rate) for point in bins]
    parts = [
        f'<text x="{left}" y="14">{_label(title)}</text>',
        f'<rect x="{left}" y="{top}" width="{size}" height="{size}" fill="none" class="grid"/>',
        f'<line class="reference" x1="{left}" y1="{top + size}" x2="{left + size}" y2="{top}"/>',
        f'<polyline fill="none" stroke="{_COLOURS[0]}" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in points)}"/>',
    ]
    for point, (x, y) in zip(bins, points, strict=True):
        parts.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{1.5 + 3 * math.sqrt(point.rows / most):.1f}" fill="{_COLOURS[0]}">'
            f"<title>{point.rows:,} rows: predicted {point.probability:.4f}, observed {point.rate:.4f}</title></circle>"
        )
    for value in (0.0, end):
        x, y = place(value, value)
        parts.append(f'<text class="tick" x="{x:.1f}" y="{top + size + 14}" text-anchor="middle">{value:.3g}</text>')
        parts.append(f'<text class="tick" x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{value:.3g}</text>')
    parts.append(
        f'<text class="tick" x="{left + size / 2}" y="{top + size + 14}" text-anchor="middle">predicted</text>'
    )
    return _svg(left + size + 14, top + size + 22, f"Reliability of {title}", parts)


def _legend(series: Sequence[str]) -> list[str]:
    parts, x = [], 10
    for place, name in enumerate(series):
        parts.append(f'<circle cx="{x}" cy="14" r="4" fill="{_COLOURS[place % len(_COLOURS)]}"/>')
        parts.append(f'<text x="{x + 9}" y="18">{_label(name)}</text>')
        x += 26 + 7 * min(len(name), _LONGEST)
    return parts


def _label(text: str) -> str:
    text = clean(text)
    return escape(text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…")


def _ticks(low: float, high: float) -> list[float]:
    """Return about five round numbers that enclose an interval."""
    span = max(high - low, 1e-6)
    step = 10 ** math.floor(math.log10(span / 4))
    step *= next(factor for factor in (1, 2, 5, 10) if span / (step * factor) <= 6)
    first = math.floor(low / step)
    last = max(math.ceil(high / step), first + 1)
    return [round(number * step, 12) for number in range(first, last + 1)]


def _svg(width: float, height: float, title: str, parts: Sequence[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" '
        f'height="{height:.0f}" role="img"><title>{escape(clean(title))}</title>{"".join(parts)}</svg>'
    )
