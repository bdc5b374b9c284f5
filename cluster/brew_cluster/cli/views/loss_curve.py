"""Draws the loss of a training run as an SVG image."""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import chain, groupby
from typing import Any

from brew_cluster.cli.views.svg import WIDTH, svg_document, svg_text

__all__ = ["loss_curve_svg"]

HEIGHT = 380
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
        return svg_document([], height=HEIGHT)
    ticks = _ticks(min(losses), max(losses))
    low, high, most = min(ticks[0], *losses), max(ticks[-1], *losses), last[-1]["step"]

    def x(step: float) -> str:
        return f"{LEFT + (WIDTH - LEFT - RIGHT) * step / most:.1f}"

    def y(loss: float) -> str:
        return f"{TOP + (HEIGHT - TOP - BOTTOM) * (high - loss) / (high - low):.1f}"

    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    parts = [
        svg_text("training loss", LEFT, 20, colour=TRAINING),
        svg_text("evaluation loss (averaged weights)", LEFT + 100, 20, colour=EVALUATION) if any(evaluated) else "",
        svg_text("step", right, HEIGHT - 8, anchor="end"),
    ]
    for tick in ticks:
        parts.append(f'<line x1="{LEFT}" x2="{right}" y1="{y(tick)}" y2="{y(tick)}" stroke="#ddd"/>')
        parts.append(svg_text(f"{tick:g}", LEFT - 8, f"{float(y(tick)) + 4:.1f}", anchor="end"))
    for step in [tick for tick in _ticks(0, most) if tick <= most]:
        parts.append(svg_text(f"{step:,.0f}", x(step), bottom + 18, anchor="middle"))
    for name, group in stages:
        at = x(group[0]["step"] - 1)
        parts.append(f'<line x1="{at}" x2="{at}" y1="{TOP}" y2="{bottom}" stroke="#999" stroke-dasharray="4 3"/>')
        parts.append(svg_text(str(name), f"{float(at) + 5:.1f}", TOP - 4))
    for curves, colour in ((training, TRAINING), (evaluated, EVALUATION)):
        for curve in curves:
            line = " ".join(f"{x(step)},{y(loss)}" for step, loss in curve)
            parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
    for step, loss in chain(*evaluated):
        parts.append(f'<circle cx="{x(step)}" cy="{y(loss)}" r="3" fill="{EVALUATION}"/>')
    return svg_document(parts, height=HEIGHT)


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
