"""Baselines score the rows that a model scores, with the history that the rows have."""

import numpy as np
import pytest

from brew_data.schema import micros
from brew_data.split import Split, SplitConfig
from brew_eval.baselines.factorisation import Factorisation, FactorisationSettings
from brew_eval.baselines.interactions import TaskInteractions
from brew_eval.baselines.means import EntityMean
from brew_eval.baselines.scoring import rows_to_score, score_baselines
from brew_eval.evaluation import evaluate
from brew_eval.measurement import EvaluationConfig
from brew_eval.scored_rows import ScoredRowsInfo
from brew_platform.errors import UserError

from .tiny import SUITE, TASK, make_tables

INFO = ScoredRowsInfo(model="model", suite="movielens", data_digest="d")
RNG = np.random.default_rng(0)
TABLES = make_tables(
    RNG.integers(0, 8, 200).tolist(), RNG.integers(0, 9, 200).tolist(), RNG.integers(1, 6, 200).tolist(), [*range(200)]
)
SPLIT = Split.of(micros(TABLES.interactions).to_numpy(), SplitConfig(train_share=0.8))
FROZEN = ScoredRowsInfo(model="model", suite="movielens", data_digest="d", history="frozen")


def biases() -> Factorisation:
    return Factorisation("biases", [FactorisationSettings(factors=0)])


def test_rows_to_score_are_those_after_the_cut() -> None:
    rows = rows_to_score(TABLES, SUITE, SPLIT, INFO)
    frozen = rows_to_score(TABLES, SUITE, SPLIT, FROZEN)
    assert rows.column("row_id").tolist() == frozen.column("row_id").tolist() == [*range(160, 200)]
    assert rows.tasks == (TASK.name,)
    assert rows.table["slate"].null_count == 40
    assert frozen.codes("slate")[1] == [0]
    everything = TaskInteractions.of(TABLES, SUITE, TASK)
    member_N = everything.member_N[160:]
    expected = [(everything.member_N[:row] == everything.member_N[row]).sum() for row in range(160, 200)]
    assert rows.column("history").tolist() == expected
    assert frozen.column("history").tolist() == [(everything.member_N[:160] == member).sum() for member in member_N]
    assert rows.info.train_until == SPLIT.train_until


def test_scores_are_those_of_the_baselines_in_the_order_of_the_rows() -> None:
    targets = [rows_to_score(TABLES, SUITE, SPLIT, info) for info in (INFO, FROZEN)]
    targets[0] = targets[0].select(targets[0].column("row_id") % 3 == 0)  # a sample
    found = dict(score_baselines(TABLES, SUITE, SPLIT, targets, {"entity_mean": EntityMean, "biases": biases}))
    assert list(found) == ["entity_mean", "biases"]
    everything = TaskInteractions.of(TABLES, SUITE, TASK)
    for name, model in [("entity_mean", EntityMean()), ("biases", biases())]:
        model.fit(everything, SPLIT.train_until)
        streaming, frozen = found[name]
        score_N = model.score(everything, everything.streaming())
        np.testing.assert_array_equal(streaming.column("score"), score_N[streaming.column("row_id")])
        later = everything.between(SPLIT.train_until, SPLIT.until)
        np.testing.assert_array_equal(frozen.column("score"), model.score(everything, later.frozen(SPLIT.train_until)))
        assert (streaming.info.baseline, streaming.digest) == (name, targets[0].digest)
    report = evaluate(found["biases"][1], [found["entity_mean"][1]], EvaluationConfig(replicates=5))
    assert report.tasks[TASK.name].baselines["entity_mean"].rows == 40


def test_the_mean_of_two_baselines_is_added() -> None:
    target = rows_to_score(TABLES, SUITE, SPLIT, INFO)
    makers = {"lightgbm": EntityMean, "matrix_factorisation": biases}
    scores = score_baselines(TABLES, SUITE, SPLIT, [target], makers)
    found = {name: tables[0].column("score") for name, tables in scores}
    np.testing.assert_array_equal(found["blend"], (found["lightgbm"] + found["matrix_factorisation"]) / 2)


def test_rows_of_other_data_are_refused() -> None:
    target = rows_to_score(TABLES, SUITE, SPLIT, INFO)
    fewer = make_tables([0, 1, 0], [0, 1, 1], [5, 2, 3], [0, 1, 2])
    with pytest.raises(UserError, match="same data"):
        list(score_baselines(fewer, SUITE, SPLIT, [target], {"entity_mean": EntityMean}))


def test_data_without_rows_after_the_cut_are_refused() -> None:
    split = Split(train_until=SPLIT.until, until=SPLIT.until)
    with pytest.raises(UserError, match="nothing to score"):
        rows_to_score(TABLES, SUITE, split, INFO)
