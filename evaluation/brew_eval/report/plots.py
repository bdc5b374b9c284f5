"""Plots as SVG, without a library: bars, points with intervals by row or along an axis, reliability, heat maps."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from brew_eval.intervals import Figure
from brew_eval.metrics.probability import ReliabilityBin

__all__ = ["Curve", "DotRow", "bar_plot", "clean", "dot_plot", "heat_map", "line_plot", "reliability_plot", "svg_file"]

# Colours that remain distinct with colour blindness (Okabe and Ito 2008); the first is the model.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#8a8a8a")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
_LEFT, _WIDTH, _ROW, _TOP = 260, 900, 22, 34
_LONGEST = 38  # characters of a label
_STYLE = (  # of a plot outside of a page, which has its own
    "text{font:12px system-ui,sans-serif;fill:#1f2328}.tick{fill:#57606a;font-size:11px}.grid{stroke:#d0d7de}"
    ".reference{stroke:#57606a;stroke-dasharray:4 3}"
)


@dataclass(frozen=True)
class DotRow:
    """A row of a dot plot: the figure of each series, in their order; None where a series has none."""

    label: str
    figures: Sequence[Figure | None]


@dataclass(frozen=True)
class Curve:
    """A series of a line plot: points by x, ascending, and a smooth line such as a fitted law."""

    name: str
    points: Sequence[tuple[float, Figure]]
    line: Sequence[tuple[float, float]] = ()


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
    parts = _legend(series) + _vertical_grid({tick: x(tick) for tick in ticks}, height)
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


def bar_plot(bars: Sequence[tuple[str, float]], *, title: str) -> str:
    """Draw one horizontal bar per row, from 0 to the right or to the left.

    Args:
        bars: Labels and finite numbers, from top to bottom.
        title: Read by screen readers.

    Returns:
        An SVG element; all text is escaped. Empty if there is no bar.
    """
    if not bars:
        return ""
    ticks = _ticks(min(0.0, *(value for _, value in bars)), max(0.0, *(value for _, value in bars)))
    low, high = ticks[0], ticks[-1]

    def x(value: float) -> float:
        return _LEFT + (value - low) / (high - low) * (_WIDTH - _LEFT - 20)

    height = _TOP + _ROW * len(bars) + 30
    parts = _vertical_grid({tick: x(tick) for tick in ticks}, height)
    for number, (label, value) in enumerate(bars):
        middle = _TOP + _ROW * (number + 0.5)
        colour = _COLOURS[0] if value >= 0 else _COLOURS[1]
        parts.append(f'<text x="{_LEFT - 10}" y="{middle + 4:.1f}" text-anchor="end">{_label(label)}</text>')
        parts.append(
            f'<rect x="{min(x(0), x(value)):.1f}" y="{middle - 7:.1f}" width="{abs(x(value) - x(0)):.1f}" height="14" '
            f'fill="{colour}"><title>{escape(clean(label))}: {value:+.4f}</title></rect>'
        )
    parts.append(f'<line class="reference" x1="{x(0):.1f}" x2="{x(0):.1f}" y1="{_TOP}" y2="{height - 24}"/>')
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


def line_plot(
    curves: Sequence[Curve],
    *,
    title: str,
    x_title: str,
    is_log: bool = False,
    reference: float | None = None,
) -> str:
    """Draw series of points with their intervals along an axis.

    Args:
        curves: The series. Points are joined, unless the series has a line.
        title: Read by screen readers.
        x_title: Name of the axis.
        is_log: Whether the axis is logarithmic; every x is then positive.
        reference: Value of a dashed horizontal line.

    Returns:
        An SVG element; all text is escaped. Empty if there is no figure.
    """
    shown = [(x, figure) for curve in curves for x, figure in curve.points if figure.value is not None]
    if not shown:
        return ""
    numbers = [n for _, figure in shown for n in (figure.value, figure.low, figure.high) if n is not None]
    numbers += [] if reference is None else [reference]
    y_ticks = _ticks(min(numbers), max(numbers))
    scale = math.log10 if is_log else float
    places = [scale(x) for x, _ in shown] + [scale(x) for curve in curves for x, _ in curve.line]
    left, right = min(places), max(places)
    margin = 0.03 * (right - left) or 0.5
    left, right, top, bottom = left - margin, right + margin, _TOP, 330

    def at_x(value: float) -> float:
        return 70 + (scale(value) - left) / (right - left) * (_WIDTH - 90)

    def at_y(value: float) -> float:
        return bottom - (value - y_ticks[0]) / (y_ticks[-1] - y_ticks[0]) * (bottom - top)

    parts = _legend([curve.name for curve in curves])
    for tick in y_ticks:
        y = at_y(tick)
        parts.append(f'<line class="grid" x1="70" x2="{_WIDTH - 20}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="62" y="{y + 4:.1f}" text-anchor="end">{tick:.4g}</text>')
    for x in sorted({x for x, _ in shown}):
        parts.append(f'<text class="tick" x="{at_x(x):.1f}" y="{bottom + 16}" text-anchor="middle">{_short(x)}</text>')
    parts.append(f'<text x="{_WIDTH / 2}" y="{bottom + 36}" text-anchor="middle">{_label(x_title)}</text>')
    if reference is not None:
        y = at_y(reference)
        parts.append(f'<line class="reference" x1="70" x2="{_WIDTH - 20}" y1="{y:.1f}" y2="{y:.1f}"/>')
    for place, curve in enumerate(curves):
        colour, name = _COLOURS[place % len(_COLOURS)], escape(clean(curve.name))
        points = [(x, figure) for x, figure in curve.points if figure.value is not None]
        line = curve.line or [(x, figure.value) for x, figure in points if figure.value is not None]
        inside = [(x, y) for x, y in line if y_ticks[0] <= y <= y_ticks[-1]]
        path = " ".join(f"{at_x(x):.1f},{at_y(y):.1f}" for x, y in inside)
        parts.append(f'<polyline fill="none" stroke="{colour}" stroke-width="1.5" points="{path}"/>')
        for x, figure in points:
            assert figure.value is not None
            if figure.low is not None and figure.high is not None:
                parts.append(
                    f'<line x1="{at_x(x):.1f}" x2="{at_x(x):.1f}" y1="{at_y(figure.low):.1f}" '
                    f'y2="{at_y(figure.high):.1f}" stroke="{colour}" stroke-width="2"/>'
                )
            parts.append(
                f'<circle cx="{at_x(x):.1f}" cy="{at_y(figure.value):.1f}" r="3.5" fill="{colour}"><title>{name}, '
                f"{_short(x)}: {figure.value:.4f}</title></circle>"
            )
    return _svg(_WIDTH, bottom + 46, title, parts)


def heat_map(
    cells: Mapping[tuple[float, float], float | None],
    *,
    title: str,
    x_title: str,
    y_title: str,
    low: float,
    high: float,
) -> str:
    """Draw a figure over two axes: a cell for each pair of values, with its number.

    Args:
        cells: The figure by (x, y); None is an empty cell.
        title: Shown above, and read by screen readers.
        x_title, y_title: Names of the axes.
        low, high: Figures of the lightest and of the darkest colour.

    Returns:
        An SVG element; all text is escaped. Empty if there is no cell.
    """
    if not cells:
        return ""
    xs, ys = sorted({x for x, _ in cells}), sorted({y for _, y in cells})
    width, height, left, top = 62, 30, 90, 44
    parts = [f'<text x="10" y="16">{_label(title)}</text>']
    for column, x in enumerate(xs):
        middle = left + (column + 0.5) * width
        parts.append(f'<text class="tick" x="{middle}" y="{top - 6}" text-anchor="middle">{_short(x)}</text>')
        for row, y in enumerate(ys):
            value = cells.get((x, y))
            if value is None:
                continue
            share = min(max((value - low) / ((high - low) or 1.0), 0.0), 1.0)
            colour = "#ffffff" if share > 0.6 else "#1f2328"
            at = f'x="{left + column * width}" y="{top + row * height}"'
            parts.append(
                f'<rect {at} width="{width - 2}" height="{height - 2}" fill="{_COLOURS[0]}" '
                f'fill-opacity="{0.08 + 0.92 * share:.3f}"/>'
                f'<text x="{middle - 1}" y="{top + row * height + 19}" text-anchor="middle" style="fill:{colour}">'
                f"{value:.2f}</text>"
            )
    for row, y in enumerate(ys):
        parts.append(
            f'<text class="tick" x="{left - 8}" y="{top + row * height + 19}" text-anchor="end">{_short(y)}</text>'
        )
    end = top + len(ys) * height
    parts.append(f'<text x="{left + len(xs) * width / 2}" y="{end + 18}" text-anchor="middle">{_label(x_title)}</text>')
    parts.append(f'<text x="10" y="{end + 18}">{_label(y_title)}</text>')
    return _svg(max(left + len(xs) * width + 10, 24 + 7 * len(title)), end + 28, title, parts)


def svg_file(plots: Sequence[tuple[str, str]]) -> str:
    """Return plots, one below the other, as the content of an SVG file, which a browser shows without a page.

    Args:
        plots: Pairs of the heading and an SVG element of this module; those without an element are left out.
    """
    y, widest, parts = 0.0, 1.0, []
    for heading, plot in plots:
        if not plot:
            continue
        width, height = map(float, re.findall(r'(?:width|height)="(\d+)"', plot)[:2])
        parts.append(f'<text x="10" y="{y + 18:.0f}" style="font-weight:600">{_label(heading)}</text>')
        parts.append(plot.replace("<svg ", f'<svg y="{y + 26:.0f}" ', 1))
        y, widest = y + height + 50, max(widest, width)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{widest:.0f}" height="{max(y, 1):.0f}">'
    return f"{head}<style>{_STYLE}</style><rect width='100%' height='100%' fill='#fff'/>{''.join(parts)}</svg>\n"


def _short(number: float) -> str:
    """Return a number of an axis in few characters, as in 3M."""
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e4, "k")):
        if abs(number) >= size:
            return f"{number / (1e3 if letter == 'k' else size):.3g}{letter}"
    return f"{number:.4g}"


def _vertical_grid(ticks: Mapping[float, float], height: float) -> list[str]:
    """Draw the lines and numbers of an axis below rows.

    Args:
        ticks: The place of each number.
        height: Of the plot.
    """
    parts = []
    for tick, x in ticks.items():
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{height - 24}"/>')
        parts.append(f'<text class="tick" x="{x:.1f}" y="{height - 8}" text-anchor="middle">{tick:.4g}</text>')
    return parts


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
