"""Converts raw columns to text, numbers and booleans, a batch at a time; `brew_data.sources.time_values` has times.

Null, blank text and NaN mean that a value is absent. Numbers of text files keep their written form. Values of typed
files are written as in prompts (`brew_data.prompts.fields.field_text`): 3.0 as "3", a list joined with ", ".
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from brew_data.prompts.fields import field_text
from brew_data.sources.time_units import FIRST_YEAR, LAST_YEAR, count_ticks, to_microseconds

__all__ = [
    "LONGEST_ID",
    "Converted",
    "booleans",
    "find_faults",
    "find_unwritable",
    "floats",
    "has_text",
    "identifiers",
    "plain_array",
    "texts",
]

LONGEST_INTEGER = 2**53  # larger integers are not exact as a float
LONGEST_ID = 200  # characters; requests accept no longer one


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
    column = plain_array(column)
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
    column = plain_array(column)
    if pa.types.is_floating(column.type):
        as_float = column.cast(pa.float64())
        whole = pc.and_(pc.equal(as_float, pc.floor(as_float)), pc.less(pc.abs(as_float), LONGEST_INTEGER))
        bad = pc.fill_null(pc.and_(pc.is_finite(as_float), pc.invert(whole)), False)
        kept = pc.if_else(pc.fill_null(whole, False), as_float, pa.scalar(None, pa.float64()))
        return Converted(kept.cast(pa.int64()).cast(pa.string()), find_faults(bad, as_float, "is not a whole number"))
    values = texts(column, missing)
    long = pc.greater(pc.utf8_length(values), LONGEST_ID)
    return Converted(values, find_faults(long, values, f"is longer than {LONGEST_ID} characters"))


def floats(column: pa.Array, missing: Sequence[str] = ()) -> Converted:
    """Convert a column of numbers, or of texts that are numbers, to floats."""
    column = plain_array(column)
    if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
        as_text = pc.utf8_trim_whitespace(texts(column, missing))
        good = pc.match_substring_regex(as_text, r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?$")
        kept = pc.if_else(good, as_text, pa.scalar(None, pa.string())).cast(pa.float64())
        bad = pc.or_(pc.fill_null(pc.invert(good), False), pc.is_inf(pc.fill_null(kept, 0.0)))
        return Converted(
            pc.if_else(bad, pa.scalar(None, pa.float64()), kept), find_faults(bad, as_text, "is not a number")
        )
    as_float = column.cast(pa.float64(), safe=False)  # large integers are rounded
    bad = pc.fill_null(pc.is_inf(as_float), False)
    kept = pc.if_else(pc.fill_null(pc.is_finite(as_float), False), as_float, pa.scalar(None, pa.float64()))
    return Converted(kept, find_faults(bad, as_float, "is not a finite number"))


_BOOLEANS: Mapping[str, bool] = {
    **dict.fromkeys(("true", "1", "yes", "y", "t"), True),
    **dict.fromkeys(("false", "0", "no", "n", "f"), False),
}


def booleans(column: pa.Array, missing: Sequence[str] = ()) -> Converted:
    """Convert a column of booleans, or of texts such as true, 0, Yes, to booleans."""
    column = plain_array(column)
    if pa.types.is_boolean(column.type):
        return Converted(column, {})
    as_text = texts(column, missing)
    index = pc.index_in(pc.utf8_lower(pc.utf8_trim_whitespace(as_text)), value_set=pa.array(list(_BOOLEANS)))
    bad = pc.and_(pc.is_valid(as_text), pc.is_null(index))
    return Converted(pa.array(list(_BOOLEANS.values())).take(index), find_faults(bad, as_text, "is not true or false"))


def plain_array(column: pa.Array) -> pa.Array:
    """Return a column in one piece, and without a dictionary."""
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
    column = plain_array(column)
    if _is_list(column.type):
        parents = pc.list_parent_indices(column).to_pylist()
        return {parents[row]: fault for row, fault in find_unwritable(pc.list_flatten(column)).items()}
    unwritable, reason = _unwritable(column)
    return find_faults(unwritable, column, reason)


def _unwritable(column: pa.Array) -> tuple[pa.Array, str]:
    """Return bool [rows] and the reason."""
    if pa.types.is_floating(column.type):
        return pc.fill_null(pc.is_inf(column.cast(pa.float64())), False), "is not a finite number"
    if pa.types.is_timestamp(column.type) or pa.types.is_date(column.type):
        number, unit = count_ticks(column)
        _, bad = to_microseconds(number, pc.is_valid(column), unit, FIRST_YEAR, LAST_YEAR)
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


def find_faults(bad: pa.Array, values: pa.Array, reason: str) -> dict[int, tuple[str, str]]:
    """Return the faults of the rows in which `bad`, bool [rows], is true, as in `Converted`."""
    rows = np.flatnonzero(pc.fill_null(bad, False).to_numpy(zero_copy_only=False)).tolist()
    return {row: (reason, _detail(values[row])) for row in rows}


def _detail(value: pa.Scalar) -> str:
    try:
        return repr(value.as_py())
    except (ValueError, OverflowError):  # a time that Python cannot represent
        return str(value.cast(pa.int32() if pa.types.is_date32(value.type) else pa.int64()))
