"""Segments: the parts of a training document that do not all attend to each other.

A document with one candidate is one segment. A slate has many: first the prefix, then the candidates. Each candidate
attends to itself and to the first tokens of the prefix, those that its own prompt has, and its positions continue from
there. So its logits are those of a document with this prefix and this candidate only.
"""

from typing import NamedTuple

import numpy as np

__all__ = ["Segment", "are_consistent"]


class Segment(NamedTuple):
    """A part of a document.

    Args:
        tokens: The number of its tokens.
        prefix: The number of tokens, from the start of the document on, that it also attends to. They are tokens of the
            first segment, which itself has 0.
    """

    tokens: int
    prefix: int


def are_consistent(length_D: np.ndarray, tokens_S: np.ndarray, prefix_S: np.ndarray) -> bool:
    """Return whether segments divide documents, and each but the first of a document attends to tokens of the first.

    Args:
        length_D: Tokens of each document; at least 1.
        tokens_S: Tokens of each segment, in the order of the documents.
        prefix_S: `Segment.prefix` of each segment.
    """
    if len(tokens_S) != len(prefix_S) or len(tokens_S) == 0 or tokens_S.min() < 1 or prefix_S.min() < 0:
        return False
    first_S = prefix_S == 0
    start_S = np.cumsum(tokens_S) - tokens_S
    if tokens_S.sum() != length_D.sum() or not np.array_equal(start_S[first_S], np.cumsum(length_D) - length_D):
        return False
    first_of_S = np.cumsum(first_S) - 1  # the document of each segment
    return bool((prefix_S <= tokens_S[first_S][first_of_S]).all())
