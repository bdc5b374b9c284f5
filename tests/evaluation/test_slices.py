"""Slices are disjoint, cover all rows, and have stable names."""

import numpy as np
import pytest

from brew_eval.slices import DIMENSIONS, slices

from .rows import DAY, columns, scored


@pytest.mark.parametrize("dimension", DIMENSIONS)
def test_the_slices_of_a_dimension_are_disjoint_and_cover_all_rows(dimension: str) -> None:
    rows = scored(columns(500))
    masks = [part.rows_N for part in slices(rows, (dimension,))]
    assert np.array_equal(np.sum(masks, axis=0), np.ones(500))


def test_history_has_buckets_with_both_ends() -> None:
    history = [0, 4, 5, 19, 20, 99, 100, 2**31 - 1]
    rows = scored({**columns(8), "history": history, "slate": [None] * 8})
    found = {part.name: np.array(history)[part.rows_N].tolist() for part in slices(rows, ("history",))}
    assert found == {"0-4": [0, 4], "5-19": [5, 19], "20-99": [20, 99], "100+": [100, 2**31 - 1]}


def test_locales_and_languages() -> None:
    rows = scored({**columns(5), "locale": ["pt-BR", "pt_PT", "en-US", None, "EN"]})
    found = {part.dimension + " " + part.name: int(part.rows_N.sum()) for part in slices(rows, ("locale", "language"))}
    assert found == {
        "locale EN": 1,
        "locale en-US": 1,
        "locale pt-BR": 1,
        "locale pt_PT": 1,
        "locale unknown": 1,
        "language en": 2,
        "language pt": 2,
        "language unknown": 1,
    }


def test_rare_locales_are_one_slice() -> None:
    rows = scored({**columns(9), "locale": ["a", "a", "b", "b", "c", "d", "e", None, None]})
    found = {part.name: int(part.rows_N.sum()) for part in slices(rows, ("locale",), most=3)}
    assert found == {"a": 2, "b": 2, "unknown": 2, "other": 3}


def test_windows_have_the_same_length() -> None:
    days = scored({**columns(4), "time": [0, DAY, 7 * DAY, 8 * DAY - 1]})
    assert {part.name: int(part.rows_N.sum()) for part in slices(days, ("time",), windows=2)} == {
        "1970-01-01 to 1970-01-05": 2,
        "1970-01-05 to 1970-01-09": 2,
    }
    moment = scored({**columns(4), "time": [5_000_000] * 4})
    assert len(list(slices(moment, ("time",)))) == 1


def test_no_rows_have_no_slices() -> None:
    assert not list(slices(scored(columns(3)).select(np.zeros(3, bool))))
