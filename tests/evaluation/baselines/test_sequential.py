"""SASRec and HSTU: what they see of a history, and rules that they learn."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional

from brew_eval.baselines.base import Baseline
from brew_eval.baselines.hstu import Hstu
from brew_eval.baselines.interactions import Array, Queries, TaskInteractions
from brew_eval.baselines.means import EntityMean, Popularity
from brew_eval.baselines.sasrec import SasRec
from brew_eval.baselines.sequential import SequenceInputs, SequentialBaseline, SequentialSettings
from brew_platform.errors import ConfigError
from brew_platform.metrics import auc

from .tiny import DAY, draw_rows, make_rows

SMALL = SequentialSettings(hidden=8, heads=2, layers=2, length=16, most_epochs=2, learning_rate=0.05, dropout=0.1)
LEARNER = SequentialSettings(
    hidden=16,
    heads=2,
    layers=1,
    length=16,
    most_epochs=25,
    patience=8,
    averaging=0.8,
    sequences=8,
    learning_rate=0.02,
    dropout=0,
)
MEMBERS, EVENTS, ENTITIES = 60, 24, 6
SECONDS = 1_000_000  # microseconds


def draw(rule: Callable[[int, int, int, float], bool], seed: int = 0) -> TaskInteractions:
    """Random entities and gaps in time, and a reaction that follows from the last interaction.

    Args:
        rule: Of the entity, the last entity, the last reaction (0 or 1) and the days since the last interaction.
        seed: Of the draws.
    """
    rng = np.random.default_rng(seed)
    members, entities, stars, days = [], [], [], []
    for member in range(MEMBERS):
        last, reaction, day = 0, 0, float(rng.uniform(0, 300))
        for entity in rng.integers(0, ENTITIES, EVENTS).tolist():
            gap = float(rng.choice([0.01, 5.0]) * rng.uniform(1, 2))
            last, reaction, day = entity, int(rule(entity, last, reaction, gap)), day + gap
            members.append(member)
            entities.append(entity)
            stars.append(5 if reaction else 2)
            days.append(day)
    return make_rows(members, entities, stars, days)


RULES: dict[str, Callable[[int, int, int, float], bool]] = {
    "of the kind of the last entity": lambda entity, last, reaction, gap: entity % 2 == last % 2,
    "even after a like, odd after a dislike": lambda entity, last, reaction, gap: entity % 2 != reaction,
    "soon after the last interaction": lambda entity, last, reaction, gap: gap < 1,
}


def auc_after_the_cut(model: Baseline, rows: TaskInteractions) -> float:
    cut = rows.validation_cut(int(rows.time_N.max()), share=0.7)
    model.fit(rows, cut)
    later = rows.between(cut, int(rows.time_N.max()))
    return auc(later.label_N, model.score(rows, later.streaming())) or 0.0


@pytest.mark.parametrize("make", [SasRec, Hstu])
@pytest.mark.parametrize("rule", list(RULES)[:2])
def test_a_rule_of_the_order_is_learned(make: type[SequentialBaseline], rule: str) -> None:
    rows = draw(RULES[rule])
    assert auc_after_the_cut(Popularity(), rows) < 0.6
    assert auc_after_the_cut(EntityMean(), rows) < 0.6
    assert auc_after_the_cut(make(LEARNER), rows) > 0.95


def test_only_hstu_learns_a_rule_of_the_time() -> None:
    rows = draw(RULES["soon after the last interaction"])
    assert auc_after_the_cut(SasRec(LEARNER), rows) < 0.6
    assert auc_after_the_cut(Hstu(LEARNER), rows) > 0.95


@pytest.mark.parametrize("make", [SasRec, Hstu])
def test_the_own_reaction_and_the_future_change_no_bit(make: type[SequentialBaseline]) -> None:
    rows = draw_rows(seed=4)
    model = make(SMALL)
    model.fit(rows, int(rows.time_N[300]))
    moment = rows.time_N[200]  # in the middle of the sequences
    early_N, late_N = rows.time_N <= moment, rows.time_N >= moment
    exchanged = replace(
        rows,
        entity_N=np.where(late_N, (rows.entity_N + 3) % 10, rows.entity_N),
        label_N=rows.label_N ^ late_N,
        value_N=np.where(late_N, 6 - rows.value_N, rows.value_N),
    )
    queries = rows.streaming()
    before_N, after_N = model.score(rows, queries), model.score(exchanged, queries)
    np.testing.assert_array_equal(before_N[early_N], after_N[early_N])
    assert (before_N[rows.time_N > moment] != after_N[rows.time_N > moment]).mean() > 0.9


@pytest.mark.parametrize("make", [SasRec, Hstu])
def test_candidates_of_a_slate_do_not_see_each_other(make: type[SequentialBaseline]) -> None:
    rows = draw_rows(seed=5)
    model = make(SMALL)
    cut = int(rows.time_N[200])
    model.fit(rows, cut)
    count = 5 * SMALL.length  # more than a sequence answers at once
    slate = Queries(
        member_Q=np.full(count, 3), entity_Q=np.arange(count) % 10, before_Q=np.full(count, cut + 1, dtype=np.int64)
    )
    alone_E = [
        model.score(rows, Queries(member_Q=slate.member_Q[:1], entity_Q=np.array([e]), before_Q=slate.before_Q[:1]))[0]
        for e in range(10)
    ]
    assert np.std(alone_E) > 1e-3
    np.testing.assert_allclose(model.score(rows, slate), np.tile(alone_E, count // 10), atol=1e-6)


@pytest.mark.parametrize(("make", "is_equal"), [(SasRec, True), (Hstu, False)])
def test_the_time_since_the_last_interaction_changes_scores_of_hstu(
    make: type[SequentialBaseline], is_equal: bool
) -> None:
    rows = draw_rows(seed=6)
    model = make(SMALL)
    cut = int(rows.time_N.max())
    model.fit(rows, cut)
    next_day, next_year = (model.score(rows, rows.frozen(cut + days * DAY)) for days in (1, 365))
    assert np.array_equal(next_day, next_year) == is_equal


def silu(value: Array) -> Array:
    return np.asarray(value / (1 + np.exp(-value)))


def normalise(value: Array) -> Array:
    return np.asarray((value - value.mean()) / np.sqrt(value.var() + 1e-6))


def test_a_layer_of_hstu_by_hand() -> None:
    """Two interactions and two candidates, of which the first sees one interaction."""
    hidden, heads = 6, 2
    settings = SequentialSettings(hidden=hidden, heads=heads, layers=1, length=4, dropout=0)
    torch.manual_seed(0)
    network = Hstu(settings).network(entities=5, levels=2).double()
    with torch.no_grad():
        for weight in network.parameters():
            weight.normal_(std=0.7)
        network.norm.weight.fill_(1)
        network.norm.bias.fill_(0)
    weights = {name: weight.detach().numpy() for name, weight in network.named_parameters()}
    time_L, before_C = [0, 50 * SECONDS, 53 * SECONDS], [52 * SECONDS, 60 * SECONDS]
    inputs = SequenceInputs(
        entity_SL=torch.tensor([[0, 4, 2]]),
        level_SL=torch.tensor([[0, 1, 2]]),
        time_SL=torch.tensor([time_L]),
        place_B=torch.tensor([1, 2]),
        candidate_B=torch.tensor([0, 2]),
        before_B=torch.tensor(before_C),
    )
    entity, level = weights["entity.weight"], weights["level.weight"]
    tokens = [level[0], entity[3] + level[1], entity[1] + level[2], entity[0], entity[2]]
    u, v, q, k = np.split(
        np.stack(
            [
                silu(weights["layers.0.uvqk.weight"] @ normalise(token) + weights["layers.0.uvqk.bias"])
                for token in tokens
            ]
        ),
        4,
        axis=1,
    )
    # For each candidate, the interactions that it sees: distance in positions, and bucket of the seconds in between
    seen = [{0: (2, 64), 1: (1, 1)}, {0: (3, 64), 1: (2, 3), 2: (1, 3)}]  # 2 s; 10 s and 7 s
    for index, relations in enumerate(seen):
        token, total = 3 + index, np.zeros(hidden)
        for key, (distance, bucket) in relations.items():
            bias = weights["layers.0.position_bias"][distance] + weights["layers.0.time_bias"][bucket]
            for part in (slice(0, 3), slice(3, 6)):  # heads
                total[part] += silu(q[token, part] @ k[key, part] + bias) / 5 * v[key, part]
        gated = normalise(total) * u[token]
        state = tokens[token] + weights["layers.0.out.weight"] @ gated + weights["layers.0.out.bias"]
        final = functional.layer_norm(torch.from_numpy(state), [hidden]).numpy()
        expected = weights["out.weight"][0] @ final + weights["out.bias"][0] + weights["bias"][[0, 2][index]]
        assert network(inputs)[index].item() == pytest.approx(expected, abs=1e-9)


def test_heads_divide_the_hidden_units() -> None:
    with pytest.raises(ConfigError, match="10 hidden units can't be divided among 4 heads. Set hidden to a multiple"):
        SequentialSettings(hidden=10, heads=4)
