"""Segments divide documents, and candidates attend to tokens of the first segment of their document."""

import numpy as np
import pytest

from brew_data.segments import are_consistent


@pytest.mark.parametrize(
    ("lengths", "tokens", "prefixes", "consistent"),
    [
        ([5, 4], [5, 4], [0, 0], True),
        ([9, 4], [5, 2, 2, 4], [0, 5, 1, 0], True),
        ([9, 4], [5, 2, 2, 4], [0, 6, 1, 0], False),  # more than the first segment has
        ([9, 4], [5, 2, 2, 4], [0, 5, -1, 0], False),
        ([9, 4], [5, 4, 4], [0, 0, 0], False),  # one that starts inside of a document
        ([9, 4], [5, 8], [0, 5], False),  # one in two documents
        ([9, 4], [5, 4, 4], [0, 5, 5], False),  # a document without a first segment
        ([9], [5, 3], [0, 5], False),
        ([9], [9, 0], [0, 9], False),
        ([9], [9], [0, 0], False),
        ([9], [], [], False),
    ],
)
def test_segments_are_consistent_or_not(
    lengths: list[int], tokens: list[int], prefixes: list[int], consistent: bool
) -> None:
    assert are_consistent(*(np.array(values, np.int32) for values in (lengths, tokens, prefixes))) is consistent
