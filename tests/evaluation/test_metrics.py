"""Metrics are those of scikit-learn, and have their invariants."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve
from sklearn.metrics import log_loss as sklearn_log_loss
from sklearn.metrics import ndcg_score, roc_auc_score

from brew_eval.metrics.base import Statistic
from brew_eval.metrics.probability import CalibrationError, log_loss, reliability_curve
from brew_eval.metrics.ranking import Auc, slate_metrics
from brew_platform.errors import UserError


def value(statistic: Statistic, members: int) -> float:
    return float(statistic.compute(np.ones((1, members), np.uint8))[0])


def draw(rows: int, *, members: int, seed: int, decimals: int = 2) -> tuple[Any, Any, Any]:
    random = np.random.default_rng(seed)
    score = random.uniform(size=rows).round(decimals)
    return (random.uniform(size=rows) < score).astype(float), score, random.integers(members, size=rows)


@pytest.mark.parametrize("seed", range(5))
def test_auc_and_log_loss_are_those_of_scikit_learn_with_weights(seed: int) -> None:
    label, score, member = draw(300, members=20, seed=seed)
    weights = np.random.default_rng(seed).integers(4, size=(3, 20))
    auc = Auc(label, score, member).compute(weights)
    loss = log_loss(label, score, member, 20).compute(weights)
    for row, weight in enumerate(weights):
        assert auc[row] == pytest.approx(roc_auc_score(label, score, sample_weight=weight[member]))
        assert loss[row] == pytest.approx(
            sklearn_log_loss(label, np.clip(score, 1e-15, 1 - 1e-15), sample_weight=weight[member])
        )


@pytest.mark.parametrize("k", [1, 3, 10])
def test_slates_have_the_figures_of_scikit_learn(k: int) -> None:
    label, score, member = draw(600, members=12, seed=k, decimals=1)
    slate = np.random.default_rng(k).integers(8, size=600)  # numbers repeat between members
    metrics = slate_metrics(label, score, slate, member, 12, k=k)
    auc: dict[int, list[float]] = {}
    ndcg, one_class = [], 0
    for who in range(12):
        for number in range(8):
            rows = (member == who) & (slate == number)
            if 0 < label[rows].sum() < rows.sum():
                auc.setdefault(who, []).append(roc_auc_score(label[rows], score[rows]))
                ndcg.append(ndcg_score(label[rows][None], score[rows][None], k=k))
            elif rows.any():
                one_class += 1
    assert (metrics.slates, metrics.one_class) == (len(ndcg), one_class)
    assert one_class
    assert value(metrics.uauc, 12) == pytest.approx(np.mean([np.mean(values) for values in auc.values()]))
    assert value(metrics.ndcg, 12) == pytest.approx(np.mean(ndcg))


@pytest.mark.parametrize("strategy", ["quantile", "uniform"])
def test_the_reliability_curve_is_that_of_scikit_learn(strategy: Any) -> None:
    label, score, member = draw(500, members=5, seed=1, decimals=6)
    rate, probability = calibration_curve(label, score, n_bins=15, strategy=strategy)
    curve = reliability_curve(label, score, strategy=strategy)
    assert [point.rate for point in curve] == pytest.approx(rate)
    assert [point.probability for point in curve] == pytest.approx(probability)
    error = sum(point.rows * abs(point.rate - point.probability) for point in curve) / 500
    assert value(CalibrationError(label, score, member, 5, strategy=strategy), 5) == pytest.approx(error)


@given(st.data())
def test_auc_depends_on_the_order_of_scores_only(data: st.DataObject) -> None:
    rows = data.draw(st.integers(2, 40))
    score = np.array(data.draw(st.lists(st.integers(-20, 20), min_size=rows, max_size=rows)), float)
    label = np.array(data.draw(st.lists(st.booleans(), min_size=rows, max_size=rows)), float)
    member = np.array(data.draw(st.lists(st.integers(0, 3), min_size=rows, max_size=rows)))
    weights = np.array([data.draw(st.lists(st.integers(0, 3), min_size=4, max_size=4))])
    auc = Auc(label, score, member).compute(weights)
    for scores in (3 * score - 7, np.exp(score / 10), score**3):
        assert np.array_equal(Auc(label, scores, member).compute(weights), auc, equal_nan=True)
    assert np.allclose(Auc(label, -score, member).compute(weights), 1 - auc, equal_nan=True)
    assert np.allclose(Auc(1 - label, score, member).compute(weights), 1 - auc, equal_nan=True)


@given(st.integers(0, 2**32 - 1))
def test_a_slate_with_the_best_order_has_the_figures_1(seed: int) -> None:
    label, _, member = draw(60, members=3, seed=seed)
    metrics = slate_metrics(label, label, np.arange(60) // 6, member, 3)
    if metrics.slates:
        assert value(metrics.uauc, 3) == value(metrics.ndcg, 3) == pytest.approx(1)


def test_figures_of_no_rows_or_of_a_single_class_are_not_defined() -> None:
    none = np.zeros(0)
    assert np.isnan(value(Auc(none, none, none.astype(int)), 2))
    assert np.isnan(value(slate_metrics(none, none, none, none.astype(int), 2).uauc, 2))
    assert np.isnan(value(log_loss(none, none, none.astype(int), 2), 2))
    assert np.isnan(value(Auc(np.ones(3), np.arange(3.0), np.array([0, 1, 1])), 2))


@pytest.mark.parametrize(("score", "words"), [([0.5, np.nan], "not finite"), ([0.5, 1.5], r"in \[0, 1\]")])
def test_scores_that_are_not_probabilities_are_refused(score: list[float], words: str) -> None:
    label, member = np.array([0.0, 1.0]), np.array([0, 0])
    for prepare in (log_loss, CalibrationError):
        with pytest.raises(UserError, match=words):
            prepare(label, np.array(score), member, 1)
    with pytest.raises(UserError, match="at least 2"):
        reliability_curve(label, label, bins=1)
