"""Which part of a member's history fits a prompt."""

from collections.abc import Sequence

__all__ = ["first_kept"]


def first_kept(lengths: Sequence[int], *, budget: int, hop: int, most: int) -> int:
    """Index of the oldest turn that is kept when the newest must fit.

    The oldest turns are dropped `hop` at a time: a window that slid by one turn would change every prompt's prefix and
    defeat the prefix cache; a window that hops keeps the prefix for `hop` more interactions.

    Args:
        lengths: tokens of each turn, oldest first.
        budget: tokens that the kept turns may take in all.
        hop: how many turns are dropped at a time; at least 1.
        most: turns that may be kept at most.

    Returns:
        The smallest multiple of `hop` whose tail fits both limits, or len(lengths) where no tail does.
    """
    total = sum(lengths)
    start = 0
    while start < len(lengths) and (total > budget or len(lengths) - start > most):
        total -= sum(lengths[start : start + hop])
        start = min(start + hop, len(lengths))
    return start
