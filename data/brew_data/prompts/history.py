"""The policy that selects the part of a member's history that fits a prompt."""

from collections.abc import Sequence

__all__ = ["first_kept"]


def first_kept(lengths: Sequence[int], *, budget: int, hop: int, most: int) -> int:
    """Return the index of the oldest turn to keep, so that the newest turns fit.

    The oldest turns are dropped `hop` at a time: a window that moves by one turn changes the prefix of every prompt, so
    the prefix cache misses; a window that hops keeps the prefix for `hop` more interactions.

    Args:
        lengths: Tokens of each turn, oldest first.
        budget: The maximum number of tokens of the kept turns together.
        hop: Turns that are dropped at a time; at least 1.
        most: The maximum number of turns to keep.

    Returns:
        The smallest multiple of `hop` whose tail fits both limits, or len(lengths) if no tail does.
    """
    total = sum(lengths)
    start = 0
    while start < len(lengths) and (total > budget or len(lengths) - start > most):
        total -= sum(lengths[start : start + hop])
        start = min(start + hop, len(lengths))
    return start
