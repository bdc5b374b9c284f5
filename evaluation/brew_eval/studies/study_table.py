"""The table of a study: a figure with its interval for each series and point, as CSV, Markdown and plots."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from brew_eval.intervals import Figure
from brew_eval.report.plots import Curve, DotRow, dot_plot, heat_map, line_plot, svg_file
from brew_eval.report.tables import Table, figure_text
from brew_eval.studies.scaling_law import ScalingLaw
from brew_platform.errors import UserError
from brew_platform.files import replace_atomically
from brew_platform.settings import OneOf, Range, Settings

__all__ = ["StudyPlot", "StudyPoint", "law_table", "points_table", "read_points", "study_plots", "write_points"]

_COLUMNS = ("figure", "series", "point", "x", "y", "value", "low", "high", "rows")


@dataclass(frozen=True, kw_only=True)
class StudyPlot(Settings):
    """How a study is drawn, by figure.

    Args:
        kind: `line`: along a numeric axis. `dots`: a line per point, without order. `heat`: over two axes.
        x: Name of the axis.
        y: Name of the second axis of a heat map.
        log: Whether the axis of a line plot is logarithmic.
        reference: Dashed line, such as .5 for AUC.
    """

    kind: Annotated[str, OneOf(("line", "dots", "heat"))] = "line"
    x: str = ""
    y: str = ""
    log: bool = False
    reference: Annotated[float, Range()] | None = None


@dataclass(frozen=True, kw_only=True)
class StudyPoint:
    """A row of the table.

    Args:
        figure: Name of the figure, as in `auc`; each figure has a plot.
        series: Such as the task.
        point: Name of the point, as in `history 512`.
        x: Place on the axis; None without a numeric axis.
        y: Place on the second axis of a heat map.
        value: The figure.
        rows: Scored rows or prompts behind it; None: not known.
    """

    figure: str
    series: str
    point: str
    value: Figure
    x: float | None = None
    y: float | None = None
    rows: int | None = None


def write_points(points: Sequence[StudyPoint], path: Path) -> None:
    """Write the CSV file, whole or not at all. Numbers are written exactly."""
    output = io.StringIO()
    writer = csv.writer(output)
    writer.writerow(_COLUMNS)
    for point in points:
        numbers = (point.x, point.y, point.value.value, point.value.low, point.value.high, point.rows)
        names = (point.figure, point.series, point.point)
        writer.writerow([*names, *("" if number is None else repr(number) for number in numbers)])
    replace_atomically(path, output.getvalue())


def read_points(path: Path) -> list[StudyPoint]:
    """Read what `write_points` wrote.

    Raises:
        UserError: The file is not the table of a study.
    """
    try:
        rows = list(csv.DictReader(io.StringIO(path.read_text())))
        found = []
        for row in rows:
            number = {name: float(row[name]) if row[name] else None for name in _COLUMNS[3:]}
            found.append(
                StudyPoint(
                    figure=row["figure"],
                    series=row["series"],
                    point=row["point"],
                    value=Figure(number["value"], number["low"], number["high"]),
                    x=number["x"],
                    y=number["y"],
                    rows=None if number["rows"] is None else int(number["rows"]),
                )
            )
        return found
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise UserError(
            f"{path} is not the table of a study ({error}). Pass the folder of `brew360 study run`."
        ) from error


def points_table(points: Sequence[StudyPoint], figure: str) -> Table:
    """Return the rows of a figure: a line per point, a column per series. Heat maps have lines for y."""
    shown = [point for point in points if point.figure == figure]
    series = list(dict.fromkeys(point.series for point in shown))
    heads = list(dict.fromkeys((point.point, point.x, point.y) for point in shown))
    by_place = {(point.point, point.x, point.y, point.series): point.value for point in shown}
    rows = [[head[0], *(figure_text(by_place.get((*head, name))) for name in series)] for head in heads]
    return Table(figure, ["point", *series], rows)


def law_table(laws: Mapping[tuple[str, str], ScalingLaw]) -> Table:
    """Return the fitted laws by figure and series."""
    rows = []
    for (figure, series), law in laws.items():
        held_out = law.held_out
        predicted, measured, inside = "-", "-", "-"
        if held_out is not None:
            predicted, measured = figure_text(held_out.predicted), f"{held_out.measured:.4f}"
            inside = {None: "-", True: "yes", False: "no"}[held_out.is_inside]
        limit = figure_text(law.limit) if law.is_identified else "not identified"
        rows.append(
            [
                figure,
                series,
                law.form,
                limit,
                f"{law.scale.value:.4g}",
                figure_text(law.exponent),
                predicted,
                measured,
                inside,
            ]
        )
    heads = [
        "figure",
        "series",
        "form",
        "limit c",
        "scale a",
        "exponent b",
        "last point predicted",
        "measured",
        "inside",
    ]
    return Table("Scaling laws", heads, rows)


def study_plots(
    points: Sequence[StudyPoint], plot: StudyPlot, laws: Mapping[tuple[str, str], ScalingLaw] | None = None
) -> str:
    """Draw all figures of a study; returns the content of an SVG file."""
    drawn: list[tuple[str, str]] = []
    for figure in dict.fromkeys(point.figure for point in points):
        shown = [point for point in points if point.figure == figure]
        series = list(dict.fromkeys(point.series for point in shown))
        has_axis = all(point.x is not None for point in shown)
        if plot.kind == "heat" and has_axis:
            drawn += [(figure, _heat(shown, name, plot)) for name in series]
        elif plot.kind == "line" and has_axis:
            curves = [_curve(shown, name, (laws or {}).get((figure, name)), plot) for name in series]
            x_title = plot.x or "x"
            title = f"{figure} by {x_title}"
            line = line_plot(curves, title=title, x_title=x_title, is_log=plot.log, reference=plot.reference)
            drawn.append((figure, line))
        else:
            names = list(dict.fromkeys(point.point for point in shown))
            by_place = {(point.point, point.series): point.value for point in shown}
            rows = [DotRow(name, [by_place.get((name, other)) for other in series]) for name in names]
            drawn.append((figure, dot_plot(rows, series, title=figure, reference=plot.reference)))
    return svg_file(drawn)


def _curve(points: Sequence[StudyPoint], series: str, law: ScalingLaw | None, plot: StudyPlot) -> Curve:
    found = sorted(((point.x or 0.0, point.value) for point in _of(points, series)), key=lambda pair: pair[0])
    if law is None or len(found) < 2:
        return Curve(series, found)
    first, last = found[0][0], found[-1][0]
    xs: Any = np.geomspace(first, last * (2 if plot.log else 1.1), 60)
    return Curve(series, found, [(float(x), law.at(float(x)).value or 0.0) for x in xs])


def _heat(points: Sequence[StudyPoint], series: str, plot: StudyPlot) -> str:
    cells = {(point.x or 0.0, point.y or 0.0): point.value.value for point in _of(points, series)}
    return heat_map(cells, title=series, x_title=plot.x, y_title=plot.y, low=0.0, high=1.0)


def _of(points: Sequence[StudyPoint], series: str) -> list[StudyPoint]:
    return [point for point in points if point.series == series]
