"""Evaluation: figures, differences to baselines, groups, and what is left out."""

import json
from typing import Any

import numpy as np
import pytest

from brew_eval.evaluation import evaluate
from brew_eval.intervals import Figure
from brew_eval.measurement import EvaluationConfig
from brew_eval.report.report import Report
from brew_eval.scored_rows import ScoredRows
from brew_platform.errors import ConfigError, DataError, UserError
from brew_platform.metrics import auc, logloss

from .rows import columns, scored

FAST = EvaluationConfig(replicates=40)


def popularity(rows: ScoredRows, noise: float = 0.3, **changes: Any) -> ScoredRows:
    random = np.random.default_rng(5)
    score = np.clip(rows.column("best") + random.normal(size=len(rows)) * noise, 0, 1)
    return rows.with_scores(score, baseline="popularity", **changes)


def two_tasks() -> ScoredRows:
    like, share = columns(300), columns(200, seed=1, task="share")
    share |= {"surface": ["jobs"] * 200, "is_trained": [False] * 200}
    return scored({name: [*like[name], *share[name]] for name in like})


def test_figures_are_those_of_the_rows() -> None:
    rows = two_tasks()
    report = evaluate(rows, [popularity(rows)], FAST)
    like = rows.of_tasks(["like"])
    label, score, best = (like.column(name) for name in ("label", "score", "best"))
    task = report.tasks["like"]
    assert task.figures["auc"].value == pytest.approx(auc(label, score))
    assert task.figures["logloss"].value == pytest.approx(logloss(label, score))
    assert task.best_auc.value == pytest.approx(auc(label, best))
    assert (task.tier, task.surface, task.counts.used, task.counts.members) == ("T1", "feed", 300, 40)
    assert all(figure.low < figure.value < figure.high for figure in task.figures.values())  # type: ignore[operator]
    assert sum(point.rows for point in task.reliability) == 300
    assert not [text for text in report.warnings if "slates" not in text]


def test_a_baseline_is_compared_in_pairs() -> None:
    rows = two_tasks()
    report = evaluate(rows, [popularity(rows), rows.with_scores(rows.column("score"), baseline="same")], FAST)
    baselines = report.tasks["like"].baselines
    assert baselines["same"].differences["auc"] == Figure(0, 0, 0)
    popular, model, best = baselines["popularity"], report.tasks["like"].figures["auc"], report.tasks["like"].best_auc
    assert model.value is not None
    assert best.value is not None
    assert popular.figures["auc"].value is not None
    gain = model.value - popular.figures["auc"].value
    assert popular.differences["auc"].value == pytest.approx(gain)
    assert popular.gap_closed.value == pytest.approx(gain / (best.value - popular.figures["auc"].value))


def test_groups_are_means_over_tasks() -> None:
    rows = two_tasks()
    report = evaluate(rows, [popularity(rows).of_tasks(["like"])], FAST)
    assert {name: group.tasks for name, group in report.groups.items()} == {
        "all": 2,
        "T1": 1,
        "T2": 1,
        "surface feed": 1,
        "surface jobs": 1,
    }
    values = [task.figures["auc"].value for task in report.tasks.values()]
    assert report.groups["all"].figures["auc"].value == pytest.approx(np.mean(values))  # type: ignore[arg-type]
    assert report.groups["T1"].figures["auc"] == report.tasks["like"].figures["auc"]
    assert report.groups["T2"].baselines == {}
    assert any("popularity was not scored on share" in text for text in report.warnings)


def test_slices_cover_the_rows_of_a_task() -> None:
    report = evaluate(scored(columns(400)), config=FAST)
    slices = report.tasks["like"].slices
    for dimension in ("history", "locale", "language", "time"):
        assert sum(part.rows for part in slices if part.dimension == dimension) == 400
    assert {part.name for part in slices if part.dimension == "history"} == {"0-4", "5-19", "20-99", "100+"}


def test_rows_without_score_or_label_are_counted_and_not_used() -> None:
    data = columns(100)
    score = [None, float("nan"), float("inf"), *data["score"][3:]]
    label = [*data["label"][:99], None]
    rows = scored({**data, "score": score, "label": label})
    report = evaluate(rows, config=FAST)
    task = report.tasks["like"]
    found = task.counts
    assert (found.rows, found.used, found.without_score, found.not_finite, found.without_label) == (100, 96, 1, 2, 1)
    assert task.figures["auc"].value == pytest.approx(auc(data["label"][3:99], data["score"][3:99]))
    assert "like: 1 of 100 rows have no score; no figure contains them" in report.warnings
    assert sum("no figure contains them" in text for text in report.warnings) == 3


