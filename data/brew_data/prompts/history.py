"""Selects the part of a member's history that fits a prompt."""

from collections.abc import Sequence

__all__ = ["first_kept"]


def first_kept(lengths: Sequence[int], *, budget: int, hop: int, most: int) -> int:
    """Return the index of the oldest turn to keep, so that the newest turns fit.

    The oldest turns are dropped `hop` at a time. If they were dropped one at a time, each new interaction would change
    the prefix of the next prompt, and the prefix cache would miss. With hops, the prefix stays the same for up to `hop`
    interactions.

    Args:
        lengths: Tokens of each turn, oldest first.
        budget: The maximum number of tokens of all kept turns together.
        hop: Turns that are dropped at a time; at least 1.
        most: The maximum number of turns to keep.

    Returns:
        The smallest multiple of `hop` such that the turns from this index on fit both limits, or `len(lengths)` if
        there is none.
    """
    total = sum(lengths)
    start = 0
    while start < len(lengths) and (total > budget or len(lengths) - start > most):
        total -= sum(lengths[start : start + hop])
        start = min(start + hop, len(lengths))
    return start
