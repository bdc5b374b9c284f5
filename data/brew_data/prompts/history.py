"""Selects the part of a member's history that a prompt shows.

The window of shown turns starts at a boundary. Boundaries divide the history, from its first turn on, into groups: a
group ends after `hop` tokens, and after a share of the maximum number of turns. New turns do not move the boundaries,
so the start of the window moves only when a whole group leaves it, and the prefix cache serves the prompts in between.

The newest turns that fit are always shown: a group is smaller than the budget, unless it is one turn.
"""

from collections.abc import Sequence

__all__ = ["HOP_SHARE", "first_kept", "first_possible", "hop_limit"]

HOP_SHARE = 0.25  # the largest part of the budget, and of the maximum number of turns, that leaves at a time


def hop_limit(hop_tokens: int, budget: int) -> int:
    """Return the number of tokens that leave at a time: `hop_tokens`, at most a share of the budget, at least 1."""
    return max(1, min(hop_tokens, int(HOP_SHARE * budget)))


def first_possible(turns: int, most: int) -> int:
    """Return the index of the oldest turn that a window can show; it is a boundary.

    Args:
        turns: The number of turns of the whole history.
        most: The maximum number of turns to keep; at least 1.
    """
    oldest = max(0, turns - most)
    return oldest - oldest % _group_turns(most)


def first_kept(lengths: Sequence[int], *, budget: int, hop: int, most: int) -> int:
    """Return the index of the oldest turn to keep: the first boundary from which both limits hold.

    If no turn is longer than the hop, more than `budget - hop` tokens are kept of a history that exceeds the budget. A
    longer turn is a group of its own.

    Args:
        lengths: Tokens of each turn, oldest first, from `first_possible` on.
        budget: The maximum number of tokens of all kept turns together.
        hop: Tokens that leave at a time; at least 1 and at most `budget`.
        most: The maximum number of turns to keep; at least 1.

    Returns:
        The index in `lengths`, or `len(lengths)` if the newest turn exceeds the budget.
    """
    left = sum(lengths)
    turns_of_group, in_group = _group_turns(most), 0
    for index, length in enumerate(lengths):
        if index % turns_of_group == 0 or in_group + length > hop:  # a boundary
            if left <= budget and len(lengths) - index <= most:
                return index
            in_group = 0
        in_group += length
        left -= length
    return len(lengths)


def _group_turns(most: int) -> int:
    return max(1, int(HOP_SHARE * most))
