"""Bars are as long as their values, and stay in the picture."""

from xml.etree import ElementTree

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from brew_cluster.cli.views.bar_chart import MOST_BARS, bar_chart_svg
from brew_cluster.cli.views.svg import WIDTH

SVG = "{http://www.w3.org/2000/svg}"


def drawn(svg: str) -> tuple[list[dict[str, str]], list[str]]:
    """The bars and the texts of a picture."""
    root = ElementTree.fromstring(svg)
    bars = [dict(rect.items()) for rect in root.iter(f"{SVG}rect")][1:]  # the first is the background
    return bars, [text.text or "" for text in root.iter(f"{SVG}text")]


def test_bars_have_labels_and_figures() -> None:
    bars, texts = drawn(bar_chart_svg([("a & <b>", 1_000), ("\x1b[2J", 250), ("none", 0)], title="actions"))
    widths = [float(bar["width"]) for bar in bars]
    assert widths == pytest.approx([widths[0], widths[0] / 4, 0], abs=0.1)
    assert texts == ["actions", "a & <b>", "1,000", "\\x1b[2J", "250", "none", "0"]


def test_rows_beyond_the_most_are_added_up() -> None:
    bars, texts = drawn(bar_chart_svg([(f"row {number}", 2) for number in range(MOST_BARS + 9)], title="t"))
    assert len(bars) == MOST_BARS
    assert texts[-2:] == ["10 others", "20"]


@example([("the smallest float", 5e-324)])
@given(st.lists(st.tuples(st.text(max_size=60), st.integers(0, 10**12) | st.floats(0, 1)), max_size=60))
def test_any_counts_fit_into_the_picture(rows: list[tuple[str, float]]) -> None:
    bars, _ = drawn(bar_chart_svg(rows, title="t"))
    assert len(bars) == min(len(rows), MOST_BARS)
    for bar in bars:
        assert float(bar["x"]) + float(bar["width"]) <= WIDTH
