"""Points of a study agree with the evaluation of the same rows, and laws use paired replicates."""

import numpy as np
import pytest

from brew_eval.evaluation import evaluate
from brew_eval.measurement import EvaluationConfig
from brew_eval.scored_rows import ScoredRows
from brew_eval.studies.scored_points import MEAN, ScoredVersion, slice_points, version_points
from brew_platform.errors import UserError

from ..rows import columns, scored

CONFIG = EvaluationConfig(replicates=60)


def rows(noise: float, *tasks: str) -> ScoredRows:
    """Return rows whose scores are the true probabilities with noise of one draw, so that it is shared."""
    parts = [columns(300, task=task) for task in tasks or ("like",)]
    data = {name: np.concatenate([np.asarray(part[name], object) for part in parts]).tolist() for name in parts[0]}
    best = np.array(data["best"], float)
    random = np.random.default_rng(1)
    logit = np.log(best / (1 - best)) + noise * random.normal(size=len(best))
    return scored({**data, "score": 1 / (1 + np.exp(-logit))})


def test_figures_are_those_of_the_evaluation() -> None:
    table = rows(1.0, "like", "open")
    points, _ = version_points([ScoredVersion(name="a", rows=table)], ["auc", "logloss"], CONFIG)
    report = evaluate(table, config=CONFIG)
    by_name = {(point.figure, point.series): point.value for point in points}
    assert by_name["auc", "open"] == report.tasks["open"].figures["auc"]
    assert by_name["logloss", MEAN] == report.groups["all"].figures["logloss"]


def test_a_law_is_fitted_for_each_series() -> None:
    versions = [ScoredVersion(name=f"{x}", rows=rows(3 / x), x=x) for x in (1.0, 2.0, 4.0, 8.0, 16.0)]
    points, laws = version_points(versions, ["auc", "logloss", "ece"], CONFIG, with_laws=True)
    assert set(laws) == {("auc", "like"), ("logloss", "like")}
    best = evaluate(versions[0].rows, config=CONFIG).tasks["like"].best_auc
    assert laws["auc", "like"].limit.value == pytest.approx(best.value, abs=0.02)
    last = next(point for point in points if point.figure == "auc" and point.x == 16.0)
    assert last.value.high is not None
    assert last.value.low is not None
    held_out = laws["auc", "like"].held_out
    assert held_out is not None
    assert held_out.measured == last.value.value


def test_slices_have_the_baselines_of_the_first_version() -> None:
    table = rows(1.0)
    baseline = table.with_scores(np.full(len(table), 0.5), baseline="constant")
    report = evaluate(table, [baseline], CONFIG)
    versions = [ScoredVersion(name=name, rows=table, report=report) for name in ("a", "b")]
    points = slice_points(versions, "history", ["auc", "logloss"])
    assert {point.series for point in points} == {"a", "b", "constant"}
    assert {point.point for point in points} >= {"0-4", "5-19"}
    assert {point.series for point in points if point.figure == "logloss"} == {"a", "b"}
    tiers = slice_points(versions, "task", ["auc"])
    assert {point.point for point in tiers} == {"like (T1)"}


def test_what_a_version_lacks_is_refused() -> None:
    version = ScoredVersion(name="a", rows=rows(1.0), x=1.0)
    with pytest.raises(UserError, match="needs the report of a benchmark"):
        slice_points([version], "history", ["auc"])
    with pytest.raises(UserError, match="no scored rows of the task 'buy'"):
        version_points([version], ["auc"], CONFIG, tasks=["buy"])
    with pytest.raises(UserError, match="at least 4 points"):
        version_points([version] * 3, ["auc"], CONFIG, with_laws=True)
