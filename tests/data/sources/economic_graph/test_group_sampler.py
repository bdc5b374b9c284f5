"""Draws come from the groups that were named, in proportion to the weights."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from brew_data.sources.economic_graph.group_sampler import GroupSampler


@given(
    st.lists(st.tuples(st.integers(0, 4), st.floats(1e-3, 1e3)), min_size=1, max_size=30),
    st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=20),
)
def test_a_draw_is_a_row_of_its_groups(rows: list[tuple[int, float]], numbers: list[float]) -> None:
    group_R, weight_R = (np.array(column) for column in zip(*rows, strict=True))
    sampler, uniform_N = GroupSampler(group_R, weight_R, 5), np.array(numbers)
    for first, last in [(0, 4), (int(group_R[0]), int(group_R[0]))]:
        drawn = sampler.draw(uniform_N, np.full(len(uniform_N), first), np.full(len(uniform_N), last))
        assert ((group_R[drawn] >= first) & (group_R[drawn] <= last)).all()
    empty = sampler.is_empty(np.arange(5))
    assert empty.tolist() == [group not in group_R for group in range(5)]


def test_rows_are_drawn_in_proportion_to_their_weights() -> None:
    sampler = GroupSampler(np.array([1, 0, 1, 1]), np.array([1.0, 5.0, 2.0, 1.0]), 2)
    drawn = sampler.draw(np.linspace(0, 1, 400, endpoint=False), np.ones(400, dtype=int))
    assert np.bincount(drawn, minlength=4).tolist() == [100, 0, 200, 100]


def test_a_draw_returns_the_names_of_rows() -> None:
    sampler = GroupSampler(np.array([0, 1]), np.ones(2), 2, np.array([70, 80]))
    assert sampler.draw(np.array([0.5, 0.5]), np.array([1, 0])).tolist() == [80, 70]


@pytest.mark.parametrize(("first", "last", "expected"), [(0, 0, True), (0, 1, False), (2, 2, True)])
def test_groups_without_rows_are_empty(first: int, last: int, expected: bool) -> None:
    sampler = GroupSampler(np.array([1]), np.ones(1), 3)
    assert sampler.is_empty(np.array([first]), np.array([last])).tolist() == [expected]
