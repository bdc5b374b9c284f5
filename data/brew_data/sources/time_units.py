"""Counts of a unit of time since 1970 as microseconds, and the years that times can be in."""

from datetime import UTC, datetime

import numpy as np
import pyarrow as pa

__all__ = [
    "EARLIEST",
    "EARLIEST_TIME",
    "FIRST_YEAR",
    "LAST_YEAR",
    "LATEST",
    "LATEST_TIME",
    "MICROSECONDS",
    "TIME_UNITS",
    "count_ticks",
    "to_microseconds",
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


def count_ticks(column: pa.Array) -> tuple[np.ndarray, str]:
    """Return dates or timestamps as int64 counts since 1970, 0 where they are null, and the unit of the counts."""
    if pa.types.is_date(column.type):
        column = column.cast(pa.timestamp("s" if pa.types.is_date32(column.type) else "ms"))
    counts = column.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False)
    return counts, _UNIT_NAMES[column.type.unit]


def to_microseconds(
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
