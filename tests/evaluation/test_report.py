"""Reports as Markdown and HTML: complete, self-contained, and safe with hostile text."""

import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from brew_eval.compare import compare
from brew_eval.evaluation import evaluate
from brew_eval.intervals import Figure
from brew_eval.measurement import EvaluationConfig
from brew_eval.metrics.probability import ReliabilityBin
from brew_eval.report.files import read_evaluation, write_comparison, write_report
from brew_eval.report.markdown import comparison_markdown, escape_markdown, report_markdown
from brew_eval.report.page import comparison_page, report_page
from brew_eval.report.plots import DotRow, dot_plot, reliability_plot
from brew_eval.report.tables import figure_text, report_tables
from brew_eval.scored_rows import ScoredRows
from brew_platform.errors import UserError

from .rows import columns, scored

FAST = EvaluationConfig(replicates=20)
HOSTILE = "<script>alert(1)</script>|\"'&`[x](http://y)\n# \x00\x08"


def rows_of(task: str = "like", **changes: object) -> ScoredRows:
    data = columns(120, task=task)
    return scored({**data, "score": [None, *data["score"][1:]], **changes}, model="registry:7")


class Tags(HTMLParser):
    """Collects the tags of a page, and the sources that it would load."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}


@pytest.mark.parametrize("task", ["like", HOSTILE])
def test_pages_are_self_contained_and_escaped(task: str) -> None:
    rows = rows_of(task, locale=[HOSTILE] * 60 + ["en"] * 60, surface=[task] * 120)
    baseline = rows.with_scores(rows.column("best"), baseline=HOSTILE)
    pages = [
        report_page(evaluate(rows, [baseline], FAST)),
        comparison_page(compare(rows, baseline, FAST)),
    ]
    for page in pages:
        found = Tags(page)
        assert not found.tags & {"script", "link", "iframe", "img", "object", "a"}
        assert not found.attributes & {"src", "href", "onload", "onclick", "style"}
        assert "&lt;script&gt;" in page
        assert not re.search(r"[\x00-\x09\x0b-\x1f]", page)
        for svg in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
            ElementTree.fromstring(svg)


def test_a_page_has_the_plots_and_tables() -> None:
    rows = rows_of()
    page = report_page(evaluate(rows, [rows.with_scores(rows.column("best"), baseline="popularity")], FAST))
    assert page.count("<svg") == 3
    for text in ("AUC by task", "Reliability", "AUC by slice: like", "Baselines", "Not in the figures", "registry:7"):
        assert text in page
    assert "1 of 120 rows have no score" in page


@pytest.mark.parametrize("task", ["like", HOSTILE])
def test_markdown_has_the_same_number_of_cells_in_each_row(task: str) -> None:
    rows = rows_of(task)
    report = evaluate(rows, [rows.with_scores(rows.column("best"), baseline="a|b")], FAST)
    text = report_markdown(report)
    assert "<script" not in text
    tables = re.findall(r"(?:^\|.*\n?)+", text, re.MULTILINE)
    assert len(tables) == len(report_tables(report)) == 4
    for table in tables:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1
    assert "A is" in comparison_markdown(compare(rows, rows, FAST))


def test_a_report_without_probabilities_has_no_reliability_curve() -> None:
    data = columns(50)
    page = report_page(evaluate(scored({**data, "score": np.arange(50.0)}), config=FAST))
    assert "Reliability" not in page


def test_markdown_is_escaped() -> None:
    text = escape_markdown("a|b\n# <b> [x](http://y) `c` [.1, .2]")
    assert text == r"a\|b \# &lt;b&gt; [x]\(http:&#47;&#47;y) \`c\` [.1, .2]"


@pytest.mark.parametrize(
    ("figure", "signed", "text"),
    [
        (Figure(0.75123, 0.7, 0.8), False, ".7512 [.7000, .8000]"),
        (Figure(-0.01, -0.02, 0.0), True, "-.0100 [-.0200, +.0000]"),
        (Figure(10.25), False, "10.2500"),
        (Figure(1.0), False, "1.0000"),
        (Figure(None), False, "-"),
        (None, False, "-"),
    ],
)
def test_figures_are_short(figure: Figure | None, signed: bool, text: str) -> None:
    assert figure_text(figure, signed=signed) == text


def test_plots_place_points_in_proportion() -> None:
    svg = ElementTree.fromstring(
        dot_plot([DotRow("a", [Figure(0.5), None]), DotRow("b", [Figure(0.6), Figure(0.7)])], ["m", "n"], title="t")
    )
    circles = [part for part in svg.iter() if part.tag.endswith("circle") and len(part)]
    x = [float(circle.attrib["cx"]) for circle in circles]
    assert len(x) == 3
    assert x[1] - x[0] == pytest.approx(x[2] - x[1], abs=0.2)


def test_empty_and_single_values_can_be_plotted() -> None:
    assert dot_plot([DotRow("a", [Figure(None), None])], ["m", "n"], title="t") == ""
    assert reliability_plot([], title="t") == ""
    ElementTree.fromstring(dot_plot([DotRow("a", [Figure(0.5, 0.5, 0.5)])], ["m"], title="t", reference=0.0))
    ElementTree.fromstring(reliability_plot([ReliabilityBin(3, 0.0, 0.0)], title="t"))


def test_reports_are_written_side_by_side(tmp_path: Path) -> None:
    rows = rows_of()
    report = evaluate(rows, config=FAST)
    paths = [
        *write_report(report, tmp_path / "new/report.json"),
        *write_comparison(compare(rows, rows, FAST), tmp_path / "c.json"),
    ]
    assert [path.name for path in paths] == ["report.json", "report.md", "report.html", "c.json", "c.md", "c.html"]
    assert all(path.stat().st_size for path in paths)
    assert read_evaluation(paths[0]) == report
    with pytest.raises(UserError, match=r"does not end in \.json"):
        write_report(report, tmp_path / "report")
    with pytest.raises(UserError, match="cannot be read"):
        read_evaluation(tmp_path / "missing.json")
