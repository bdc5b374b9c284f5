"""`first_kept` keeps the newest turns that fit, and starts at a multiple of the hop."""

from hypothesis import given
from hypothesis import strategies as st

from brew_data.prompts.history import first_kept


@given(
    st.lists(st.integers(min_value=1, max_value=30), max_size=100),
    st.integers(min_value=0, max_value=500),
    st.integers(min_value=1, max_value=16),
    st.integers(min_value=0, max_value=100),
)
def test_the_kept_history_fits_and_starts_at_a_hop(lengths: list[int], budget: int, hop: int, most: int) -> None:
    start = first_kept(lengths, budget=budget, hop=hop, most=most)
    kept = lengths[start:]
    assert sum(kept) <= budget
    assert len(kept) <= most
    assert start % hop == 0 or start == len(lengths)
    if start:
        before = lengths[max(0, start - hop if start % hop == 0 else start - start % hop) :]
        assert sum(before) > budget or len(before) > most
