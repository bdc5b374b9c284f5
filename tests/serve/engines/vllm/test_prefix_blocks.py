"""Prefix blocks: their content is correct, no block has two owners, and the oldest are reclaimed first."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brew_serve.engines.vllm.prefix_blocks import OutOfBlocks, PrefixBlocks

SIZE = 4


def ids(*values: int) -> np.ndarray:
    return np.array(values, np.int32)


def test_blocks_of_a_known_prefix_are_reused() -> None:
    blocks = PrefixBlocks(first=10, count=8, size=SIZE)
    first, known = blocks.take(ids(*range(10)))  # two full blocks, and two tokens more
    assert len(first) == 2
    assert known == 0
    assert set(first) <= set(range(10, 18))
    assert blocks.take(ids(*range(10))) == (first, 2)
    longer, known = blocks.take(ids(*range(12)))
    assert (longer[:2], known) == (first, 2)
    other, known = blocks.take(ids(9, *range(1, 10)))  # the second block has the same tokens, but another prefix
    assert known == 0
    assert not set(other) & set(longer)


def test_a_prompt_shorter_than_a_block_takes_none() -> None:
    blocks = PrefixBlocks(first=0, count=1, size=SIZE)
    assert blocks.take(ids(1, 2, 3)) == ([], 0)
    assert blocks.take(ids()) == ([], 0)


def test_least_recently_used_blocks_are_reclaimed_first_ends_before_beginnings() -> None:
    blocks = PrefixBlocks(first=0, count=4, size=1)
    blocks.take(ids(1, 2))
    blocks.take(ids(3, 4))
    blocks.release()
    blocks.take(ids(1, 2))
    blocks.release()
    blocks.take(ids(5))  # in the place of 3, 4's end
    assert blocks.take(ids(1, 2))[1] == 2
    blocks.release()
    assert blocks.take(ids(3, 4))[1] == 1


def test_taken_blocks_are_not_reclaimed() -> None:
    blocks = PrefixBlocks(first=0, count=3, size=1)
    held, _ = blocks.take(ids(1, 2))
    with pytest.raises(OutOfBlocks):
        blocks.take(ids(3, 4))
    assert blocks.take(ids(1, 2)) == (held, 2)
    assert blocks.take(ids(1, 2, 3))[1] == 2
    blocks.release()
    assert blocks.take(ids(3, 4, 5))[1] == 0


def test_nothing_is_known_after_forgetting() -> None:
    blocks = PrefixBlocks(first=0, count=4, size=1)
    blocks.take(ids(1, 2))
    blocks.forget()
    assert blocks.take(ids(1, 2))[1] == 0
    assert len(blocks.take(ids(1, 2, 3, 4))[0]) == 4


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_block_is_only_read_for_the_tokens_it_was_written_for(data: st.DataObject) -> None:
    """The fake cache contains, for each block, all tokens up to its end."""
    count = data.draw(st.integers(1, 12))
    blocks = PrefixBlocks(first=3, count=count, size=2)
    cache: dict[int, tuple[int, ...]] = {}
    held: set[int] = set()
    for _ in range(data.draw(st.integers(1, 25))):
        if data.draw(st.booleans()):
            blocks.release()
            held.clear()
        prompt = data.draw(st.lists(st.integers(0, 1), max_size=14))
        try:
            given_, known = blocks.take(ids(*prompt))
        except OutOfBlocks:
            assert len(held) + len(prompt) // 2 > count, "a block was free"
            continue
        assert len(given_) == len(set(given_)) == len(prompt) // 2
        assert set(given_) <= set(range(3, 3 + count))
        for i, block in enumerate(given_):
            content = tuple(prompt[: 2 * i + 2])
            if i < known:
                assert cache[block] == content
            else:
                assert block not in held or cache[block] == content
                cache[block] = content
        held |= set(given_)
