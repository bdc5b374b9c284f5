"""Assigns documents to bins by their lengths."""

from collections.abc import Sequence

import numpy as np

from brew_platform.errors import UserError

__all__ = ["carry_over", "pack"]

CARRIED_SHARE = 20  # at most one bin in this many is carried over,
MOST_CARRIED = 32  # at most this many of a shard,
FULL = 0.995  # and none that is filled to this share


def pack(lengths: Sequence[int] | np.ndarray, capacity: int) -> list[list[int]]:
    """Pack documents by best-fit decreasing.

    Documents are placed longest first. Each goes to the open bin with the least free space that still fits it. Open
    bins are indexed by free space. The bits of one integer mark the sizes that occur, so a shift and the lowest set bit
    find the best fit. Packing takes O(documents * capacity / 64).

    Args:
        lengths: The number of tokens of each document.
        capacity: The number of tokens of a bin.

    Returns:
        Indices into `lengths`, one list per bin. Each index occurs exactly once, and no bin exceeds the capacity. Equal
        lengths keep their order, so equal inputs give equal plans.

    Raises:
        UserError: A document is empty or longer than a bin.

    Source: best-fit decreasing as in Ding et al., "Fewer Truncations Improve Language Modeling", ICML 2024.
    """
    length_D = np.asarray(lengths, np.int64)
    if len(bad := np.flatnonzero((length_D < 1) | (length_D > capacity))):
        raise UserError(
            f"document {bad[0]} has {length_D[bad[0]]} tokens; a bin holds 1 to {capacity}. Split it first."
        )
    order_D = np.argsort(-length_D, kind="stable")
    bins: list[list[int]] = []
    open_bins: list[list[int]] = [[] for _ in range(capacity + 1)]  # bins by free space
    spaces = 0  # bit s is set where open_bins[s] is not empty
    for index, length in zip(order_D.tolist(), length_D[order_D].tolist(), strict=True):
        fitting = spaces >> length
        if fitting:
            space = length + (fitting & -fitting).bit_length() - 1
            chosen = open_bins[space].pop()
            if not open_bins[space]:
                spaces &= ~(1 << space)
        else:
            space, chosen = capacity, len(bins)
            bins.append([])
        bins[chosen].append(index)
        if space > length:
            open_bins[space - length].append(chosen)
            spaces |= 1 << (space - length)
    return bins


def carry_over(
    bins: Sequence[list[int]], lengths: Sequence[int] | np.ndarray, capacity: int
) -> tuple[list[list[int]], list[int]]:
    """Take the least filled bins of a shard apart, so that their documents are packed with those of other shards.

    Args:
        bins: The plan of the shard, from `pack`.
        lengths: As for `pack`.
        capacity: As for `pack`.

    Returns:
        The other bins, in their order, and the documents that are carried over. Their number is small enough to be
        packed in one process: at most `MOST_CARRIED` bins, and one in `CARRIED_SHARE`, but at least one.
    """
    length_D = np.asarray(lengths, np.int64)
    fill_B = np.array([length_D[bin_].sum() for bin_ in bins], np.int64)
    most = min(MOST_CARRIED, max(1, len(bins) // CARRIED_SHARE))
    least = [index for index in np.argsort(fill_B, kind="stable")[:most].tolist() if fill_B[index] < FULL * capacity]
    carried = set(least)
    kept = [bin_ for index, bin_ in enumerate(bins) if index not in carried]
    return kept, [document for index in sorted(carried) for document in bins[index]]
