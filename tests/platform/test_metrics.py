"""Metrics: by hand and against their definitions."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brew_platform.errors import UserError
from brew_platform.metrics import auc, logloss, smoothed_mean

rows = st.lists(st.tuples(st.booleans(), st.integers(-3, 3)), min_size=1, max_size=30)


@settings(deadline=None)  # the first call imports scikit-learn
@given(rows)
def test_auc_is_the_share_of_pairs_in_the_right_order(pairs: list[tuple[bool, int]]) -> None:
    labels, scores = np.array([y for y, _ in pairs]), np.array([s for _, s in pairs], dtype=np.float32)
    positive, negative = scores[labels], scores[~labels]
    if not positive.size or not negative.size:
        assert auc(labels, scores) is None
        return
    wins = [(p > n) + 0.5 * (p == n) for p in positive for n in negative]
    assert auc(labels, scores) == pytest.approx(np.mean(wins))


def test_auc_of_no_rows_is_none() -> None:
    assert auc([], []) is None


def test_logloss_by_hand_and_where_the_model_is_sure_and_wrong() -> None:
    assert logloss([1, 0], [0.8, 0.4]) == pytest.approx(-(math.log(0.8) + math.log(0.6)) / 2)
    assert logloss([1, 0], [1.0, 0.0]) == pytest.approx(0.0, abs=1e-12)
    assert logloss([1], [0.0]) == pytest.approx(-math.log(1e-15))


@pytest.mark.parametrize("kind", [str, int, object])
def test_smoothed_mean_by_hand(kind: type) -> None:
    train, test = np.array([1, 1, 2, 2, 2]), np.array([2, 9, 1, 0])
    if kind is not int:
        train, test = train.astype(str).astype(kind), test.astype(str).astype(kind)
    scores = smoothed_mean(train, [1, 1, 0, 0, 1], test, prior=5)
    mean = 3 / 5
    assert scores == pytest.approx([(1 + 5 * mean) / 8, mean, (2 + 5 * mean) / 7, mean])
    assert scores.dtype == np.float64
    assert smoothed_mean(train, [1, 1, 0, 0, 1], []).shape == (0,)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: auc([0, 1], [0.5]), "there are 2 labels, but 1 scores. Pass one of each per row."),
        (lambda: auc([0, 2], [0.5, 0.1]), "labels must be 0 or 1, but row 1 has 2. Convert the labels to 0 and 1."),
        (lambda: auc([0, 1], [0.5, np.nan]), "scores have 1 values that are not finite, the first in row 1. Remove"),
        (lambda: auc([[0, 1]], [[0.5, 1]]), "labels have shape (1, 2), but must have shape (n,)."),
        (lambda: auc([0, 1], ["a", "b"]), "scores are not numbers: could not convert string to float"),
        (lambda: logloss([0], [1.5]), "must be in [0, 1], but they span [1.5, 1.5]. Convert scores to probabilities"),
        (lambda: logloss([], []), "logloss of no rows is not defined. Pass at least one row."),
        (lambda: smoothed_mean([1], [1], ["a"]), "so no item would match. Pass both as integers or both as"),
        (lambda: smoothed_mean([], [], [1]), "no training rows. Pass at least one."),
        (
            lambda: smoothed_mean([1], [1], [1], prior=0),
            "prior is 0, but must be above 0, because an unseen item has no other score.",
        ),
        (lambda: smoothed_mean([1.5], [1], [1]), "train_items are float64 of shape (1,), but must be integers or str"),
    ],
)
def test_invalid_input_is_refused_with_the_reason(call: Callable[[], object], words: str) -> None:
    with pytest.raises(UserError) as caught:
        call()
    assert words in str(caught.value)
