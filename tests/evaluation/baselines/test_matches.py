"""The regression on matches of texts learns which fields must agree."""

from dataclasses import replace

import numpy as np

from brew_eval.baselines.interactions import Fields
from brew_eval.baselines.matches import Matches
from brew_platform.metrics import auc

from .tiny import draw_rows

TRADES = ["nurse", "baker", "lawyer"]


def test_a_match_of_profile_and_entity_is_learned() -> None:
    rows = draw_rows(600)
    members = Fields(values={}, numbers={}, texts={"job": [f"senior {TRADES[m % 3]}" for m in range(12)]})
    entities = Fields(
        values={},
        numbers={"applicants": np.arange(10.0)},
        texts={"title": [f"A {TRADES[e % 3]} for us" for e in range(10)], "city": ["Rome"] * 10},
    )
    label_N = rows.member_N % 3 == rows.entity_N % 3
    label_N ^= np.random.default_rng(0).random(600) < 0.1
    rows = replace(rows, members=members, entities=entities, label_N=label_N)
    cut = int(rows.time_N[400])
    model = Matches()
    model.fit(rows, cut)
    assert model._pairs == [("job", "title")]
    later = rows.between(cut, int(rows.time_N.max()))
    score_N = model.score(rows, later.streaming())
    assert (auc(later.label_N, score_N) or 0) > 0.8
    np.testing.assert_array_equal(model.score(rows.until(cut), later.frozen(cut)), score_N)


def test_without_words_and_numbers_all_scores_are_the_mean() -> None:
    rows = draw_rows()
    nothing = Fields(values={}, numbers={}, texts={"x": ["?"] * 12})
    rows = replace(rows, members=nothing, entities=replace(nothing, texts={"y": ["-"] * 10}))
    model = Matches()
    model.fit(rows, int(rows.time_N.max()))
    assert set(model.score(rows, rows.streaming())) == {rows.label_N.mean()}
