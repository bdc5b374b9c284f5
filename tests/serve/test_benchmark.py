"""Benchmark figures on rows that are computed by hand."""

import math
from dataclasses import replace

import pyarrow as pa
import pytest

from brew_data.prompts.suite import TaskSuite
from brew_data.schema import TIMESTAMP, Tables
from brew_data.split import Split
from brew_platform.errors import BrewError
from brew_serve.benchmark import TaskQuality, benchmark, count_benchmark_scores

SPLIT = Split(train_until=100, until=200)
# (interaction id, member, entity, surface, action, time); "gone" has opted out, and time 300 is after the benchmark
TRAINING = [
    (0, "ada", "hot", "jobs", "apply", 1),
    (1, "ada", "hot", "jobs", "apply", 2),
    (2, "ada", "cold", "jobs", "skip", 3),
    (3, "ada", "cold", "jobs", "skip", 4),
]
LATER = [
    (10, "ada", "hot", "jobs", "apply", 110),
    (11, "ada", "cold", "jobs", "skip", 120),
    (12, "ada", "new", "jobs", "apply", 130),
    (13, "ada", "hot", "jobs", "skip", 200),
    (14, "gone", "hot", "jobs", "apply", 150),
    (15, "ada", "hot", "jobs", "apply", 300),
]


def tables(later: list[tuple] | None = None, oracle: dict[int, float] | None = None) -> Tables:
    rows = sorted(TRAINING + (LATER if later is None else later), key=lambda row: row[-1])
    names = ("interaction_id", "member_id", "entity_id", "surface", "action", "timestamp")
    columns = dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))
    return Tables(
        members=pa.table(
            {
                "member_id": ["ada", "gone"],
                "profile": [{"title": "nurse"}] * 2,
                "locale": ["en"] * 2,
                "opted_out": [False, True],
            }
        ),
        entities=pa.table(
            {
                "entity_id": ["hot", "cold", "new"],
                "entity_type": ["job"] * 3,
                "created_at": pa.array([0] * 3, TIMESTAMP),
                "fields": [{"title": "cook"}] * 3,
            }
        ),
        interactions=pa.table({**columns, "timestamp": pa.array(columns["timestamp"], TIMESTAMP)}),
        oracle=None
        if oracle is None
        else pa.table({"interaction_id": list(oracle), "probability": list(oracle.values())}),
    )


def scores(by_id: dict[int, float]) -> pa.Table:
    return pa.table({"task": ["job_apply"] * len(by_id), "interaction_id": list(by_id), "score": list(by_id.values())})


def test_figures_are_those_computed_by_hand(suite: TaskSuite) -> None:
    oracle = {10: 0.9, 11: 0.1, 12: 0.8, 13: 0.2}
    data = tables(oracle=oracle)
    assert count_benchmark_scores(data, suite, SPLIT) == 4
    [(name, quality)] = benchmark(scores({10: 0.8, 11: 0.3, 12: 0.25, 13: 0.1}), data, suite, SPLIT).items()
    assert (name, quality.rows, quality.positive_rate) == ("job_apply", 4, 0.5)
    # Positive 10 (.8) is above both negatives; positive 12 (.25) is above 13 (.1) only: 3 of 4 pairs.
    assert quality.auc == 0.75
    assert quality.logloss == pytest.approx(-(math.log(0.8) + math.log(0.7) + math.log(0.25) + math.log(0.9)) / 4)
    # Popularity: hot (2 + 5 * .5) / 7, cold 2.5 / 7, new .5. Pairs: hot-cold 1, hot-hot tie .5, new-cold 1, new-hot 0.
    assert quality.baseline_auc == 0.625
    assert quality.best_auc == 1.0
    assert quality.gap_closed == pytest.approx((0.75 - 0.625) / (1 - 0.625))


def test_ties_count_half(suite: TaskSuite) -> None:
    quality = benchmark(scores(dict.fromkeys((10, 11, 12, 13), 0.5)), tables(), suite, SPLIT)["job_apply"]
    assert quality.auc == 0.5
    assert quality.logloss == pytest.approx(math.log(2))
    assert quality.best_auc is None
    assert quality.gap_closed is None


def test_one_class_has_a_logloss_and_no_auc(suite: TaskSuite) -> None:
    later = [LATER[0], LATER[2]]
    quality = benchmark(scores({10: 0.8, 12: 0.5}), tables(later, {10: 0.9, 12: 0.6}), suite, SPLIT)["job_apply"]
    assert (quality.positive_rate, quality.auc, quality.baseline_auc, quality.best_auc) == (1.0, None, None, None)
    assert quality.logloss == pytest.approx(-(math.log(0.8) + math.log(0.5)) / 2)
    assert quality.gap_closed is None


def test_the_gap_may_be_exceeded_negative_or_undefined() -> None:
    quality = TaskQuality(rows=1, positive_rate=0.5, auc=0.5, logloss=1.0, baseline_auc=0.6, best_auc=0.8)
    assert quality.gap_closed == pytest.approx(-0.5)
    assert replace(quality, auc=0.9).gap_closed == pytest.approx(1.5)
    assert replace(quality, best_auc=0.6).gap_closed is None


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        (scores({10: 0.8, 11: 0.3, 12: 0.2}), r"1 of 4 benchmark rows have no score \(13\)"),
        (scores({10: 0.8, 11: 0.3, 12: 0.2, 13: 0.1, 15: 0.5}), "5 scores for 4 benchmark rows"),
        (
            pa.concat_tables([scores({10: 0.8, 11: 0.3, 12: 0.2, 13: 0.1}), scores({10: 0.8})]),
            "5 scores for 4 benchmark rows",
        ),
    ],
)
def test_every_row_needs_exactly_one_score(suite: TaskSuite, table: pa.Table, sentence: str) -> None:
    with pytest.raises(BrewError, match=sentence):
        benchmark(table, tables(), suite, SPLIT)
