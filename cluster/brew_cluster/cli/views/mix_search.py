"""Shows the outcome of a search for a mix: tables, the recipe, and the loss over the share of each source as an SVG."""

import math
from collections.abc import Mapping
from typing import Any

import yaml

from brew_cluster.cli.views.svg import WIDTH, svg_document, svg_text
from brew_cluster.cli.views.table import add_row, make_table, print_table
from brew_platform.console.plain_console import PlainConsole

__all__ = ["mix_search_svg", "show_mix_search"]

PANEL, LEFT, RIGHT, TOP, BOTTOM = 200, 70, 20, 34, 30  # pixels
SIZES, LAW, CHOSEN = ("#9ab8d4", "#4878a8", "#28486a"), "#c8553d", "#2a7f4f"
STEPS = 60  # points of a curve


def show_mix_search(console: PlainConsole, result: Mapping[str, Any]) -> None:
    """Print the mixes, the loss of each validation set, what the figures are worth, and the recipe."""
    sources, sizes = list(result["share"]), [f"{count:,}" for count in result["parameters"]]
    columns = [*sources, *sizes]
    mixes = make_table("mix", *columns, title="Mixes: shares, and weighted loss by parameters", right=columns)
    numbered = sorted(enumerate(result["trials"]), key=lambda item: _weighted(result, item[1]["losses"][-1][-1]))
    for number, trial in numbered:
        losses = [f"{_weighted(result, by_size[-1]):.4f}" for by_size in trial["losses"]]
        add_row(mixes, number or "natural", *(f"{share:.1%}" for share in trial["share"].values()), *losses)
    print_table(console, mixes, empty="no mixes")
    columns = ["weight", "natural", "chosen", "error of the law"]
    sets = make_table("validation set", *columns, title="Losses, in nats per token", right=columns)
    for name, weight in result["weights"].items():
        losses = [f"{result['losses'][mix][name]:.4f}" for mix in ("natural", "chosen")]
        add_row(sets, name, f"{weight:g}", *losses, f"{result['laws'][name]['left_out_error']:.4f}")
    print_table(console, sets, empty="no validation sets")
    for line in _sentences(result):
        console.print(line)
    console.print("Weights for the recipe:")
    for line in yaml.safe_dump(result["recipe"], sort_keys=False).splitlines():
        console.print(line)


def _sentences(result: Mapping[str, Any]) -> list[str]:
    """Return what the figures are worth."""
    lines = []
    for unit, ranks in result["rank_correlations"].items():
        if ranks:
            numbers = ", ".join(f"{rank:.2f}" for rank in ranks)
            lines.append(f"Rank correlation of the mixes between successive numbers of {unit}: {numbers}.")
    if result["refusal"]:
        lines.append(f"Not extrapolated: {result['refusal']}. The weights are those for the largest trials.")
    elif result["is_extrapolated"]:
        lines.append("The losses of the natural and of the chosen mix are extrapolated.")
    error = f"an error of {result['left_out_error']:.4f} for mixes that were left out"
    if not result["is_by_law"]:
        lines.append(f"The laws have {error}, no less than the mean of the other mixes. The best measured mix is used.")
        return lines
    gain = _weighted(result, result["losses"]["natural"]) - _weighted(result, result["losses"]["chosen"])
    lines.append(f"The laws have {error} (skill {result['skill']:.2f}), and predict a gain of {gain:.4f}.")
    measured = _weighted(result, result["trials"][0]["losses"][-1][-1]) - _weighted(result, result["check"])
    lines.append(f"Measured at the largest size: a gain of {measured:.4f} over the natural mix.")
    if measured <= result["left_out_error"]:
        lines.append("This is not more than the error of the laws: the natural mix may be as good.")
    return lines


def _weighted(result: Mapping[str, Any], losses: Mapping[str, float]) -> float:
    weights: Mapping[str, float] = result["weights"]
    return sum(weight * losses[name] for name, weight in weights.items()) / sum(weights.values())


