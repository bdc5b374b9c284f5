"""The sample of rows that a benchmark scores."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from brew_eval.scored_rows import ScoredRows
from brew_eval.selection import sample_rows
from brew_platform.errors import UserError

from .rows import columns, scored


def two_tasks() -> ScoredRows:
    """Return two tasks on the same interactions, in slates of five."""
    tables = [pa.table(columns(200, task=task)) for task in ("like", "share")]
    return ScoredRows.of(pa.concat_tables(tables), scored(columns(5)).info)


def ids(rows: ScoredRows, task: str) -> set[int]:
    return set(rows.of_tasks([task]).column("row_id").tolist())


@given(few=st.integers(1, 250), more=st.integers(1, 250), seed=st.integers(0, 3))
def test_a_larger_sample_contains_a_smaller_one_and_slates_are_whole(few: int, more: int, seed: int) -> None:
    few, more = sorted((few, more))
    rows = two_tasks()
    small, large = (sample_rows(rows, count, seed=seed) for count in (few, more))
    for task in ("like", "share"):
        assert ids(small, task) <= ids(large, task)
        assert min(few, 200) <= len(ids(small, task)) < few + 5
        assert all({*range(row - row % 5, row - row % 5 + 5)} <= ids(small, task) for row in ids(small, task))
    assert ids(small, "like") == ids(small, "share")


def test_rows_without_slates_are_drawn_one_by_one() -> None:
    data = columns(200)
    data["slate"] = pa.array([None] * 200, pa.int64())
    drawn = sample_rows(scored(data), 7)
    assert len(drawn) == 7
    assert np.array_equal(drawn.column("row_id"), sample_rows(scored(data), 7).column("row_id"))
    assert not np.array_equal(drawn.column("row_id"), sample_rows(scored(data), 7, seed=1).column("row_id"))


def test_all_rows_and_no_rows() -> None:
    rows = two_tasks()
    assert sample_rows(rows, None) is rows
    with pytest.raises(UserError, match="use at least 1"):
        sample_rows(rows, 0)
