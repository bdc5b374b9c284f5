"""Numbers as percentile buckets: "top 10%" for a number of followers.

The bucket of a number follows from its percentile rank among the training rows: the share of smaller numbers, and half
of the share of equal ones. The data build stores the smallest number of each bucket with the suite, so that serving
shows the same bucket.
"""

import re
from bisect import bisect_right
from collections.abc import Sequence

import numpy as np

from brew_platform.errors import UserError

__all__ = ["BUCKETS", "LEVELS", "percentile_cuts", "percentile_text"]

LEVELS = (0.10, 0.25, 0.50, 0.75, 0.90, 0.95, 0.99)  # percentile ranks from which the second and later buckets begin
BUCKETS = ("bottom 10%", "bottom 25%", "bottom 50%", "top 50%", "top 25%", "top 10%", "top 5%", "top 1%")
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e[+-]?\d+)?", re.ASCII)


def percentile_cuts(numbers_N: np.ndarray) -> list[float]:
    """Return the smallest number of each bucket after the first one.

    If no number reaches a level, the cut is above the largest number.

    Args:
        numbers_N: Finite numbers, shape (rows,), in any order.

    Returns:
        One number per level, ascending; empty without numbers.
    """
    if not len(numbers_N):
        return []
    distinct_U, counts_U = np.unique(np.asarray(numbers_N, np.float64), return_counts=True)
    rank_U = (np.cumsum(counts_U) - counts_U / 2) / len(numbers_N)
    above = np.nextafter(distinct_U[-1], np.inf)
    cuts_L = np.append(distinct_U, above)[np.searchsorted(rank_U, LEVELS)]
    return [float(cut) for cut in cuts_L]


def percentile_text(text: str, cuts: Sequence[float] | None) -> str:
    """Return the bucket of a number. Text that is not a number, such as "20s", is returned unchanged.

    Args:
        text: The text of a field.
        cuts: From `percentile_cuts`. If they are empty, numbers are returned unchanged.

    Raises:
        UserError: The text is a number, and there are no cuts.
    """
    if not _NUMBER.fullmatch(text):
        return text
    if cuts is None:
        raise UserError(
            "a template shows a number as a percentile, but the suite has no quantiles of its field. Use the prompts "
            "of a data set: `brew360 data build` computes the quantiles."
        )
    return BUCKETS[bisect_right(cuts, float(text))] if cuts else text
