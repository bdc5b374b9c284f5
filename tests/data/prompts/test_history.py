"""`first_kept` shows the newest turns that fit, keeps most of the budget in use, and moves its start in hops."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brew_data.prompts.history import HOP_SHARE, HistoryPolicy, first_kept, first_possible, hop_limit
from brew_platform.errors import ConfigError

LENGTHS = st.lists(st.integers(min_value=1, max_value=80), max_size=150)
BUDGET = st.integers(min_value=1, max_value=600)
HOP = st.integers(min_value=1, max_value=300)
MOST = st.integers(min_value=1, max_value=120)


def kept_from(lengths: Sequence[int], budget: int, hop: int, most: int) -> int:
    """The index of the oldest shown turn of the whole history, as the compiler computes it."""
    oldest = first_possible(len(lengths), most)
    return oldest + first_kept(lengths[oldest:], budget=budget, hop=hop_limit(hop, budget), most=most)


@given(LENGTHS, BUDGET, HOP, MOST)
def test_the_newest_turns_that_fit_are_shown(lengths: list[int], budget: int, hop: int, most: int) -> None:
    start = kept_from(lengths, budget, hop, most)
    kept = lengths[start:]
    assert 0 <= start <= len(lengths)
    assert sum(kept) <= budget
    assert len(kept) <= most
    if lengths and lengths[-1] <= budget:
        assert kept
    if sum(lengths) <= budget and len(lengths) <= most:
        assert start == 0


@given(LENGTHS, BUDGET, HOP, MOST)
def test_most_of_both_limits_is_used_if_the_history_is_long_enough(
    lengths: list[int], budget: int, hop: int, most: int
) -> None:
    start = kept_from(lengths, budget, hop, most)
    longest = max(lengths, default=0)  # a turn that is longer than the hop leaves as a whole
    assert (
        start == 0
        or sum(lengths[start:]) > budget - max(HOP_SHARE * budget, longest)
        or len(lengths) - start > most - max(1, HOP_SHARE * most)
    )
    if start and longest <= HOP_SHARE * budget and len(lengths) <= most:
        assert sum(lengths[start:]) >= (1 - HOP_SHARE) * budget


@given(LENGTHS, BUDGET, HOP, MOST)
def test_the_start_moves_forward_once_per_hop(lengths: list[int], budget: int, hop: int, most: int) -> None:
    starts = [kept_from(lengths[:count], budget, hop, most) for count in range(len(lengths) + 1)]
    assert starts == sorted(starts)
    # A newest turn that exceeds the budget by itself is skipped without being a boundary.
    boundaries = {start for count, start in enumerate(starts) if start < count}
    groups = [sum(lengths[a:b]) for a, b in zip(sorted(boundaries), sorted(boundaries)[1:], strict=False)]
    step = hop_limit(hop, budget)
    limit = max(1, int(HOP_SHARE * most))
    ends = sum(index % limit == 0 for index in range(len(lengths)))
    assert len(groups) <= 2 * sum(lengths) / step + ends + 1


@pytest.mark.parametrize("turns", range(1, 200))
def test_turns_of_64_tokens_in_a_context_of_512_show_at_least_5(turns: int) -> None:
    budget = 512 - 64 - 1 - 60  # including the candidate, the label, and a head of 60 tokens
    start = kept_from([64] * turns, budget, 256, 200)
    assert turns - start >= min(turns, 5)


@given(st.integers(min_value=0, max_value=10_000), MOST)
def test_only_turns_that_can_be_shown_are_compiled(turns: int, most: int) -> None:
    assert turns - first_possible(turns, most) <= most + max(1, HOP_SHARE * most)
    assert turns - first_possible(turns, most) >= min(turns, most)


@pytest.mark.parametrize("changes", [{"hop_tokens": 0}, {"hop_tokens": -5}, {"max_interactions": 0}])
def test_limits_below_1_are_refused(changes: dict[str, int]) -> None:
    [key] = changes
    with pytest.raises(ConfigError, match=f"^{key} is {changes[key]}; give an integer, at least 1"):
        HistoryPolicy(surfaces=["jobs"], **changes)
