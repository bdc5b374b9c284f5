"""Shows a capacity plan: a table of quantities with their formulas, the list of sources, and plots."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from brew_cluster.capacity.bounds import Bounds, Quantity
from brew_cluster.cli.views.svg import WIDTH, svg_document, svg_text
from brew_cluster.cli.views.table import add_row, make_table
from brew_platform.console.plain_console import PlainConsole

__all__ = ["Band", "bands_svg", "plan_as_json", "show_plans"]

Plans = Mapping[str, Mapping[str, Bounds]]  # by alternative, then by quantity
Band = Sequence[Sequence[tuple[float, float]]]  # an optimistic and a pessimistic curve
HEIGHT = 320  # of a plot without its legend
LINE = 16  # of the legend
LEFT, RIGHT, BOTTOM = 70, 20, 45  # margins
COLOURS = ("#4878a8", "#c8553d", "#5a9367", "#8a6bb0", "#b8860b", "#666666")
TIMES = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"), (1e-3, "ms"))  # seconds in a unit
SCALES = ((1e12, "T"), (1e9, "B"), (1e6, "M"))
BYTES = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1.0, "B"))


def show_plans(console: PlainConsole, title: str, quantities: Sequence[Quantity], plans: Plans) -> None:
    """Print the quantities of each alternative side by side, with their formulas, then the sources of the formulas."""
    table = make_table("quantity", *plans, "formula", title=title, right=[*plans])
    sources: list[str] = []
    for quantity in quantities:
        if not all(quantity.name in plan for plan in plans.values()):
            continue
        mark = ""
        if quantity.source != "-":
            if quantity.source not in sources:
                sources.append(quantity.source)
            mark = f" [{sources.index(quantity.source) + 1}]"
        values = [format_bounds(plan[quantity.name], quantity.unit) for plan in plans.values()]
        add_row(table, quantity.name, *values, quantity.formula + mark)
    console.print(table)
    for number, source in enumerate(sources, 1):
        console.print(f"[{number}] {source}")


def plan_as_json(quantities: Sequence[Quantity], plans: Plans) -> list[dict[str, Any]]:
    """Return the alternatives as JSON objects; an infinite number is null."""

    def number(value: float) -> float | None:
        return value if math.isfinite(value) else None

    return [
        {
            "alternative": name,
            "quantities": [
                {
                    "name": quantity.name,
                    "unit": quantity.unit,
                    "low": number(plan[quantity.name].low),
                    "high": number(plan[quantity.name].high),
                    "formula": quantity.formula,
                    "source": quantity.source,
                }
                for quantity in quantities
                if quantity.name in plan
            ],
        }
        for name, plan in plans.items()
    ]


def format_bounds(bounds: Bounds, unit: str) -> str:
    """Return a range in the unit of its larger end, as in `4.5 to 12.0 h`; one number if the ends look alike."""
    if math.isinf(bounds.high):
        return "never" if math.isinf(bounds.low) else f"{_format(bounds.low, bounds.low, unit)} to never"
    low, high = (_format(value, bounds.high or bounds.low, unit) for value in (bounds.low, bounds.high))
    return high if low == high else f"{low.split(' ')[0]} to {high}"


def _format(value: float, scale: float, unit: str) -> str:
    """Return a number with a unit that suits `scale`."""
    if unit == "share":
        return f"{value:.1%}"
    if unit == "s":
        size, name = next((pair for pair in TIMES if abs(scale) >= pair[0]), TIMES[-1])
        return f"{value / size:,.1f} {name}"
    if unit == "bytes":
        size, name = next((pair for pair in BYTES if abs(scale) >= pair[0]), BYTES[-1])
        return f"{value / size:,.1f} {name}"
    size, name = next((pair for pair in SCALES if abs(scale) >= pair[0]), (1, ""))
    digits = 0 if not name and (abs(scale) >= 100 or unit in ("replicas", "GPUs")) else 1
    return f"{value / size:,.{digits}f}{name}"


def bands_svg(
    title: str, bands: Mapping[str, Band], *, x_name: str, y_name: str, top: float, marks: Sequence[float] = ()
) -> str:
    """Draw the area between the optimistic and the pessimistic curve of each alternative. The x axis is logarithmic.

    Args:
        title: Text above the plot.
        bands: Points of the two curves, by alternative; x is positive, y at least 0.
        x_name, y_name: Names of the axes.
        top: Largest y; points above it are left out.
        marks: x of vertical lines, such as the best interval of each alternative, in the order of `bands`.

    Returns:
        The SVG document.
    """
    bands = {name: [[point for point in curve if point[1] <= top] for curve in band] for name, band in bands.items()}
    points = [point for band in bands.values() for curve in band for point in curve]
    if not points:
        return svg_document([svg_text(title, LEFT, 20)], height=HEIGHT)
    left, right = min(x for x, _ in points), max(x for x, _ in points)
    above = 50 + LINE * len(bands)
    height = HEIGHT + above
    width = math.log(right / left) or 1.0

    def place(x: float, y: float) -> str:
        across = LEFT + (WIDTH - LEFT - RIGHT) * math.log(x / left) / width
        return f"{across:.1f},{height - BOTTOM - (HEIGHT - BOTTOM) * y / top:.1f}"

    parts = [
        svg_text(title, LEFT, 20),
        svg_text(y_name, LEFT, above - 6),
        svg_text(x_name, WIDTH - RIGHT, height - 8, anchor="end"),
    ]
    for tick in (0.0, top / 4, top / 2, 3 * top / 4, top):
        y = place(left, tick).split(",")[1]
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}" stroke="#ddd"/>')
        parts.append(svg_text(f"{tick:.3g}", LEFT - 8, f"{float(y) + 4:.1f}", anchor="end"))
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        tick = left * math.exp(width * share)
        if left <= tick <= right:
            text = f"{tick:,.0f}" if tick >= 10 else f"{tick:.2g}"
            parts.append(svg_text(text, place(tick, 0).split(",")[0], height - BOTTOM + 18, anchor="middle"))
    for number, (name, band) in enumerate(bands.items()):
        colour = COLOURS[number % len(COLOURS)]
        best, worst = band
        # the pessimistic curve may start later, because its first points are above the plot
        start = [(best[0][0], top), (worst[0][0], top)] if best and worst and worst[0][0] > best[0][0] else []
        area = " ".join(place(x, y) for x, y in [*best, *reversed([*start, *worst])])
        parts.append(f'<polygon points="{area}" fill="{colour}" fill-opacity="0.2"/>')
        for curve in (best, worst):
            line = " ".join(place(x, y) for x, y in curve)
            parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        parts.append(svg_text(name, LEFT, 40 + LINE * number, colour=colour))
    for number, x in enumerate(marks):
        across = place(min(max(x, left), right), 0).split(",")[0]
        colour = COLOURS[number % len(COLOURS)]
        line = f'x1="{across}" x2="{across}" y1="{above}" y2="{height - BOTTOM}"'
        parts.append(f'<line {line} stroke="{colour}" stroke-dasharray="4 3"/>')
    return svg_document(parts, height=height)
