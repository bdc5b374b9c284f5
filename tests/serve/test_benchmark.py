"""Benchmark figures on rows that are computed by hand."""

import math
from dataclasses import replace

import pyarrow as pa
import pytest

from brew_data.prompts.suite import TaskSuite
from brew_data.schema import TIMESTAMP, Tables
from brew_data.split import Split
from brew_platform.errors import BrewError, UserError
from brew_serve.benchmark import TaskQuality, benchmark, select_rows

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
        else pa.table(
            {"interaction_id": list(oracle), "action": ["apply"] * len(oracle), "probability": list(oracle.values())}
        ),
    )


def scores(by_id: dict[int, float]) -> pa.Table:
    return pa.table({"task": ["job_apply"] * len(by_id), "interaction_id": list(by_id), "score": list(by_id.values())})


def test_metrics_equal_values_computed_by_hand(suite: TaskSuite) -> None:
    oracle = {10: 0.9, 11: 0.1, 12: 0.8, 13: 0.2}
    data = tables(oracle=oracle)
    assert select_rows(data, suite, SPLIT).scores == 4
    matches = {10: 0.9, 11: 0.8, 12: 0.7, 13: 0.6}  # 3 of 4 pairs
    baselines = {"matches": {"job_apply": matches}, "of_another_task": {"post_like": matches}}
    scored = scores({10: 0.8, 11: 0.3, 12: 0.25, 13: 0.1})
    [(name, quality)] = benchmark(scored, data, suite, SPLIT, baselines=baselines).items()
    assert benchmark(scored, data, suite, SPLIT)["job_apply"].other_aucs == {}
    assert (name, quality.rows, quality.positive_rate) == ("job_apply", 4, 0.5)
    # Positive 10 (.8) is above both negatives; positive 12 (.25) is above 13 (.1) only: 3 of 4 pairs.
    assert quality.auc == 0.75
    assert quality.logloss == pytest.approx(-(math.log(0.8) + math.log(0.7) + math.log(0.25) + math.log(0.9)) / 4)
    # Popularity: hot (2 + 5 * .5) / 7, cold 2.5 / 7, new .5. Pairs: hot-cold 1, hot-hot tie .5, new-cold 1, new-hot 0.
    assert quality.baseline_auc == 0.625
    assert quality.best_auc == 1.0
    assert quality.gap_closed == pytest.approx((0.75 - 0.625) / (1 - 0.625))
    assert quality.gain == 0.125
    assert quality.figures() == {
        "rows": 4, "positive_rate": 0.5, "auc": 0.75, "logloss": quality.logloss, "baseline_auc": 0.625,
        "best_auc": 1.0, "matches_auc": 0.75, "gain": 0.125, "gap_closed": quality.gap_closed,
    }  # fmt: skip


def test_a_sample_is_the_same_for_its_seed_and_grows_by_adding_rows(suite: TaskSuite) -> None:
    later = [(id_, "ada", "hot", "jobs", "apply" if id_ % 2 else "skip", 110) for id_ in range(10, 60)]
    data = tables(later)
    all_rows = select_rows(data, suite, SPLIT)
    assert (all_rows.interactions, all_rows.of, all_rows.scores) == (50, 50, 50)
    small, again, large = (select_rows(data, suite, SPLIT, sample=size, seed=3) for size in (5, 5, 20))
    assert (small.interactions, small.of, small.scores) == (5, 50, 5)
    assert small.ids["job_apply"].tolist() == again.ids["job_apply"].tolist() == [13, 15, 22, 41, 58]
    assert small.digest == again.digest != large.digest
    assert set(small.ids["job_apply"]) < set(large.ids["job_apply"])
    assert set(select_rows(data, suite, SPLIT, sample=5, seed=4).ids["job_apply"]) != set(small.ids["job_apply"])
    assert select_rows(data, suite, SPLIT, sample=1000).digest == all_rows.digest
    ids = small.ids["job_apply"].tolist()
    scored = benchmark(scores({id_: 0.9 if id_ % 2 else 0.1 for id_ in ids}), data, suite, SPLIT, small)
    assert (scored["job_apply"].rows, scored["job_apply"].auc) == (5, 1.0)
    flipped = [(*row[:4], "skip" if row[4] == "apply" else "apply", row[5]) for row in later]
    assert select_rows(tables(flipped), suite, SPLIT).digest != all_rows.digest  # other labels: not comparable


def test_only_the_rows_of_the_tasks_are_selected(suite: TaskSuite) -> None:
    later = [(10, "ada", "hot", "jobs", "apply", 110), (11, "ada", "hot", "feed", "like", 120)]
    data = tables(later)
    rows = select_rows(data, suite, SPLIT, tasks=["post_interest"])
    assert {task: ids.tolist() for task, ids in rows.ids.items()} == {"post_interest": [11]}
    assert list(select_rows(data, suite, SPLIT).ids) == ["job_apply", "post_interest"]
    with pytest.raises(UserError, match=r"has no task 'post_lik'; its tasks are job_apply, post_interest"):
        select_rows(data, suite, SPLIT, tasks=["post_lik"])
    with pytest.raises(UserError, match="no interaction after the cut for the tasks job_apply"):
        select_rows(tables([later[1]]), suite, SPLIT, tasks=["job_apply"])
    with pytest.raises(UserError, match="the sample has 0 rows"):
        select_rows(data, suite, SPLIT, sample=0)


def test_ties_count_half(suite: TaskSuite) -> None:
    quality = benchmark(scores(dict.fromkeys((10, 11, 12, 13), 0.5)), tables(), suite, SPLIT)["job_apply"]
    assert quality.auc == 0.5
    assert quality.logloss == pytest.approx(math.log(2))
    assert quality.best_auc is None
    assert quality.gap_closed is None


def test_rows_of_one_class_have_a_logloss_and_no_auc(suite: TaskSuite) -> None:
    later = [LATER[0], LATER[2]]
    quality = benchmark(scores({10: 0.8, 12: 0.5}), tables(later, {10: 0.9, 12: 0.6}), suite, SPLIT)["job_apply"]
    assert (quality.positive_rate, quality.auc, quality.baseline_auc, quality.best_auc) == (1.0, None, None, None)
    assert quality.logloss == pytest.approx(-(math.log(0.8) + math.log(0.5)) / 2)
    assert quality.gap_closed is None


def test_the_closed_gap_can_exceed_one_be_negative_or_undefined() -> None:
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
