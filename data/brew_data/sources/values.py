"""Converts raw columns to text, times and booleans, a batch at a time.

Null, blank text and NaN mean that a value is absent. Numbers of text files keep their written form. Values of typed
files are written as in prompts (`brew_data.prompts.fields.field_text`): 3.0 as "3", a list joined with ", ".
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from brew_data.prompts.fields import field_text

__all__ = [
    "TIME_UNITS",
    "Converted",
    "booleans",
    "find_infinite",
    "floats",
    "identifiers",
    "is_time_format",
    "texts",
    "times",
]

MICROSECONDS = {"seconds": 1_000_000, "milliseconds": 1_000, "microseconds": 1, "nanoseconds": 0}  # in one unit
TIME_UNITS = tuple(MICROSECONDS)
EARLIEST, LATEST = (  # a number outside is in another unit
    int(datetime(year, 1, 1, tzinfo=UTC).timestamp()) * 1_000_000 for year in (1980, 2100)
)
LONGEST_INTEGER = 2**53  # larger integers are not exact as a float
_WITH_ZONE = r"[Zz]$|[+-]\d\d:?\d\d$"
_SHAPE = r"^\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d([.,]\d{1,9})?)?([Zz]|[+-]\d\d:?\d\d)?)?$"


class Converted(NamedTuple):
    """A converted column. A null is an absent value, or one that cannot be converted if the row is in `faults`."""

    values: pa.Array
    faults: dict[int, tuple[str, str]]  # by row: the reason, and the value in a few words


def texts(column: pa.Array, missing: Sequence[str] = ()) -> pa.Array:
    """Convert a column to text, null where the value is absent.

    Args:
        column: Of any type but struct, map and binary.
        missing: Texts that mean an absent value.

    Raises:
        TypeError: The type has no text form; the message names it.
    """
    column = _plain(column)
    kind = column.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return _joined(column, missing)
    if pa.types.is_null(kind):
        return column.cast(pa.string())
    if any(check(kind) for check in _WRITTEN_BY_RULE):
        column = _by_rule(column)
    elif pa.types.is_integer(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        column = column.cast(pa.string())
    elif not pa.types.is_string(kind):
        raise TypeError(str(kind))
    absent = pc.equal(pc.utf8_length(pc.utf8_trim_whitespace(column)), 0)
    if missing:
        absent = pc.or_(absent, pc.is_in(column, value_set=pa.array(list(missing), pa.string())))
    return pc.if_else(absent, pa.scalar(None, pa.string()), column)


def identifiers(column: pa.Array, missing: Sequence[str] = ()) -> Converted:
    """Convert a column of ids to text. A float is an id only if it is a whole number, as pandas writes integers."""
    column = _plain(column)
    if pa.types.is_floating(column.type):
        as_float = column.cast(pa.float64())
        whole = pc.and_(pc.equal(as_float, pc.floor(as_float)), pc.less(pc.abs(as_float), LONGEST_INTEGER))
        bad = pc.fill_null(pc.and_(pc.is_finite(as_float), pc.invert(whole)), False)
        kept = pc.if_else(pc.fill_null(whole, False), as_float, pa.scalar(None, pa.float64()))
        return Converted(kept.cast(pa.int64()).cast(pa.string()), _faults(bad, as_float, "is not a whole number"))
    return Converted(texts(column, missing), {})


def floats(column: pa.Array, missing: Sequence[str] = ()) -> Converted:
    """Convert a column of numbers, or of texts that are numbers, to floats."""
    column = _plain(column)
    if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
        as_text = pc.utf8_trim_whitespace(texts(column, missing))
        good = pc.match_substring_regex(as_text, r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?$")
        kept = pc.if_else(good, as_text, pa.scalar(None, pa.string())).cast(pa.float64())
        bad = pc.or_(pc.fill_null(pc.invert(good), False), pc.is_inf(pc.fill_null(kept, 0.0)))
        return Converted(pc.if_else(bad, pa.scalar(None, pa.float64()), kept), _faults(bad, as_text, "is not a number"))
    as_float = column.cast(pa.float64())
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

    Args:
        column: Numbers, texts, dates or timestamps. Dates and timestamps ignore `time_format`.
        time_format: `iso8601`, one of `TIME_UNITS` (since 1970), or a strptime format.
        missing: Texts that mean an absent value.
    """
    column = _plain(column)
    if pa.types.is_timestamp(column.type) or pa.types.is_date(column.type):
        return Converted(column.cast(pa.timestamp("us"), safe=False).cast(pa.int64()), {})
    if time_format in MICROSECONDS:
        return _numeric_times(column, time_format, missing)
    as_text = pc.utf8_trim_whitespace(texts(column, missing))
    if time_format == "iso8601":
        return _iso_times(as_text)
    return _strptime_times(as_text, time_format)