def test_outcomes_that_training_rows_do_not_have_are_kept_apart() -> None:
    data = columns(60)
    rows = scored({**data, "outcome": [*["no", "yes"] * 28, "new", "new", None, None]})
    task = evaluate(rows, config=FAST, training_outcomes={"like": {"no", "yes"}}).tasks["like"]
    assert (task.counts.unseen_outcome, task.counts.used) == (2, 58)
    other = evaluate(rows, config=FAST, training_outcomes={"share": {"no"}})
    assert other.tasks["like"].counts.used == 60
    report = evaluate(rows, config=FAST, training_outcomes={"like": ["yes"]})
    assert any("30 of 60 rows have an outcome that the training rows do not have" in text for text in report.warnings)


def test_a_baseline_is_compared_on_the_rows_that_both_scored() -> None:
    rows = scored(columns(100))
    score = rows.column("score").copy()
    score[:40] = np.nan
    report = evaluate(rows, [rows.with_scores(score, baseline="half")], FAST)
    half = report.tasks["like"].baselines["half"]
    assert (half.rows, half.differences["auc"]) == (60, Figure(0, 0, 0))
    assert any("half has no score of 40 rows" in text for text in report.warnings)


def test_a_single_label_and_scores_that_are_not_probabilities_are_reported() -> None:
    data = columns(50)
    single = evaluate(scored({**data, "label": [True] * 50}), config=FAST)
    assert single.tasks["like"].figures["auc"] == Figure(None)
    assert (single.tasks["like"].counts.slates, single.tasks["like"].counts.one_class_slates) == (0, 10)
    assert any("single label, so AUC is not defined" in text for text in single.warnings)
    logits = evaluate(scored({**data, "score": np.arange(50.0)}), config=FAST)
    assert logits.tasks["like"].figures["logloss"] == Figure(None)
    assert logits.tasks["like"].reliability == []
    assert any("not probabilities" in text for text in logits.warnings)


def test_scores_of_no_row_are_reported() -> None:
    report = evaluate(scored({**columns(20), "score": [None] * 20}), config=FAST)
    assert set(report.tasks["like"].figures.values()) == {Figure(None)}


def test_unknown_tasks_other_rows_and_repeated_names_are_refused() -> None:
    rows = two_tasks()
    with pytest.raises(UserError, match="no scored rows of the task 'comment'"):
        evaluate(rows, tasks=["like", "comment"])
    with pytest.raises(UserError, match="same rows"):
        evaluate(rows, [scored(columns(300, seed=3), baseline="popularity")], FAST)
    with pytest.raises(UserError, match="two baselines"):
        evaluate(rows, [popularity(rows), popularity(rows)], FAST)
    with pytest.raises(UserError, match="nothing to evaluate"):
        evaluate(rows.select(np.zeros(len(rows), bool)))
    with pytest.raises(UserError, match="nothing to evaluate"):
        evaluate(rows, tasks=[])
    with pytest.raises(ConfigError, match="level"):
        EvaluationConfig(level=1.0)


def test_a_report_survives_json() -> None:
    rows = two_tasks()
    report = evaluate(rows, [popularity(rows, seed=2)], FAST, seconds=1.5)
    assert Report.from_json(report.to_json()) == report
    assert Report.from_dict(json.loads(report.to_json())) == report
    assert evaluate(rows, [popularity(rows, seed=2)], FAST).tasks == report.tasks


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"format_version": 1}', "\ud800"])
def test_text_that_is_not_a_report_is_refused(text: str) -> None:
    with pytest.raises(DataError, match="not the report"):
        Report.from_json(text)
    with pytest.raises(DataError, match="not the report"):
        Report.from_dict({"tasks": text})


def test_a_report_of_another_release_is_refused() -> None:
    text = evaluate(scored(columns(20)), config=FAST).to_json()
    with pytest.raises(DataError, match="format_version 7"):
        Report.from_json(text.replace('"format_version": 1', '"format_version": 7'))
