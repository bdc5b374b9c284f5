"""The packing plan: which documents share a bin, decided from their lengths alone."""

from collections.abc import Sequence

from brew_platform.errors import UserError

__all__ = ["pack"]


def pack(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Best-fit decreasing: each document, longest first, goes into the open bin that it leaves the least room in.

    Open bins are kept by their free space, and one integer's bits say which spaces occur, so that the best fit is a
    shift and a lowest set bit: packing costs O(documents * capacity / 64).

    Args:
        lengths: tokens of each document.
        capacity: tokens of a bin.

    Returns:
        Indices into `lengths`, one list per bin; each index occurs exactly once, no bin exceeds the capacity. Equal
        lengths keep their order, so that equal inputs give equal plans.

    Raises:
        UserError: a document is empty or longer than a bin.

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
