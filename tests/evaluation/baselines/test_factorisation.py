"""Alternating least squares, against direct solves."""

from dataclasses import replace

import numpy as np
import pytest

from brew_eval.baselines.factorisation import Factorisation, FactorisationSettings, MatrixFactorisation
from brew_eval.baselines.interactions import Queries, TaskInteractions
from brew_platform.metrics import auc

from .tiny import DAY, draw_rows, make_rows


def fitted(rows: TaskInteractions, **settings: float) -> MatrixFactorisation:
    model = MatrixFactorisation(FactorisationSettings(**settings))  # type: ignore[arg-type]
    model.fit(rows)
    return model


def test_biases_are_the_solution_of_one_linear_system() -> None:
    rows = draw_rows()
    members, entities, penalty = 12, 10, 3.0
    design_ND = np.zeros((len(rows), members + entities))
    design_ND[np.arange(len(rows)), rows.member_N] = 1
    design_ND[np.arange(len(rows)), members + rows.entity_N] = 1
    right_N = rows.value_N - rows.value_N.mean()
    direct_D = np.linalg.solve(design_ND.T @ design_ND + penalty * np.eye(members + entities), design_ND.T @ right_N)
    model = fitted(rows, factors=0, bias_penalty=penalty, rounds=200)
    np.testing.assert_allclose(model.entity_ED[:, 0], direct_D[members:], atol=1e-8)
    queries = rows.frozen(int(rows.time_N.max()))
    expected_N = rows.value_N.mean() + design_ND @ direct_D
    np.testing.assert_allclose(model.score(rows, queries), expected_N, atol=1e-8)


def test_a_query_solves_the_regression_of_the_strictly_earlier_interactions() -> None:
    rows = draw_rows(seed=3)
    model = fitted(rows, factors=3, bias_penalty=2.0, factor_penalty=4.0)
    queries = rows.streaming()
    score_N = model.score(rows, queries)
    for row in (0, 50, 217, len(rows) - 1):
        past = (rows.member_N == rows.member_N[row]) & (rows.time_N < rows.time_N[row])
        entity_ND = model.entity_ED[rows.entity_N[past]]
        x = np.c_[np.ones(past.sum()), entity_ND[:, 1:]]
        y = rows.value_N[past] - model.mean - entity_ND[:, 0]
        # The ridge regression as least squares with additional rows
        penalty = np.diag(np.sqrt([2.0, 4.0, 4.0, 4.0]))
        own_D = np.linalg.lstsq(np.r_[x, penalty], np.r_[y, np.zeros(4)], rcond=None)[0]
        candidate_D = model.entity_ED[rows.entity_N[row]]
        expected = model.mean + candidate_D[0] + np.r_[1, candidate_D[1:]] @ own_D
        assert score_N[row] == pytest.approx(expected, abs=1e-9)


def test_the_loss_does_not_rise_with_more_rounds() -> None:
    rows = draw_rows(seed=1)
    errors = []
    for rounds in (1, 3, 10):
        model = fitted(rows, factors=2, rounds=rounds, factor_penalty=1.0)
        errors.append(((model.score(rows, rows.frozen(int(rows.time_N.max()))) - rows.value_N) ** 2).mean())
    assert errors[0] >= errors[1] - 1e-3
    assert errors[1] >= errors[2] - 1e-3


def test_a_new_member_and_a_new_entity_have_the_mean() -> None:
    rows = make_rows([0, 0, 1], [0, 1, 2], [5, 1, 3], [1, 2, 3])
    model = fitted(rows.until(2 * DAY), factors=2)
    query = Queries(member_Q=np.array([1]), entity_Q=np.array([2]), before_Q=np.array([3 * DAY]))
    assert model.score(rows, query).tolist() == [3.0]


def test_settings_are_chosen_before_the_cut() -> None:
    rows = draw_rows(seed=5)
    cut = int(rows.time_N[300])
    grid = [FactorisationSettings(factors=0, bias_penalty=penalty) for penalty in (1000.0, 2.0)]
    model = Factorisation("biases", grid)
    model.fit(rows, cut)
    assert model.settings is grid[1]
    later = rows.between(cut, int(rows.time_N.max()))
    score_N = model.score(rows, later.streaming())
    assert (auc(later.label_N, score_N) or 0) > 0.7
    late = rows.time_N > cut
    again = Factorisation("biases", grid)
    again.fit(replace(rows, label_N=rows.label_N ^ late, value_N=np.where(late, 6 - rows.value_N, rows.value_N)), cut)
    np.testing.assert_array_equal(again.score(rows, later.streaming()), score_N)
