"""The packing plan: each document once, no bin over its capacity, bins well filled, and reproducible."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from brew_data.packed_bins.packing import CARRIED_SHARE, MOST_CARRIED, carry_over, pack
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


@given(st.lists(st.integers(1, 32), max_size=200), st.lists(st.integers(1, 32), max_size=200))
def test_shards_hold_each_document_once_and_few_documents_are_carried_over(first: list[int], second: list[int]) -> None:
    packed = carried = 0
    rest: list[int] = []
    for lengths in (first, second):
        alone = pack(lengths, 32)
        kept, left = carry_over(alone, lengths, 32)
        assert sorted([*(i for bin_ in kept for i in bin_), *left]) == list(range(len(lengths)))
        assert len(alone) - len(kept) <= max(1, min(MOST_CARRIED, len(alone) // CARRIED_SHARE))
        assert all(sum(lengths[i] for i in bin_) <= 32 for bin_ in kept)
        packed, carried = packed + len(kept), carried + len(alone) - len(kept)
        rest += [lengths[i] for i in left]
    assert len(pack(rest, 32)) <= carried + 1  # best-fit decreasing is not optimal


def test_full_bins_are_not_carried_over() -> None:
    lengths = [100, 60, 40, 30]
    kept, left = carry_over(pack(lengths, 100), lengths, 100)
    assert (kept, left) == ([[0], [1, 2]], [3])
    assert carry_over(pack([100, 100], 100), [100, 100], 100) == ([[0], [1]], [])
    assert carry_over([], [], 100) == ([], [])


def test_chats_fill_bins_of_4096_tokens_to_99_percent_whatever_the_number_of_shards() -> None:
    random = np.random.default_rng(0)
    lengths = np.clip(random.lognormal(7.0, 0.8, 4_000).astype(int), 40, 4096)  # median 1,100 tokens, as UltraChat
    for shards in (1, 8):
        bins, rest = 0, []
        for part in np.array_split(lengths, shards):
            kept, left = carry_over(pack(part, 4096), part, 4096) if shards > 1 else (pack(part, 4096), [])
            bins, rest = bins + len(kept), rest + part[left].tolist()
        bins += len(pack(rest, 4096))
        assert lengths.sum() / (bins * 4096) > 0.99