def _plain(column: pa.Array) -> pa.Array:
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    return column


_WRITTEN_BY_RULE = (pa.types.is_floating, pa.types.is_boolean, pa.types.is_decimal, pa.types.is_temporal)


def _by_rule(column: pa.Array) -> pa.Array:
    """Write values as `field_text` does, each distinct value once. `find_infinite` refuses infinite numbers."""
    if pa.types.is_floating(column.type):
        finite = pc.fill_null(pc.is_finite(column.cast(pa.float64())), False)
        column = pc.if_else(finite, column, pa.scalar(None, column.type))
    elif pa.types.is_timestamp(column.type):
        column = column.cast(pa.timestamp("us", column.type.tz), safe=False)
    encoded = column.dictionary_encode()
    written = [field_text("", value) for value in encoded.dictionary.to_pylist()]
    return pa.array(written, pa.string()).take(encoded.indices)


def find_infinite(column: pa.Array) -> dict[int, tuple[str, str]]:
    """Return the faults of infinite numbers, which have no text."""
    column = _plain(column)
    if not pa.types.is_floating(column.type):
        return {}
    return _faults(pc.is_inf(column.cast(pa.float64())), column, "is not a finite number")


def _joined(column: pa.Array, missing: Sequence[str]) -> pa.Array:
    if pa.types.is_fixed_size_list(column.type):
        column = column.cast(pa.list_(column.type.value_type))
    parents = pc.list_parent_indices(column)
    items = texts(pc.list_flatten(column), missing)
    present = pc.is_valid(items)
    counts = np.bincount(parents.filter(present).to_numpy(), minlength=len(column))
    offsets = pa.array(np.concatenate([[0], np.cumsum(counts)]), pa.int32())
    joined = pc.binary_join(pa.ListArray.from_arrays(offsets, items.filter(present)), ", ")
    return pc.if_else(pa.array(counts == 0), pa.scalar(None, pa.string()), joined)


def _faults(bad: pa.Array, values: pa.Array, reason: str) -> dict[int, tuple[str, str]]:
    rows = np.flatnonzero(pc.fill_null(bad, False).to_numpy(zero_copy_only=False)).tolist()
    return {row: (reason, repr(values[row].as_py())) for row in rows}


def _numeric_times(column: pa.Array, unit: str, missing: Sequence[str]) -> Converted:
    if pa.types.is_integer(column.type):
        exact = column.cast(pa.int64(), safe=False)
        faults: dict[int, tuple[str, str]] = {}
    else:
        as_float, found = floats(column, missing)
        faults = {
            row: (f"{reason} of {unit}; for dates set time_format", detail) for row, (reason, detail) in found.items()
        }
        exact = None
        if not pa.types.is_floating(column.type):  # long integers in text are not exact as floats
            trimmed = pc.utf8_trim_whitespace(texts(column, missing))
            if pc.all(pc.match_substring_regex(trimmed, r"^-?\d{1,18}$"), min_count=0).as_py():
                exact = trimmed.cast(pa.int64())
    number: np.ndarray[Any, Any]
    estimate: np.ndarray[Any, Any]
    if exact is not None:
        values = exact.to_numpy(zero_copy_only=False)
        valid = pc.is_valid(exact).to_numpy(zero_copy_only=False)
        number = np.where(valid, values, 0).astype(np.int64)
        estimate = number.astype(np.float64) * (MICROSECONDS[unit] or 1e-3)
    else:
        values = as_float.to_numpy(zero_copy_only=False)
        valid = ~np.isnan(values)
        number = np.where(valid, values, 0.0)
        estimate = number * (MICROSECONDS[unit] or 1e-3)
    plausible = valid & (estimate >= EARLIEST) & (estimate < LATEST)
    safe = np.where(plausible, number, 0)
    if exact is not None:
        micros = safe * MICROSECONDS[unit] if MICROSECONDS[unit] else safe // 1000
    else:
        micros = np.round(safe * (MICROSECONDS[unit] or 1e-3)).astype(np.int64)
    for row in np.flatnonzero(valid & ~plausible).tolist():
        faults[row] = _unit_fault(number[row].item(), unit)
    return Converted(pa.array(micros.astype(np.int64), pa.int64(), mask=~plausible), faults)


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
