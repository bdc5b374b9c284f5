"""Slices of scored rows: by past activity, surface, task, locale, language and time."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise

import numpy as np

from brew_eval.scored_rows import ScoredRows

__all__ = ["DIMENSIONS", "HISTORY_BUCKETS", "Slice", "slices"]

# First and last number of past interactions of each bucket.
HISTORY_BUCKETS = {"0-4": (0, 4), "5-19": (5, 19), "20-99": (20, 99), "100+": (100, 2**31 - 1)}
DIMENSIONS = ("history", "surface", "task", "locale", "language", "time")
UNKNOWN = "unknown"  # rows without a locale
OTHER = "other"  # the rarest values of a dimension that has more than `most`
_DAY = 86_400_000_000


@dataclass(frozen=True, eq=False)
class Slice:
    """Some of the rows."""

    dimension: str
    name: str
    rows_N: np.ndarray  # bool, shape (N,)


def slices(
    rows: ScoredRows, dimensions: tuple[str, ...] = DIMENSIONS, *, windows: int = 4, most: int = 20
) -> Iterator[Slice]:
    """Yield the slices that have rows. The slices of a dimension are disjoint and cover all rows.

    Args:
        rows: The rows.
        dimensions: Some of `DIMENSIONS`.
        windows: Number of slices of time, of the same length, from the first row to the last.
        most: Largest number of locales and languages; the rarest are one slice, `other`.
    """
    for dimension in dimensions:
        if not len(rows):
            return
        if dimension == "history":
            history_N = rows.column("history")
            named = [(name, (history_N >= low) & (history_N <= high)) for name, (low, high) in HISTORY_BUCKETS.items()]
        elif dimension == "time":
            named = _windows(rows.column("time"), windows)
        else:
            code_N, values = rows.codes("locale" if dimension == "language" else dimension)
            names = [UNKNOWN if value is None else str(value) for value in values]
            if dimension == "language":
                names = [_language(name) for name in names]
            named = _by_name(code_N, names, most if dimension in ("locale", "language") else None)
        yield from (Slice(dimension, name, rows_N) for name, rows_N in named if rows_N.any())


def _language(locale: str) -> str:
    """Return the first part of a locale, as in `pt` of `pt-BR` and `pt_BR`."""
    return locale.replace("_", "-").split("-")[0].lower()


def _by_name(code_N: np.ndarray, names: list[str], most: int | None) -> list[tuple[str, np.ndarray]]:
    distinct = sorted({*names, UNKNOWN})
    place = np.array([distinct.index(name) for name in [*names, UNKNOWN]])
    index_N = place[code_N]  # code -1 is the last place: unknown
    counts = np.bincount(index_N, minlength=len(distinct))
    rest = np.argsort(-counts, kind="stable")[most:].tolist() if most is not None else []
    shown = [number for number, name in enumerate(distinct) if number not in rest and name != OTHER]
    return [*((distinct[number], index_N == number) for number in shown), (OTHER, ~np.isin(index_N, shown))]


def _windows(time_N: np.ndarray, windows: int) -> list[tuple[str, np.ndarray]]:
    first, last = int(time_N.min()), int(time_N.max())
    edges = [first + (last + 1 - first) * number // windows for number in range(windows + 1)]
    daily = edges[-1] - edges[0] >= windows * _DAY
    return [
        (f"{_moment(start, daily)} to {_moment(end, daily)}", (time_N >= start) & (time_N < end))
        for start, end in pairwise(edges)
    ]


def _moment(micros: int, daily: bool) -> str:
    moment = datetime.fromtimestamp(micros // 1_000_000, UTC)
    return moment.strftime("%Y-%m-%d" if daily else "%Y-%m-%d %H:%M:%S")
