"""Raw columns become text, numbers and booleans by one rule, and each value that cannot is named with its reason."""

import math
from datetime import datetime
from decimal import Decimal

import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from brew_data.privacy.redaction import redact
from brew_data.prompts.fields import field_text
from brew_data.sources.time_values import times
from brew_data.sources.values import LONGEST_ID, booleans, find_unwritable, floats, has_text, identifiers, texts
from brew_platform.errors import UserError


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pa.array(["a", "", "  ", None, "nan"]), ["a", None, None, None, "nan"]),
        (pa.array([3.0, 3.5, math.nan, None]), ["3", "3.5", None, None]),
        (pa.array([10, None]), ["10", None]),
        (pa.array([True, False, None]), ["yes", "no", None]),
        (pa.array(["010", "3.0", "1e5"]), ["010", "3.0", "1e5"]),
        (pa.array([["a", "", None, "b"], [], None, ["c"]]), ["a, b", None, None, "c"]),
        (pa.array([[1.0, math.nan], [2.5]]), ["1", "2.5"]),
        (pa.array(["x", "y", "x"]).dictionary_encode(), ["x", "y", "x"]),
        (pa.array([None, None]), [None, None]),
        (pa.array([datetime(2024, 5, 1).date()]), ["2024-05-01"]),
        (pa.array([Decimal("1.50")]), ["1.5"]),
    ],
)
def test_texts_follow_the_rule_of_prompts(column: pa.Array, expected: list[str | None]) -> None:
    assert texts(column).to_pylist() == expected


def test_missing_texts_are_absent() -> None:
    assert texts(pa.array(["NULL", "nan", "a"]), ["NULL", "nan"]).to_pylist() == [None, None, "a"]


@pytest.mark.parametrize(
    "column",
    [
        pa.array([{"a": 1}]),
        pa.array([b"a"]),
        pa.array([[{"a": 1}]]),
        pa.array([[["a"]]]),
        pa.array([[b"a"]]),
        pa.array([5], pa.time32("s")),
        pa.array([5], pa.duration("s")),
    ],
)
def test_types_without_text_are_refused_as_in_requests(column: pa.Array) -> None:
    assert not has_text(column.type)
    with pytest.raises(TypeError):
        texts(column)
    with pytest.raises(UserError, match="which a prompt cannot show"):
        field_text("x", column[0].as_py())


@pytest.mark.parametrize(
    "kind",
    [pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.large_string()), pa.list_(pa.large_string())],
)
def test_texts_of_every_type_of_string(kind: pa.DataType) -> None:
    values = [["a"], None] if pa.types.is_list(kind) else ["a", None]
    assert texts(pa.chunked_array([pa.array(values, kind)])).to_pylist() == ["a", None]


@given(
    st.one_of(
        *(
            st.lists(kind, min_size=1, max_size=5)
            for kind in (st.text(), st.booleans(), st.integers(-(2**63), 2**63 - 1))
        )
    )
)
@example([6644887861348877])  # the number of a payment card
def test_texts_agree_with_field_text(values: list) -> None:
    """Tables and requests give the same prompt for the same value."""
    written = [redact(" ".join((text or "").split())) for text in texts(pa.array(values)).to_pylist()]
    assert written == [field_text("x", value) for value in values]


@given(st.lists(st.one_of(st.none(), st.floats(allow_infinity=False)), min_size=1, max_size=5))
def test_texts_of_floats_agree_with_field_text(values: list[float | None]) -> None:
    assert [text or "" for text in texts(pa.array(values, pa.float64())).to_pylist()] == [
        field_text("x", value) for value in values
    ]


@given(st.lists(st.one_of(st.none(), st.lists(st.one_of(st.none(), st.text(max_size=5)), max_size=4)), max_size=4))
@example([[",", "\x1b"]])
def test_texts_of_lists_agree_with_field_text(values: list[list[str | None] | None]) -> None:
    written = texts(pa.array(values, pa.list_(pa.string()))).to_pylist()
    assert [redact(text or "") for text in written] == [field_text("x", value) for value in values]


def test_infinite_numbers_are_faults_as_in_requests() -> None:
    assert find_unwritable(pa.array([1.0, math.inf])) == {1: ("is not a finite number", "inf")}
    assert find_unwritable(pa.array([[1.0], None, [2.0, -math.inf]])) == {2: ("is not a finite number", "-inf")}
    assert find_unwritable(pa.array(["inf"])) == {}
    with pytest.raises(UserError, match="not a finite number"):
        field_text("x", math.inf)


@pytest.mark.parametrize("kind", [pa.timestamp("s"), pa.timestamp("s", "UTC"), pa.timestamp("ms"), pa.date32()])
def test_dates_that_no_calendar_has_are_faults(kind: pa.DataType) -> None:
    column = pa.array(
        [0, 2**31 - 1 if kind == pa.date32() else 2**58], pa.int32() if kind == pa.date32() else pa.int64()
    )
    column = column.cast(kind)
    assert find_unwritable(column)[1][0] == "is not in the years 1 to 9998"
    assert texts(column).to_pylist()[0].startswith("1970-01-01")
    assert texts(column).to_pylist()[1] is None
    assert list(times(column, "seconds").faults) == [1]


def test_ids_of_floats_must_be_whole() -> None:
    values, faults = identifiers(pa.array([3.0, 2.5, None, math.nan]))
    assert values.to_pylist() == ["3", None, None, None]
    assert faults == {1: ("is not a whole number", "2.5")}
    assert identifiers(pa.array(["010", " ", "7"])).values.to_pylist() == ["010", None, "7"]
    assert identifiers(pa.array([2**60])).values.to_pylist() == [str(2**60)]
    assert identifiers(pa.array([Decimal("3.00"), Decimal("4.00")])).values.to_pylist() == ["3", "4"]
    assert list(identifiers(pa.array(["a" * LONGEST_ID, "a" * (LONGEST_ID + 1)])).faults) == [1]


def test_large_integers_are_numbers() -> None:
    values, faults = floats(pa.array([2**62 + 1, 2**63 + 5], pa.uint64()))
    assert values.to_pylist() == [float(2**62), float(2**63)]
    assert not faults


@pytest.mark.parametrize("text", ["inf", "nan", "1e400", "four", "0x10", "1_000", "--1"])
def test_numbers_that_are_not_finite_are_faults(text: str) -> None:
    values, faults = floats(pa.array([text, "4.5"]))
    assert values.to_pylist() == [None, 4.5]
    assert list(faults) == [0]


def test_booleans() -> None:
    values, faults = booleans(pa.array(["Yes", "0", "maybe", None, "TRUE"]))
    assert values.to_pylist() == [True, False, None, None, True]
    assert faults == {2: ("is not true or false", "'maybe'")}
