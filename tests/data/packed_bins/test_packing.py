"""The packing plan: each document once, no bin over its capacity, bins well filled, and reproducible."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brew_data.packed_bins.packing import pack
from brew_platform.errors import UserError


@given(st.lists(st.integers(min_value=1, max_value=64), max_size=300))
def test_every_document_is_packed_once_and_no_bin_overflows(lengths: list[int]) -> None:
    bins = pack(lengths, 64)
    assert sorted(i for bin_ in bins for i in bin_) == list(range(len(lengths)))
    assert all(sum(lengths[i] for i in bin_) <= 64 for bin_ in bins)
    assert bins == pack(lengths, 64)


@given(st.lists(st.integers(min_value=1, max_value=32), min_size=1, max_size=300))
def test_at_most_one_bin_is_less_than_half_full(lengths: list[int]) -> None:
    fills = sorted(sum(lengths[i] for i in bin_) for bin_ in pack(lengths, 64))
    assert all(fill >= 32 for fill in fills[1:])


def test_the_best_fit_is_chosen_by_hand() -> None:
    assert pack([6, 5, 4, 3, 2], 10) == [[0, 2], [1, 3, 4]]


@pytest.mark.parametrize("length", [0, 11])
def test_a_document_that_fits_no_bin_is_refused(length: int) -> None:
    with pytest.raises(UserError, match=f"document 1 has {length} tokens; a bin holds 1 to 10"):
        pack([5, length], 10)
