"""Raw columns become text, times and booleans by one rule, and each value that cannot is named with its reason."""

import math
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from brew_data.prompts.fields import field_text
from brew_data.sources.values import TIME_UNITS, booleans, find_infinite, floats, identifiers, texts, times
from brew_platform.errors import UserError

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECONDS = {"seconds": 1_000_000, "milliseconds": 1_000, "microseconds": 1}


def micros(moment: datetime) -> int:
    return (moment - EPOCH) // timedelta(microseconds=1)


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


@pytest.mark.parametrize("column", [pa.array([{"a": 1}]), pa.array([b"a"]), pa.array([[{"a": 1}]])])
def test_types_without_text_are_refused(column: pa.Array) -> None:
    with pytest.raises(TypeError):
        texts(column)


@given(st.one_of(*(st.lists(kind, min_size=1, max_size=5) for kind in (st.text(), st.booleans(), st.integers(-9, 9)))))
def test_texts_agree_with_field_text(values: list) -> None:
    """Tables and requests give the same prompt for the same value."""
    written = [" ".join((text or "").split()) for text in texts(pa.array(values)).to_pylist()]
    assert written == [field_text("x", value) for value in values]


@given(st.lists(st.one_of(st.none(), st.floats(allow_infinity=False)), min_size=1, max_size=5))
def test_texts_of_floats_agree_with_field_text(values: list[float | None]) -> None:
    assert [text or "" for text in texts(pa.array(values, pa.float64())).to_pylist()] == [
        field_text("x", value) for value in values
    ]


def test_infinite_numbers_are_faults_as_in_requests() -> None:
    assert find_infinite(pa.array([1.0, math.inf])) == {1: ("is not a finite number", "inf")}
    with pytest.raises(UserError, match="not a finite number"):
        field_text("x", math.inf)


def test_ids_of_floats_must_be_whole() -> None:
    values, faults = identifiers(pa.array([3.0, 2.5, None, math.nan]))
    assert values.to_pylist() == ["3", None, None, None]
    assert faults == {1: ("is not a whole number", "2.5")}
    assert identifiers(pa.array(["010", " ", "7"])).values.to_pylist() == ["010", None, "7"]
    assert identifiers(pa.array([2**60])).values.to_pylist() == [str(2**60)]


@pytest.mark.parametrize("text", ["inf", "nan", "1e400", "four", "0x10", "1_000", "--1"])
def test_numbers_that_are_not_finite_are_faults(text: str) -> None:
    values, faults = floats(pa.array([text, "4.5"]))
    assert values.to_pylist() == [None, 4.5]
    assert list(faults) == [0]


def test_booleans() -> None:
    values, faults = booleans(pa.array(["Yes", "0", "maybe", None, "TRUE"]))
    assert values.to_pylist() == [True, False, None, None, True]
    assert faults == {2: ("is not true or false", "'maybe'")}


@given(
    moment=st.datetimes(datetime(1980, 1, 2), datetime(2099, 12, 30)).map(lambda m: m.replace(tzinfo=UTC)),
    hours=st.integers(-12, 12),
)
def test_iso_times_of_any_zone(moment: datetime, hours: int) -> None:
    written = [
        moment.isoformat(),
        moment.isoformat().replace("+00:00", "Z"),
        moment.replace(tzinfo=None).isoformat(sep=" "),
        moment.astimezone(timezone(timedelta(hours=hours))).isoformat(),
    ]
    values, faults = times(pa.array(written), "iso8601")
    assert not faults
    assert values.to_pylist() == [micros(moment)] * 4


def test_iso_dates_and_bad_times() -> None:
    values, faults = times(
        pa.array(["2024-02-29", "2023-02-29", "29.02.2024", None, "2024-01-01T25:00:00Z"]), "iso8601"
    )
    assert values.to_pylist() == [micros(datetime(2024, 2, 29, tzinfo=UTC)), None, None, None, None]
    assert sorted(faults) == [1, 2, 4]
    assert "ISO 8601" in faults[1][0]


@given(moment=st.datetimes(datetime(1990, 1, 1), datetime(2080, 1, 1)), unit=st.sampled_from(sorted(MICROSECONDS)))
def test_numbers_in_a_unit(moment: datetime, unit: str) -> None:
    exact = micros(moment.replace(tzinfo=UTC)) // MICROSECONDS[unit]
    for column in (pa.array([exact, None]), pa.array([str(exact), ""]), pa.array([float(exact), None])):
        values, faults = times(column, unit)
        assert not faults
        assert values.to_pylist() == [exact * MICROSECONDS[unit], None]


@given(seconds=st.integers(631_152_000, 4_000_000_000), pair=st.permutations(TIME_UNITS))
def test_a_number_in_another_unit_is_refused_with_the_unit_that_fits(seconds: int, pair: tuple[str, ...]) -> None:
    named, fitting = pair[:2]
    factor = {"seconds": 1, "milliseconds": 10**3, "microseconds": 10**6, "nanoseconds": 10**9}[fitting]
    values, faults = times(pa.array([seconds * factor]), named)
    assert values.to_pylist() == [None]
    assert faults[0][0] == f"is not a plausible time in {named}; it fits {fitting}: set time_format"


def test_a_date_written_as_digits_is_recognized() -> None:
    _, faults = times(pa.array([20240531]), "seconds")
    assert "set time_format to %Y%m%d" in faults[0][0]
    assert times(pa.array([20240531]), "%Y%m%d").values.to_pylist() == [micros(datetime(2024, 5, 31, tzinfo=UTC))]


@given(st.dates(datetime(1980, 1, 1).date(), datetime(2090, 1, 1).date()))
def test_strptime_agrees_with_python(day: object) -> None:
    written = day.strftime("%d/%m/%Y")  # type: ignore[attr-defined]
    values, faults = times(pa.array([written, written + "x"]), "%d/%m/%Y")
    assert values.to_pylist() == [micros(datetime.strptime(written, "%d/%m/%Y").replace(tzinfo=UTC)), None]
    assert list(faults) == [1]


@pytest.mark.parametrize("text", ["31/02/2024", "30/02/2023", "29/02/2023", "31/04/2024"])
def test_days_that_do_not_exist_are_faults(text: str) -> None:
    assert list(times(pa.array([text]), "%d/%m/%Y").faults) == [0]


def test_typed_times_ignore_the_format() -> None:
    moment = datetime(2024, 5, 1, 12, tzinfo=UTC)
    for kind in (pa.timestamp("ns", "UTC"), pa.timestamp("ms"), pa.timestamp("s", "Europe/Berlin")):
        assert times(
            pa.array([micros(moment) * 1000], pa.timestamp("ns", "UTC")).cast(kind), "seconds"
        ).values.to_pylist() == ([micros(moment)])
