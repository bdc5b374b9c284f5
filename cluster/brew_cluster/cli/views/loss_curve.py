"""Draws the loss of a training run as an SVG image."""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import chain, groupby
from typing import Any
from xml.sax.saxutils import escape

__all__ = ["loss_curve_svg"]

WIDTH, HEIGHT = 760, 380
LEFT, RIGHT, TOP, BOTTOM = 60, 20, 40, 45  # margins
POINTS = 500  # maximum number of points of a stage's training curve; each is the mean of consecutive steps
TRAINING, EVALUATION = "#4878a8", "#c8553d"


def loss_curve_svg(rows: Sequence[Mapping[str, Any]]) -> str:
    """Draw training and evaluation loss by step. Each stage has its own curve, because each has its own loss.

    Args:
        rows: The rows of metrics.jsonl, in order. If a step was repeated, its last row is drawn.

    Returns:
        The SVG document.
    """
    last = sorted({row["step"]: row for row in rows}.values(), key=lambda row: row["step"])
    stages = [(name, list(group)) for name, group in groupby(last, key=lambda row: row["stage"])]
    training = [_thinned(_points(group, lambda row: row["loss"])) for _, group in stages]
    evaluated = [_points(group, lambda row: (row.get("evaluation") or {}).get("loss")) for _, group in stages]
    losses = [loss for curve in [*training, *evaluated] for _, loss in curve]
    if not losses:
        return f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}"/>\n'
    ticks = _ticks(min(losses), max(losses))
    low, high, most = min(ticks[0], *losses), max(ticks[-1], *losses), last[-1]["step"]

    def x(step: float) -> str:
        return f"{LEFT + (WIDTH - LEFT - RIGHT) * step / most:.1f}"

    def y(loss: float) -> str:
        return f"{TOP + (HEIGHT - TOP - BOTTOM) * (high - loss) / (high - low):.1f}"

    def text(content: str, at: str, down: float | str, anchor: str = "start", colour: str = "#444") -> str:
        return f'<text x="{at}" y="{down}" text-anchor="{anchor}" fill="{colour}">{escape(content)}</text>'

    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        text("training loss", str(LEFT), 20, colour=TRAINING),
        text("evaluation loss (averaged weights)", str(LEFT + 100), 20, colour=EVALUATION) if any(evaluated) else "",
        text("step", str(right), HEIGHT - 8, "end"),
    ]
    for tick in ticks:
        parts.append(f'<line x1="{LEFT}" x2="{right}" y1="{y(tick)}" y2="{y(tick)}" stroke="#ddd"/>')
        parts.append(text(f"{tick:g}", str(LEFT - 8), float(y(tick)) + 4, "end"))
    for step in [tick for tick in _ticks(0, most) if tick <= most]:
        parts.append(text(f"{step:,.0f}", x(step), bottom + 18, "middle"))
    for name, group in stages:
        at = x(group[0]["step"] - 1)
        parts.append(f'<line x1="{at}" x2="{at}" y1="{TOP}" y2="{bottom}" stroke="#999" stroke-dasharray="4 3"/>')
        parts.append(text(str(name), f"{float(at) + 5:.1f}", TOP - 4))
    for curves, colour in ((training, TRAINING), (evaluated, EVALUATION)):
        for curve in curves:
            line = " ".join(f"{x(step)},{y(loss)}" for step, loss in curve)
            parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
    for step, loss in chain(*evaluated):
        parts.append(f'<circle cx="{x(step)}" cy="{y(loss)}" r="3" fill="{EVALUATION}"/>')
    return "\n".join([*filter(None, parts), "</svg>"]) + "\n"


def _points(
    rows: Sequence[Mapping[str, Any]], loss: Callable[[Mapping[str, Any]], float | None]
) -> list[tuple[float, float]]:
    return [(row["step"], value) for row in rows if (value := loss(row)) is not None]


def _thinned(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return at most POINTS points, each the mean of consecutive points."""
    size = math.ceil(len(points) / POINTS) or 1
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    return [(sum(s for s, _ in group) / len(group), sum(v for _, v in group) / len(group)) for group in groups]


def _ticks(low: float, high: float) -> list[float]:
    """Return about five round numbers that cover the range from `low` to `high`."""
    span = (high - low) or abs(high) or 1.0
    unit = 10.0 ** math.floor(math.log10(span / 5))
    size = next(unit * factor for factor in (1, 2, 5, 10) if span / (unit * factor) <= 5)
    first, last = math.floor(low / size), math.ceil(high / size)
    return [round(n * size, 12) for n in range(first, max(last, first + 1) + 1)]
