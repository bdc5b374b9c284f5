"""Averages and biases of ratings contain strictly earlier ratings only."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from brew_data.sources.rating_averages import PRIOR_MEMBER_RATINGS, PRIOR_RATINGS, earlier_ratings, member_biases

ratings = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 8), st.integers(1, 5)), min_size=1, max_size=40)


def arrays(rows: list[tuple[int, int, int]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    entity, time, stars = (np.array(column) for column in zip(*sorted(rows, key=lambda row: row[1]), strict=True))
    return entity, time, stars.astype(np.float64)


@given(rows=ratings, until=st.none() | st.integers(0, 8))
def test_number_and_average_are_those_of_a_loop(rows: list[tuple[int, int, int]], until: int | None) -> None:
    entity, time, stars = arrays(rows)
    counts, averages = earlier_ratings(entity, time, stars, until=until)
    for row in range(len(entity)):
        earlier = (time < time[row]) & (True if until is None else time <= until)
        if not earlier.any():
            assert counts[row] == 0
            assert np.isnan(averages[row])
            continue
        overall = stars[earlier].mean()
        own = earlier & (entity == entity[row])
        assert counts[row] == own.sum()
        expected = (stars[own].sum() + PRIOR_RATINGS * overall) / (own.sum() + PRIOR_RATINGS)
        assert averages[row] == pytest.approx(expected)


@given(rows=ratings, moment=st.integers(0, 8))
def test_later_ratings_change_nothing(rows: list[tuple[int, int, int]], moment: int) -> None:
    entity, time, stars = arrays(rows)
    changed = np.where(time >= moment, 6 - stars, stars)
    before, after = (earlier_ratings(entity, time, values) for values in (stars, changed))
    known = time <= moment
    np.testing.assert_array_equal(before[0], after[0])
    np.testing.assert_allclose(before[1][known], after[1][known], rtol=1e-12)


@given(rows=ratings, until=st.none() | st.integers(0, 8))
def test_the_bias_is_that_of_a_loop(rows: list[tuple[int, int, int]], until: int | None) -> None:
    member, time, stars = arrays(rows)
    averages = np.full(len(member), 3.0)
    averages[::4] = np.nan
    biases = member_biases(member, time, stars, averages, until=until)
    for row in range(len(member)):
        earlier = (time < time[row]) & (True if until is None else time <= until) & (member == member[row])
        differences = (stars - averages)[earlier & ~np.isnan(averages)]
        assert biases[row] == pytest.approx(differences.sum() / (earlier.sum() + PRIOR_MEMBER_RATINGS))
