"""Ranges on the command line."""

import math

import pytest

from brew_cluster.capacity.bounds import Bounds, span
from brew_platform.errors import UserError


@pytest.mark.parametrize(
    ("text", "bounds"), [("0.2..0.5", Bounds(0.2, 0.5)), ("3", Bounds(3, 3)), ("1e-2..1", Bounds(0.01, 1))]
)
def test_ranges_are_read_and_written(text: str, bounds: Bounds) -> None:
    assert Bounds.parse("--mfu", text) == bounds
    assert Bounds.parse("--mfu", str(bounds)) == bounds
    assert Bounds.parse("--mfu", text, unit=2) == Bounds(2 * bounds.low, 2 * bounds.high)


@pytest.mark.parametrize("text", ["", "a", "1..2..3", "0", "-1", "nan", "inf", "2", "..", "0.1-0.2"])
def test_what_is_no_range_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"--mfu is .*; give a positive number up to 1, or a range as in 0.2..0.5"):
        Bounds.parse("--mfu", text, most=1.0)


def test_a_range_must_not_end_below_its_start() -> None:
    with pytest.raises(UserError, match="write the smaller number first"):
        Bounds.parse("--mfu", "0.5..0.2")


def test_the_span_of_two_sets_is_ordered() -> None:
    assert span({"a": 2, "b": 1}, {"a": 1, "b": math.inf}) == {"a": Bounds(1, 2), "b": Bounds(1, math.inf)}