def mix_search_svg(result: Mapping[str, Any]) -> str:
    """Draw the weighted loss over the share of each source: the mixes of each size, and the law.

    The curve of a source starts from the chosen mix, in which the shares of the other sources keep their proportions.

    Args:
        result: The content of `mix_search.json`.

    Returns:
        The SVG document.
    """
    points = [
        (trial["share"], [_weighted(result, by_size[-1]) for by_size in trial["losses"]]) for trial in result["trials"]
    ]
    curves = {source: _curve(result, source) for source in result["share"]}
    losses = [loss for _, by_size in points for loss in by_size]
    losses += [loss for curve in curves.values() for _, loss in curve]
    low, high = min(losses), max(losses)
    span = (high - low) or 1.0
    parts = []
    for number, (name, count) in enumerate([*zip(_colours(result), result["parameters"], strict=True)]):
        parts.append(svg_text(f"{count:,} parameters", LEFT + 170 * number, 18, colour=name))
    parts.append(svg_text("law", WIDTH - RIGHT - 90, 18, colour=LAW))
    parts.append(svg_text("chosen", WIDTH - RIGHT, 18, colour=CHOSEN, anchor="end"))
    for number, (source, curve) in enumerate(curves.items()):
        top, bottom = TOP + number * PANEL, TOP + (number + 1) * PANEL - BOTTOM

        def x(share: float) -> float:
            return LEFT + (WIDTH - LEFT - RIGHT) * share

        def y(loss: float, bottom: int = bottom, top: int = top) -> float:
            return bottom - (bottom - top - 10) * (loss - low) / span

        parts += [
            f'<path d="M{LEFT} {top} V{bottom} H{WIDTH - RIGHT}" fill="none" stroke="#999"/>',
            *(svg_text(f"{loss:.3f}", LEFT - 6, f"{y(loss) + 4:.1f}", anchor="end") for loss in {low, high}),
            *(svg_text(f"{share:.0%}", f"{x(share):.1f}", bottom + 16, anchor="middle") for share in (0, 0.5, 1)),
            svg_text(f"share of {source}", f"{x(0.75):.1f}", bottom + 16, anchor="middle"),
        ]
        for shares, by_size in points:
            for colour, loss in zip(_colours(result), by_size, strict=True):
                parts.append(f'<circle cx="{x(shares[source]):.1f}" cy="{y(loss):.1f}" r="3" fill="{colour}"/>')
        line = " ".join(f"{x(share):.1f},{y(loss):.1f}" for share, loss in curve)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{LAW}" stroke-width="1.5"/>')
        chosen = x(result["share"][source])
        parts.append(f'<path d="M{chosen:.1f} {top} V{bottom}" stroke="{CHOSEN}" stroke-dasharray="4 3"/>')
    return svg_document(parts, height=TOP + PANEL * len(curves))


def _curve(result: Mapping[str, Any], source: str) -> list[tuple[float, float]]:
    """Return shares of a source, between those that were measured, and the loss that the laws predict."""
    measured = [trial["share"][source] for trial in result["trials"]]
    least, most = min(measured), max(measured)
    chosen: Mapping[str, float] = result["share"]
    others = sum(share for name, share in chosen.items() if name != source) or 1.0
    curve = []
    for step in range(STEPS + 1):
        share = least + (most - least) * step / STEPS
        mix = {name: share if name == source else value * (1 - share) / others for name, value in chosen.items()}
        losses = {
            name: law["constant"] + math.exp(min(50.0, sum(law["rates"][key] * mix[key] for key in mix)))
            for name, law in result["laws"].items()
        }
        curve.append((share, _weighted(result, losses)))
    return curve


def _colours(result: Mapping[str, Any]) -> list[str]:
    """Return a colour for each size; sizes after the third have the last one."""
    return [SIZES[min(number, len(SIZES) - 1)] for number in range(len(result["parameters"]))]
