"""The table of a study is read as it was written, and its plots are well-formed and complete."""

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from brew_eval.intervals import Figure, Replicates
from brew_eval.studies.scaling_law import fit_scaling_law
from brew_eval.studies.study_table import (
    StudyPlot,
    StudyPoint,
    law_table,
    points_table,
    read_points,
    study_plots,
    write_points,
)
from brew_platform.errors import UserError

SVG = "{http://www.w3.org/2000/svg}"
POINTS = [
    StudyPoint(figure="auc", series=series, point=f"steps {x}", x=x, value=Figure(0.6 + x / 100, 0.55, 0.7), rows=9)
    for series in ("movie_rating", "<mean> & more")
    for x in (1.0, 2.0, 4.0, 8.0)
]


def test_points_are_read_as_they_were_written(tmp_path: Path) -> None:
    points = [*POINTS, StudyPoint(figure="rouge", series="a,b", point="x\ny", y=0.1 + 0.2, value=Figure(None))]
    write_points(points, tmp_path / "table.csv")
    assert read_points(tmp_path / "table.csv") == points


@pytest.mark.parametrize("text", ["", "a,b\n1,2\n", "figure,series,point,x,y,value,low,high,rows\na,b,c,one,,,,,\n"])
def test_another_file_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text(text or "figure\nauc\n")
    with pytest.raises(UserError, match="is not the table of a study"):
        read_points(tmp_path / "table.csv")


@pytest.mark.parametrize("log", [False, True])
def test_a_line_plot_has_a_point_with_its_interval_for_each_row(log: bool) -> None:
    root = ElementTree.fromstring(study_plots(POINTS, StudyPlot(x="steps", log=log, reference=0.5)))
    names = [title.text for title in root.iter(f"{SVG}title")]
    assert "<mean> & more, 8: 0.6800" in names
    assert len([name for name in names if name and ": 0." in name]) == len(POINTS)
    assert "auc" in [text.text for text in root.iter(f"{SVG}text")]


def test_points_without_a_number_are_dots() -> None:
    points = [
        StudyPoint(figure="auc", series="t", point=name, value=Figure(0.7, 0.6, 0.8)) for name in ("raw", "percentile")
    ]
    assert "percentile" in study_plots(points, StudyPlot())


def test_a_heat_map_has_a_cell_for_each_pair() -> None:
    points = [
        StudyPoint(figure="recall", series="alpha 2", point=f"{x} {y}", x=x, y=y, value=Figure(0.25))
        for x in (128.0, 256.0)
        for y in (0.0, 0.5, 1.0)
    ]
    root = ElementTree.fromstring(study_plots(points, StudyPlot(kind="heat", x="tokens", y="depth")))
    assert len([text for text in root.iter(f"{SVG}text") if text.text == "0.25"]) == 6


def test_tables_have_figures_with_intervals_and_laws() -> None:
    table = points_table(POINTS, "auc")
    assert table.columns == ["point", "movie_rating", "<mean> & more"]
    assert table.rows[0] == ["steps 1.0", ".6100 [.5500, .7000]", ".6100 [.5500, .7000]"]
    x = np.array([1.0, 2.0, 4.0, 8.0, 16.0])
    law = fit_scaling_law(list(x), [Replicates(v, np.full(5, v)) for v in 0.4 + 0.3 * x**-0.8], form="loss")
    assert law_table({("logloss", "t"): law}).rows[0][:4] == ["logloss", "t", "loss", ".4000 [.4000, .4000]"]
    drawn = study_plots([], StudyPlot(), {})
    ElementTree.fromstring(drawn)
