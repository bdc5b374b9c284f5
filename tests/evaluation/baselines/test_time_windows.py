"""Features of a row are functions of strictly earlier rows, and have the values of a calculation by hand."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brew_eval.baselines.interactions import Queries, TaskInteractions
from brew_eval.baselines.time_windows import window_features

from .tiny import DAY, draw_rows, make_rows


def column(rows: TaskInteractions, name: str, queries: Queries | None = None) -> list[float]:
    features = window_features(rows, queries or rows.streaming())
    return [pytest.approx(value, abs=1e-4) for value in features.value_QF[:, features.names.index(name)].tolist()]


def test_windows_by_hand() -> None:
    rows = make_rows([0, 0, 0, 1, 0, 9], [0, 1, 0, 0, 1, 9], [5, 1, 4, 4, 3, 3], [0, 0, 3, 20, 40, 90])
    assert column(rows, "member_count") == [0, 0, 2, 0, 3, 0]  # two ratings of the same second do not see each other
    assert column(rows, "member_count_7d") == [0, 0, 2, 0, 0, 0]
    assert column(rows, "member_count_last_5") == [0, 0, 2, 0, 3, 0]
    assert column(rows, "entity_count_30d") == [0, 0, 1, 2, 0, 0]
    # Row 3: entity 0 has 2 likes of 2; the mean of all labels so far is (2 + .5) / 4
    assert column(rows, "entity_label")[3] == (2 + 5 * 2.5 / 4) / 7
    assert column(rows, "member_days_since_last")[2] == 3
    assert column(rows, "member_genres_count") == [0, 0, 1, 0, 2, 0]  # entity 1 is "Drama, War": one rating of each
    assert column(rows, "entity.title_year") == [1950, 1951, 1950, 1950, 1951, 1959]
    assert column(rows, "entity.genres=War") == [0, 1, 0, 0, 1, 1]
    assert column(rows, "profile.occupation") == [1, 1, 1, 0, 1, 0]


def test_the_excess_is_the_value_above_the_mean_of_the_entity_at_that_time() -> None:
    rows = make_rows([0, 1, 1], [0, 0, 1], [2, 5, 3], [0, 1, 2])
    # Row 0: nothing is known, value 2 minus 0. Row 1: the mean of all is 2 / 2, that of entity 0 is (2 + 5 * 1) / 6.
    assert column(rows, "member_excess")[2] == (5 - 7 / 6) / 6
    assert column(rows, "all_excess")[1] == 2 / 6


def test_a_frozen_history_stops_at_the_cut() -> None:
    rows = make_rows([0, 0, 0, 0], [0, 1, 0, 1], [5, 5, 1, 1], [1, 2, 3, 4])
    later = rows.between(2 * DAY, 4 * DAY)
    assert column(rows, "member_count", later.frozen(2 * DAY)) == [2, 2]
    assert column(rows, "member_count", later.streaming()) == [2, 3]


@given(st.integers(0, 10_000), st.floats(0.1, 0.9))
@settings(max_examples=12, deadline=None)
def test_features_do_not_depend_on_rows_at_or_after_their_time(seed: int, share: float) -> None:
    rows = draw_rows(seed=seed % 7, author=seed % 2 == 0)
    moment = rows.time_N[int(share * len(rows))]
    late = np.flatnonzero(rows.time_N >= moment)
    order = np.random.default_rng(seed).permutation(late)
    changed = {}
    for name in ("member_N", "entity_N", "label_N", "value_N"):  # the future is another one
        values = getattr(rows, name).copy()
        values[late] = values[order]
        changed[name] = values
    early = rows.take(rows.time_N <= moment).streaming()
    plain, other = window_features(rows, early), window_features(replace(rows, **changed), early)
    assert plain.names == other.names
    np.testing.assert_array_equal(plain.value_QF, other.value_QF)
    np.testing.assert_array_equal(plain.value_QF, window_features(rows.take(rows.time_N < moment), early).value_QF)
