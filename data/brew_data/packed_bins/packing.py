"""Assigns documents to bins by their lengths."""

from collections.abc import Sequence

from brew_platform.errors import UserError

__all__ = ["pack"]


def pack(lengths: Sequence[int], capacity: int) -> list[list[int]]:
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
    bins: list[list[int]] = []
    open_bins: list[list[int]] = [[] for _ in range(capacity + 1)]  # bins by free space
    spaces = 0  # bit s is set where open_bins[s] is not empty
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        length = lengths[index]
        if not 0 < length <= capacity:
            raise UserError(f"document {index} has {length} tokens; a bin holds 1 to {capacity}. Split it first.")
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
