"""Converts raw columns of times to microseconds: numbers of a unit, ISO 8601, strptime formats, typed times."""

from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from brew_data.sources.time_units import (
    EARLIEST,
    EARLIEST_TIME,
    LATEST,
    LATEST_TIME,
    MICROSECONDS,
    count_ticks,
    to_microseconds,
)
from brew_data.sources.values import Converted, find_faults, floats, plain_array, texts

__all__ = ["is_time_format", "times"]

_WITH_ZONE = r"[Zz]$|[+-]\d\d:?\d\d$"
_SHAPE = r"^\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d([.,]\d{1,9})?)?([Zz]|[+-]\d\d:?\d\d)?)?$"
_MICROSECOND = datetime.resolution


def is_time_format(name: str) -> bool:
    """Whether a name is `iso8601`, a unit, or a strptime format."""
    return name == "iso8601" or name in MICROSECONDS or "%" in name


def times(column: pa.Array, time_format: str, missing: Sequence[str] = ()) -> Converted:
    """Convert a column of times to int64 microseconds since 1970, UTC. Times without a zone are UTC.

    Numbers must be in the years 1980 to 2099, dates and timestamps in the years 1800 to 2099.

    Args:
        column: Numbers, texts, dates or timestamps. Dates and timestamps ignore `time_format`.
        time_format: `iso8601`, one of `TIME_UNITS` (since 1970), or a strptime format.
        missing: Texts that mean an absent value.
    """
    column = plain_array(column)
    if pa.types.is_timestamp(column.type) or pa.types.is_date(column.type):
        number, unit = count_ticks(column)
        return _in_years(*to_microseconds(number, pc.is_valid(column), unit, EARLIEST_TIME, LATEST_TIME), column)
    if time_format in MICROSECONDS:
        return _numeric_times(column, time_format, missing)
    as_text = pc.utf8_trim_whitespace(texts(column, missing))
    converted, faults = _iso_times(as_text) if time_format == "iso8601" else _strptime_times(as_text, time_format)
    micros = converted.fill_null(0).to_numpy(zero_copy_only=False)
    is_valid = pc.is_valid(converted)
    checked = _in_years(*to_microseconds(micros, is_valid, "microseconds", EARLIEST_TIME, LATEST_TIME), as_text)
    return Converted(checked.values, {**faults, **checked.faults})


def _in_years(micros: pa.Array, bad: np.ndarray, column: pa.Array) -> Converted:
    return Converted(micros, find_faults(pa.array(bad), column, "is not in the years 1800 to 2099"))


def _numeric_times(column: pa.Array, unit: str, missing: Sequence[str]) -> Converted:
    if pa.types.is_integer(column.type) and not pa.types.is_uint64(column.type):
        exact = column.cast(pa.int64())
        faults: dict[int, tuple[str, str]] = {}
    else:
        as_float, found = floats(column, missing)
        faults = {
            row: (f"{reason} of {unit}; for dates set time_format", detail) for row, (reason, detail) in found.items()
        }
        exact = None
        is_number = pa.types.is_floating(column.type) or pa.types.is_integer(column.type)
        if not is_number:  # long integers in text are not exact as floats
            trimmed = pc.utf8_trim_whitespace(texts(column, missing))
            if pc.all(pc.match_substring_regex(trimmed, r"^-?(\d{1,18}|[1-8]\d{18})$"), min_count=0).as_py():
                exact = trimmed.cast(pa.int64())
    if exact is not None:
        number, is_valid = exact.fill_null(0).to_numpy(zero_copy_only=False), pc.is_valid(exact)
    else:
        number, is_valid = as_float.fill_null(0.0).to_numpy(zero_copy_only=False), pc.is_valid(as_float)
    micros, bad = to_microseconds(number, is_valid, unit, EARLIEST, LATEST)
    for row in np.flatnonzero(bad).tolist():
        faults[row] = _unit_fault(number[row].item(), unit)
    return Converted(micros, faults)


def _unit_fault(value: float, unit: str) -> tuple[str, str]:
    return f"is not a plausible time in {unit}{_unit_hint(value) or ' (1980 to 2099)'}", repr(value)


