"""Converts raw columns to text, times and booleans, a batch at a time.

Null, blank text and NaN mean that a value is absent. Numbers of text files keep their written form. Values of typed
files are written as in prompts (`brew_data.prompts.fields.field_text`): 3.0 as "3", a list joined with ", ".
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from brew_data.prompts.fields import field_text

__all__ = [
    "EARLIEST_TIME",
    "LATEST_TIME",
    "LONGEST_ID",
    "TIME_UNITS",
    "Converted",
    "booleans",
    "find_unwritable",
    "floats",
    "has_text",
    "identifiers",
    "is_time_format",
    "texts",
    "times",
]

MICROSECONDS = {"seconds": 1_000_000, "milliseconds": 1_000, "microseconds": 1, "nanoseconds": 0}  # in one unit
TIME_UNITS = tuple(MICROSECONDS)
_UNIT_NAMES = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}  # by pyarrow's


def _year(year: int) -> int:
    return int((datetime(year, 1, 1, tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds()) * 1_000_000


# Microseconds since 1970. A number outside the first range is in another unit; a date outside the second stands for
# something else, such as 9999-12-31 for "never"; one outside the third has no text.
EARLIEST, LATEST = _year(1980), _year(2100)
EARLIEST_TIME, LATEST_TIME = _year(1800), LATEST
FIRST_YEAR, LAST_YEAR = _year(1), _year(9999)
LONGEST_INTEGER = 2**53  # larger integers are not exact as a float
LONGEST_ID = 200  # characters; requests accept no longer one
_WITH_ZONE = r"[Zz]$|[+-]\d\d:?\d\d$"
_SHAPE = r"^\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d([.,]\d{1,9})?)?([Zz]|[+-]\d\d:?\d\d)?)?$"


def has_text(kind: pa.DataType) -> bool:
    """Whether values of a type have a text form by the rule of prompts: text, numbers, booleans, dates, or a list."""
    if pa.types.is_dictionary(kind):
        return has_text(kind.value_type)
    if _is_list(kind):
        return not _is_list(kind.value_type) and has_text(kind.value_type)
    if pa.types.is_timestamp(kind) and kind.tz is not None:
        try:
            pa.scalar(0, kind).as_py()
        except ValueError:  # a time zone that Python does not know
            return False
    return any(check(kind) for check in (*_TEXT, *_WRITTEN_BY_RULE, pa.types.is_null, pa.types.is_integer))


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


class Converted(NamedTuple):
    """A converted column. A null is an absent value, or one that cannot be converted if the row is in `faults`."""

    values: pa.Array
    faults: dict[int, tuple[str, str]]  # by row: the reason, and the value in a few words


def texts(column: pa.Array, missing: Sequence[str] = ()) -> pa.Array:
    """Convert a column to text, null where the value is absent.

    Args:
        column: Of a type with `has_text`. Values that `find_unwritable` returns become null.
        missing: Texts that mean an absent value.

    Raises:
        TypeError: The type has no text form; the message names it.
    """
    column = _plain(column)
    kind = column.type
    if not has_text(kind):
        raise TypeError(str(kind))
    if _is_list(kind):
        return _joined(column, missing)
    if any(check(kind) for check in _WRITTEN_BY_RULE):
        column = _by_rule(column)
    elif not pa.types.is_string(kind):
        column = column.cast(pa.string())
    absent = pc.equal(pc.utf8_length(pc.utf8_trim_whitespace(column)), 0)
    if missing:
        absent = pc.or_(absent, pc.is_in(column, value_set=pa.array(list(missing), pa.string())))
    return pc.if_else(absent, pa.scalar(None, pa.string()), column)


def identifiers(column: pa.Array, missing: Sequence[str] = ()) -> Converted:
    """Convert a column of ids to text. A float is an id only if it is a whole number, as pandas writes integers.

    An id longer than `LONGEST_ID` is a fault.
    """
    column = _plain(column)
    if pa.types.is_floating(column.type):
        as_float = column.cast(pa.float64())
        whole = pc.and_(pc.equal(as_float, pc.floor(as_float)), pc.less(pc.abs(as_float), LONGEST_INTEGER))
        bad = pc.fill_null(pc.and_(pc.is_finite(as_float), pc.invert(whole)), False)
        kept = pc.if_else(pc.fill_null(whole, False), as_float, pa.scalar(None, pa.float64()))
        return Converted(kept.cast(pa.int64()).cast(pa.string()), _faults(bad, as_float, "is not a whole number"))
    values = texts(column, missing)
    long = pc.greater(pc.utf8_length(values), LONGEST_ID)
    return Converted(values, _faults(long, values, f"is longer than {LONGEST_ID} characters"))


def floats(column: pa.Array, missing: Sequence[str] = ()) -> Converted:
    """Convert a column of numbers, or of texts that are numbers, to floats."""
    column = _plain(column)
    if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
        as_text = pc.utf8_trim_whitespace(texts(column, missing))
        good = pc.match_substring_regex(as_text, r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?$")
        kept = pc.if_else(good, as_text, pa.scalar(None, pa.string())).cast(pa.float64())
        bad = pc.or_(pc.fill_null(pc.invert(good), False), pc.is_inf(pc.fill_null(kept, 0.0)))
        return Converted(pc.if_else(bad, pa.scalar(None, pa.float64()), kept), _faults(bad, as_text, "is not a number"))
    as_float = column.cast(pa.float64(), safe=False)  # large integers are rounded
    bad = pc.fill_null(pc.is_inf(as_float), False)
    kept = pc.if_else(pc.fill_null(pc.is_finite(as_float), False), as_float, pa.scalar(None, pa.float64()))
    return Converted(kept, _faults(bad, as_float, "is not a finite number"))


_BOOLEANS: Mapping[str, bool] = {
    **dict.fromkeys(("true", "1", "yes", "y", "t"), True),
    **dict.fromkeys(("false", "0", "no", "n", "f"), False),
}


def booleans(column: pa.Array, missing: Sequence[str] = ()) -> Converted:
    """Convert a column of booleans, or of texts such as true, 0, Yes, to booleans."""
    column = _plain(column)
    if pa.types.is_boolean(column.type):
        return Converted(column, {})
    as_text = texts(column, missing)
    index = pc.index_in(pc.utf8_lower(pc.utf8_trim_whitespace(as_text)), value_set=pa.array(list(_BOOLEANS)))
    bad = pc.and_(pc.is_valid(as_text), pc.is_null(index))
    return Converted(pa.array(list(_BOOLEANS.values())).take(index), _faults(bad, as_text, "is not true or false"))


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
    column = _plain(column)
    if pa.types.is_timestamp(column.type) or pa.types.is_date(column.type):
        number, unit = _ticks(column)
        return _in_years(*_scaled(number, pc.is_valid(column), unit, EARLIEST_TIME, LATEST_TIME), column)
    if time_format in MICROSECONDS:
        return _numeric_times(column, time_format, missing)
    as_text = pc.utf8_trim_whitespace(texts(column, missing))
    converted, faults = _iso_times(as_text) if time_format == "iso8601" else _strptime_times(as_text, time_format)
    micros = converted.fill_null(0).to_numpy(zero_copy_only=False)
    checked = _in_years(*_scaled(micros, pc.is_valid(converted), "microseconds", EARLIEST_TIME, LATEST_TIME), as_text)
    return Converted(checked.values, {**faults, **checked.faults})


def _in_years(micros: pa.Array, bad: np.ndarray, column: pa.Array) -> Converted:
    return Converted(micros, _faults(pa.array(bad), column, "is not in the years 1800 to 2099"))


def _ticks(column: pa.Array) -> tuple[np.ndarray, str]:
    """Return dates or timestamps as int64 counts since 1970, 0 where they are null, and the unit of the counts."""
    if pa.types.is_date(column.type):
        column = column.cast(pa.timestamp("s" if pa.types.is_date32(column.type) else "ms"))
    counts = column.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False)
    return counts, _UNIT_NAMES[column.type.unit]


def _scaled(
    number: np.ndarray, is_valid: pa.Array, unit: str, earliest: int, latest: int
) -> tuple[pa.Array, np.ndarray]:
    """Convert counts of a unit to microseconds.

    Args:
        number: int64 or float64 [rows].
        is_valid: bool [rows]; other rows are absent.
        unit: One of `TIME_UNITS`.
        earliest: Microseconds since 1970.
        latest: As above, exclusive.

    Returns:
        int64 [rows], null where the value is absent or outside the range; and bool [rows]: whether it is outside.
    """
    factor, valid = MICROSECONDS[unit], is_valid.to_numpy(zero_copy_only=False)
    estimate = number.astype(np.float64) * (factor or 1e-3)
    plausible = valid & (estimate >= earliest) & (estimate < latest)
    safe = np.where(plausible, number, 0)
    if number.dtype.kind == "f":
        micros = np.round(safe * (factor or 1e-3)).astype(np.int64)
    else:
        micros = safe * factor if factor else safe // 1000
    return pa.array(micros.astype(np.int64), pa.int64(), mask=~plausible), valid & ~plausible


def _plain(column: pa.Array) -> pa.Array:
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    return column


_TEXT = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
_WRITTEN_BY_RULE = (
    pa.types.is_floating, pa.types.is_boolean, pa.types.is_decimal, pa.types.is_timestamp, pa.types.is_date,
)  # fmt: skip


def _by_rule(column: pa.Array) -> pa.Array:
    """Write values as `field_text` does, each distinct value once. Those that `find_unwritable` returns become null."""
    unwritable, _ = _unwritable(column)
    column = pc.if_else(unwritable, pa.scalar(None, column.type), column)
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.timestamp("us", column.type.tz), safe=False)
    encoded = column.dictionary_encode()
    written = [field_text("", value) for value in encoded.dictionary.to_pylist()]
    return pa.array(written, pa.string()).take(encoded.indices)


def find_unwritable(column: pa.Array) -> dict[int, tuple[str, str]]:
    """Return the faults of infinite numbers and of times outside the years 1 to 9999, which have no text.

    Args:
        column: Of a type with `has_text`; of a list, the row is that of the list.
    """
    column = _plain(column)
    if _is_list(column.type):
        parents = pc.list_parent_indices(column).to_pylist()
        return {parents[row]: fault for row, fault in find_unwritable(pc.list_flatten(column)).items()}
    unwritable, reason = _unwritable(column)
    return _faults(unwritable, column, reason)


def _unwritable(column: pa.Array) -> tuple[pa.Array, str]:
    """Return bool [rows] and the reason."""
    if pa.types.is_floating(column.type):
        return pc.fill_null(pc.is_inf(column.cast(pa.float64())), False), "is not a finite number"
    if pa.types.is_timestamp(column.type) or pa.types.is_date(column.type):
        number, unit = _ticks(column)
        _, bad = _scaled(number, pc.is_valid(column), unit, FIRST_YEAR, LAST_YEAR)
        return pa.array(bad, pa.bool_()), "is not in the years 1 to 9998"
    return pa.repeat(pa.scalar(False), len(column)), ""


def _joined(column: pa.Array, missing: Sequence[str]) -> pa.Array:
    if pa.types.is_fixed_size_list(column.type):
        column = column.cast(pa.list_(column.type.value_type))
    parents = pc.list_parent_indices(column)
    items = _lines(texts(pc.list_flatten(column), missing))
    present = pc.is_valid(items)
    counts = np.bincount(parents.filter(present).to_numpy(), minlength=len(column))
    offsets = pa.array(np.concatenate([[0], np.cumsum(counts)]), pa.int32())
    joined = pc.binary_join(pa.ListArray.from_arrays(offsets, items.filter(present)), ", ")
    return pc.if_else(pa.array(counts == 0), pa.scalar(None, pa.string()), joined)


def _lines(column: pa.Array) -> pa.Array:
    """Make each text one line, as `field_text` does with the elements of a list; null where nothing is left."""
    encoded = column.dictionary_encode()
    lines = [" ".join(text.split()) or None for text in encoded.dictionary.to_pylist()]
    return pa.array(lines, pa.string()).take(encoded.indices)


def _faults(bad: pa.Array, values: pa.Array, reason: str) -> dict[int, tuple[str, str]]:
    rows = np.flatnonzero(pc.fill_null(bad, False).to_numpy(zero_copy_only=False)).tolist()
    return {row: (reason, _detail(values[row])) for row in rows}


def _detail(value: pa.Scalar) -> str:
    try:
        return repr(value.as_py())
    except (ValueError, OverflowError):  # a time that Python cannot represent
        return str(value.cast(pa.int32() if pa.types.is_date32(value.type) else pa.int64()))


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
    micros, bad = _scaled(number, is_valid, unit, EARLIEST, LATEST)
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
        faults = _faults(pc.and_(pc.is_valid(as_text), pc.invert(good)), as_text, reason)
        return Converted(_cast_iso(kept), _with_hints(faults, as_text))
    except pa.ArrowInvalid:  # a month 13 or the like; found row by row
        values: list[int | None] = []
        for text in kept.to_pylist():
            try:
                values.append(None if text is None else _cast_iso(pa.array([text]))[0].as_py())
            except pa.ArrowInvalid:
                values.append(None)
        converted = pa.array(values, pa.int64())
        faults = _faults(pc.and_(pc.is_valid(as_text), pc.is_null(converted)), as_text, reason)
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
    faults = _faults(pc.and_(pc.is_valid(as_text), pc.is_null(converted)), as_text, reason)
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


_MICROSECOND = datetime.resolution
