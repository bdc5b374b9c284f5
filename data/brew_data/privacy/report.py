"""Counts what was removed from the tables, for the card of a data set."""

from collections import Counter
from collections.abc import Mapping

__all__ = ["Removals", "count_removed"]

Removals = dict[str, dict[str, int]]
"""Rows that were removed, or from which something was removed, by place (table or `table.field`) and by what it was."""


def count_removed(removals: Removals, place: str, counts: Mapping[str, int]) -> None:
    """Add the rows of a place to the counts."""
    if counts:
        removals[place] = dict(Counter(removals.get(place, {})) + Counter(counts))