def _unit_hint(value: float) -> str:
    """Return the format in which a number is a plausible time, as the end of a reason; "" if there is none."""
    for name, factor in MICROSECONDS.items():
        if EARLIEST <= value * (factor or 1e-3) < LATEST:
            return f"; it fits {name}: set time_format"
    if _strptime(str(int(value)), "%Y%m%d") is not None:
        return "; it fits a date written as digits: set time_format to %Y%m%d"
    return ""


def _with_hints(faults: dict[int, tuple[str, str]], column: pa.Array) -> dict[int, tuple[str, str]]:
    """Add the unit that fits to the faults of texts that are whole numbers."""
    hinted = {}
    for row, (reason, detail) in faults.items():
        text = column[row].as_py()
        hint = _unit_hint(int(text)) if text is not None and text.isdecimal() and len(text) <= 19 else ""
        hinted[row] = (f"{reason}{hint}", detail)
    return hinted


def _iso_times(as_text: pa.Array) -> Converted:
    shaped = pc.replace_substring(as_text, ",", ".")
    good = pc.fill_null(pc.match_substring_regex(shaped, _SHAPE), False)
    is_date = pc.fill_null(pc.equal(pc.utf8_length(shaped), 10), False)
    has_zone = pc.fill_null(pc.match_substring_regex(pc.utf8_slice_codeunits(shaped, 10), _WITH_ZONE), False)
    suffix = pc.if_else(has_zone, "", pc.if_else(is_date, "T00:00:00Z", "Z"))
    zoned = pc.binary_join_element_wise(pc.replace_substring_regex(shaped, "z$", "Z"), suffix, "")
    kept = pc.if_else(good, zoned, pa.scalar(None, pa.string()))
    reason = "is not an ISO 8601 time such as 2024-05-31T18:30:00Z"
    try:
        faults = find_faults(pc.and_(pc.is_valid(as_text), pc.invert(good)), as_text, reason)
        return Converted(_cast_iso(kept), _with_hints(faults, as_text))
    except pa.ArrowInvalid:  # a month 13 or the like; found row by row
        values: list[int | None] = []
        for text in kept.to_pylist():
            try:
                values.append(None if text is None else _cast_iso(pa.array([text]))[0].as_py())
            except pa.ArrowInvalid:
                values.append(None)
        converted = pa.array(values, pa.int64())
        faults = find_faults(pc.and_(pc.is_valid(as_text), pc.is_null(converted)), as_text, reason)
        return Converted(converted, _with_hints(faults, as_text))


def _cast_iso(zoned: pa.Array) -> pa.Array:
    try:
        return zoned.cast(pa.timestamp("us", tz="UTC")).cast(pa.int64())
    except pa.ArrowInvalid:  # seven to nine digits after the point
        return zoned.cast(pa.timestamp("ns", tz="UTC")).cast(pa.timestamp("us", tz="UTC"), safe=False).cast(pa.int64())


def _strptime_times(as_text: pa.Array, time_format: str) -> Converted:
    reason = f"does not match the time format {time_format}"
    if any(directive in time_format for directive in ("%f", "%z", "%Z", "%y")):  # pyarrow reads these differently
        values = [_strptime(text, time_format) for text in as_text.to_pylist()]
        converted = pa.array(values, pa.int64())
    else:
        parsed = pc.strptime(as_text, format=time_format, unit="us", error_is_null=True)
        # pyarrow reads 31 February as 2 March; Python refuses it.
        folded = pc.and_(pc.less_equal(pc.day(parsed), 3), pc.match_substring_regex(as_text, "29|30|31"))
        converted = parsed.cast(pa.int64())
        for row in np.flatnonzero(pc.fill_null(folded, False).to_numpy(zero_copy_only=False)).tolist():
            if _strptime(as_text[row].as_py(), time_format) is None:
                converted = _without(converted, row)
    faults = find_faults(pc.and_(pc.is_valid(as_text), pc.is_null(converted)), as_text, reason)
    return Converted(converted, _with_hints(faults, as_text))


def _without(column: pa.Array, row: int) -> pa.Array:
    mask = np.zeros(len(column), bool)
    mask[row] = True
    return pc.if_else(pa.array(mask), pa.scalar(None, column.type), column)


def _strptime(text: str | None, time_format: str) -> int | None:
    if text is None:
        return None
    try:
        moment = datetime.strptime(text, time_format)
    except ValueError:
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // _MICROSECOND
