"""Comparisons of two models, and the figures that gates read."""

import json
from dataclasses import replace

import numpy as np
import pytest

from brew_eval.compare import Change, Comparison, compare
from brew_eval.evaluation import evaluate
from brew_eval.gates import fallen_slices, missing_figures, registry_figures
from brew_eval.intervals import Figure
from brew_eval.measurement import FIGURES, EvaluationConfig
from brew_eval.scored_rows import ScoredRows
from brew_platform.errors import DataError, UserError
from brew_platform.registry.gates import Gate, Measured, judge

from .rows import columns, scored

FAST = EvaluationConfig(replicates=60)


def two_models() -> tuple[ScoredRows, ScoredRows]:
    """Return a good model, and a worse one."""
    worse = scored(columns(1_000), model="worse")
    return worse.with_scores(worse.column("best"), model="good"), worse


def test_a_better_model_is_better_in_all_figures_that_have_an_order() -> None:
    good, worse = two_models()
    result = compare(good, worse, FAST)
    task = result.tasks["like"]
    assert task.rows == 1_000
    assert {name: change.verdict(name) for name, change in task.figures.items() if name in ("auc", "logloss")} == {
        "auc": "better",
        "logloss": "better",
    }
    mirrored = compare(worse, good, FAST).tasks["like"].figures["auc"]
    forward = task.figures["auc"].difference
    assert mirrored.verdict("auc") == "worse"
    assert (mirrored.difference.low, mirrored.difference.high) == (-forward.high, -forward.low)  # type: ignore[operator]


def test_a_model_is_the_same_as_itself() -> None:
    rows, _ = two_models()
    result = compare(rows, rows.with_scores(rows.column("score"), model="good"), FAST)
    for change in result.tasks["like"].figures.values():
        assert (change.difference, change.a) == (Figure(0, 0, 0), change.b)
    assert all(part.auc.difference == Figure(0, 0, 0) for part in result.tasks["like"].slices)
    assert result.groups["all"].difference == Figure(0, 0, 0)
    assert {change.verdict(name) for name, change in result.tasks["like"].figures.items()} == {"same"}


def test_models_are_compared_on_the_rows_that_both_scored() -> None:
    good, worse = two_models()
    score = worse.column("score").copy()
    score[:300] = np.nan
    result = compare(good, worse.with_scores(score), FAST)
    task = result.tasks["like"]
    assert (task.rows, sum(part.rows for part in task.slices if part.dimension == "history")) == (700, 700)
    assert "like: 300 of 1,000 rows have no score of worse; they are not compared" in result.warnings
    rest = np.arange(1_000) >= 300
    assert task.figures["auc"].a.value == evaluate(good.select(rest), config=FAST).tasks["like"].figures["auc"].value


def test_a_task_that_no_model_scored_is_reported() -> None:
    good, worse = two_models()
    result = compare(good, worse.with_scores(np.full(1_000, np.nan)), FAST)
    assert (result.tasks, result.groups) == ({}, {})
    assert "like: no row was scored by both models" in result.warnings


def test_other_rows_and_unknown_tasks_are_refused() -> None:
    good, worse = two_models()
    with pytest.raises(UserError, match="not scored on the same rows"):
        compare(good, worse.select(np.arange(1_000) > 0))
    with pytest.raises(UserError, match="no scored rows of the task 'share'"):
        compare(good, worse, tasks=["share"])
    with pytest.raises(UserError, match="no rows to compare"):
        compare(good.select(np.zeros(1_000, bool)), worse)


def test_a_comparison_survives_json() -> None:
    result = compare(*two_models(), FAST)
    assert Comparison.from_json(result.to_json()) == result
    with pytest.raises(DataError, match="not a comparison"):
        Comparison.from_json("{}")
    with pytest.raises(DataError, match="format_version 2"):
        Comparison.from_json(json.dumps({**json.loads(result.to_json()), "format_version": 2}))


def test_the_gates_of_the_registry_read_figures_intervals_and_slices() -> None:
    good, worse = two_models()
    means = good.with_scores(np.random.default_rng(9).uniform(size=1_000), baseline="entity_mean")
    worse = worse.replaced(worse.table, version=1)
    figures = registry_figures(evaluate(good, [means], FAST), compare(good, worse, FAST))
    gates = [
        Gate(figure="like.auc", at_least=0.7),
        Gate(figure="like.ece", at_most=0.1),
        Gate(figure="like.gain", at_least=0.1),
        Gate(figure="like.entity_mean_gain_low", at_least=0.0),
        Gate(figure="like.gap_closed", at_least=0.9),
        Gate(figure="like.slices.history.0-4.auc", at_least=0.6),
        Gate(figure="like.slices.history.100+.auc_low", at_least=0.5),
        Gate(figure="like.change.auc_low", at_least=0.0),
        Gate(figure="like.change.fallen_slices", at_most=0),
        Gate(figure="like.not_finite", at_most=0),
    ]
    measured, replaced = (Measured(number=number, metrics=figures, lineage={}) for number in (3, 1))
    outcomes = judge(gates, measured, replaced)
    assert [str(outcome) for outcome in outcomes if not outcome.passed] == []
    assert json.loads(json.dumps(figures, allow_nan=False)) == figures


def test_slices_that_fell_are_found() -> None:
    good, worse = two_models()
    task = compare(worse, good, FAST).tasks["like"]
    fallen = fallen_slices(task)
    assert "100+" in {part.name for part in fallen}
    assert len(fallen_slices(task, tolerance=0.5)) == 0 < len(fallen)
    figures = registry_figures(evaluate(worse, config=FAST), compare(worse, good, FAST))
    assert figures["like"]["change"]["fallen_slices"] == len(fallen)


def test_missing_figures_and_a_comparison_of_another_model_are_found() -> None:
    good, worse = two_models()
    report = evaluate(good, config=FAST)
    figures = registry_figures(report)
    required = ["like.auc", "like.gain", "share.auc", "like.change.auc"]
    assert missing_figures(figures, required) == ["like.gain", "share.auc", "like.change.auc"]
    with pytest.raises(UserError, match="do not belong together"):
        registry_figures(report, compare(worse, good, FAST))
    with pytest.raises(UserError, match="do not belong together"):
        registry_figures(replace(report, rows_digest="x"), compare(good, worse, FAST))


@pytest.mark.parametrize(
    ("figure", "low", "high", "verdict"),
    [
        ("auc", 0.01, 0.02, "better"),
        ("auc", -0.02, -0.01, "worse"),
        ("auc", -0.01, 0.01, "same"),
        ("ece", 0.01, 0.02, "worse"),
        ("logloss", -0.02, -0.01, "better"),
        ("auc", None, None, "same"),
    ],
)
def test_the_verdict_follows_the_interval(figure: str, low: float | None, high: float | None, verdict: str) -> None:
    assert figure in FIGURES
    change = Change(a=Figure(0.5), b=Figure(0.5), difference=Figure(0.0, low, high))
    assert change.verdict(figure) == verdict
