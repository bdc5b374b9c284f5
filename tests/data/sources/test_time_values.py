"""Columns of numbers, texts and typed times become microseconds; each that cannot is named with its reason."""

from datetime import UTC, datetime, timedelta, timezone

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from brew_data.sources.time_units import TIME_UNITS
from brew_data.sources.time_values import times
from brew_data.sources.values import has_text

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECONDS = {"seconds": 1_000_000, "milliseconds": 1_000, "microseconds": 1}


def micros(moment: datetime) -> int:
    return (moment - EPOCH) // timedelta(microseconds=1)


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


@pytest.mark.parametrize("time_format", TIME_UNITS)
@pytest.mark.parametrize("value", [-1, 0, 2**63 - 1, -(2**63), 4_102_444_800 * 10**9])
def test_numbers_that_are_no_plausible_time_are_refused(value: int, time_format: str) -> None:
    columns = [pa.array([str(value)]), pa.array([float(value)])]
    columns += [pa.array([value])] if -(2**63) <= value < 2**63 else []
    for column in columns:
        values, faults = times(column, time_format)
        assert values.to_pylist() == [None]
        assert f"is not a plausible time in {time_format}" in faults[0][0]


def test_a_count_beyond_64_bits_is_refused_as_it_is_written() -> None:
    _, faults = times(pa.array([2**63 + 7], pa.uint64()), "nanoseconds")
    assert faults[0][0].startswith("is not a plausible time in nanoseconds")
    assert not faults[0][1].startswith("-")


@pytest.mark.parametrize(
    ("column", "time_format"),
    [
        (pa.array(["9999-12-31", "0001-01-01", "2100-01-01T00:00:00Z"]), "iso8601"),
        (pa.array(["31/12/9999", "01/01/1700", "01/01/2100"]), "%d/%m/%Y"),
        (pa.array([881_250_949_000, -(2**60), 2**60], pa.timestamp("s")), "iso8601"),
    ],
)
def test_dates_of_other_centuries_are_refused(column: pa.Array, time_format: str) -> None:
    values, faults = times(column, time_format)
    assert values.to_pylist() == [None] * 3
    assert {reason for reason, _ in faults.values()} == {"is not in the years 1800 to 2099"}


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


def test_a_time_zone_that_nobody_knows_has_no_text_but_a_time() -> None:
    column = pa.array([1_714_554_000], pa.timestamp("s", "Mars/Base"))
    assert not has_text(column.type)
    assert times(column, "iso8601").values.to_pylist() == [1_714_554_000_000_000]


def test_nanoseconds_in_text_are_exact() -> None:
    assert times(pa.array(["1714554000123456789"]), "nanoseconds").values.to_pylist() == [1_714_554_000_123_456]
