"""Biases of members and entities, and biased matrix factorisation, by alternating least squares.

Shape suffixes: N interactions, Q queries, M members, E entities, D = factors + 1 coefficients.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Annotated

import numpy as np

from brew_eval.baselines.base import Calibration
from brew_eval.baselines.interactions import Array, Queries, TaskInteractions
from brew_platform.metrics import logloss
from brew_platform.settings import PositiveFloat, PositiveInt, Range, Settings

__all__ = ["Factorisation", "FactorisationSettings", "MatrixFactorisation", "biases", "matrix_factorisation"]


@dataclass(frozen=True, kw_only=True)
class FactorisationSettings(Settings):
    """The settings of a factorisation; the penalties are those of a ridge regression, in interactions."""

    factors: Annotated[int, Range(ge=0, le=1024)] = 8  # 0: biases only
    bias_penalty: PositiveFloat = 5.0
    factor_penalty: PositiveFloat = 10.0
    rounds: PositiveInt = 15  # of alternating least squares
    seed: Annotated[int, Range(ge=0)] = 0


class MatrixFactorisation:
    """value = mean + b_m + b_e + p_m . q_e, minimised with ridge penalties by alternating least squares.

    With the coefficients of the entities fixed, those of a member are a ridge regression on the member's interactions,
    and the reverse (Zhou et al. 2008, "Large-scale parallel collaborative filtering for the Netflix Prize"; biases as
    in Koren, Bell, Volinsky 2009). A query solves that regression again on all interactions of the member that are
    strictly earlier, so members and histories after the cut need no new fit; entities after the cut have the
    coefficients 0.
    """

    def __init__(self, settings: FactorisationSettings) -> None:
        self.settings = settings

    def fit(self, rows: TaskInteractions) -> None:
        """Fit all rows."""
        settings, depth = self.settings, self.settings.factors + 1
        self.mean = float(rows.value_N.mean())
        self._penalty_D = np.r_[settings.bias_penalty, np.full(settings.factors, settings.factor_penalty)]
        rng = np.random.default_rng(settings.seed)
        member_MD = np.zeros((len(rows.member_ids), depth))
        entity_ED = np.zeros((len(rows.type_E), depth))
        seen_E = np.bincount(rows.entity_N, minlength=len(entity_ED)) > 0
        entity_ED[seen_E, 1:] = rng.normal(0, 0.1, (int(seen_E.sum()), settings.factors))
        for _ in range(settings.rounds):
            self._solve(member_MD, rows.member_N, entity_ED[rows.entity_N], rows.value_N)
            self._solve(entity_ED, rows.entity_N, member_MD[rows.member_N], rows.value_N)
        self.entity_ED = entity_ED

    def score(self, rows: TaskInteractions, queries: Queries) -> Array:
        """Compute the expected value of each query, float64, shape (queries,)."""
        order_N = np.lexsort((rows.time_N, rows.member_N))
        member_N, time_N = rows.member_N[order_N], rows.time_N[order_N]
        other_ND, value_N = self.entity_ED[rows.entity_N[order_N]], rows.value_N[order_N]
        x_ND, y_N = _design(other_ND), value_N - self.mean - other_ND[:, 0]
        score_Q = np.zeros(len(queries))
        order_Q = np.lexsort((queries.before_Q, queries.member_Q))
        for query_G in np.split(order_Q, _starts(queries.member_Q[order_Q])[1:]):
            if not len(query_G):
                continue
            member = queries.member_Q[query_G[0]]
            begin, end = np.searchsorted(member_N, [member, member + 1])
            known_G = np.searchsorted(time_N[begin:end], queries.before_Q[query_G], side="left")
            matrix_DD, right_D, done = np.diag(self._penalty_D), np.zeros(len(self._penalty_D)), 0
            place_H, inverse_G = np.unique(known_G, return_inverse=True)
            matrices, rights = [], []
            for known in place_H:
                new = slice(begin + done, begin + known)
                matrix_DD = matrix_DD + x_ND[new].T @ x_ND[new]
                right_D = right_D + x_ND[new].T @ y_N[new]
                matrices.append(matrix_DD)
                rights.append(right_D)
                done = known
            member_HD = np.linalg.solve(np.stack(matrices), np.stack(rights)[:, :, None])[:, :, 0]
            candidate_GD = self.entity_ED[queries.entity_Q[query_G]]
            score_Q[query_G] = (
                self.mean + candidate_GD[:, 0] + (_design(candidate_GD) * member_HD[inverse_G]).sum(axis=1)
            )
        return score_Q

    def _solve(self, own_OD: Array, owner_N: Array, other_ND: Array, value_N: Array) -> None:
        """Replace the coefficients of all owners by their ridge regressions on the other side."""
        order_N = np.argsort(owner_N, kind="stable")
        x_ND, y_N = _design(other_ND)[order_N], (value_N - self.mean - other_ND[:, 0])[order_N]
        starts = _starts(owner_N[order_N])
        ends = np.r_[starts[1:], len(order_N)]
        for begin, end in zip(starts.tolist(), ends.tolist(), strict=True):
            x, y = x_ND[begin:end], y_N[begin:end]
            own_OD[owner_N[order_N[begin]]] = np.linalg.solve(x.T @ x + np.diag(self._penalty_D), x.T @ y)


class Factorisation:
    """A factorisation whose settings and whose map to probabilities are chosen on validation rows (`Baseline`).

    Args:
        name: The name of the baseline.
        grid: Settings; those with the smallest logloss on the last fifth of the training rows are used.
    """

    def __init__(self, name: str, grid: Sequence[FactorisationSettings]) -> None:
        self.name, self._grid = name, grid

    def fit(self, rows: TaskInteractions, cut: int) -> None:
        """Choose the settings, then fit all rows before the cut (`Baseline`)."""
        train, earlier = rows.until(cut), rows.validation_cut(cut)
        later = train.between(earlier, cut)
        best = np.inf
        for settings in self._grid:
            model = MatrixFactorisation(settings)
            model.fit(train.until(earlier))
            held = later if len(later) else train
            score_N = model.score(train, held.streaming())
            map_ = Calibration(score_N, held.label_N)
            if (loss := logloss(held.label_N, map_(score_N))) < best:
                best, self.settings, self._map = loss, settings, map_
        self._model = MatrixFactorisation(self.settings)
        self._model.fit(train)

    def score(self, rows: TaskInteractions, queries: Queries) -> Array:
        """Score as in `Baseline`."""
        return self._map(self._model.score(rows, queries))


def biases() -> Factorisation:
    """Return the baseline `biases`: one number per member and one per entity."""
    return Factorisation("biases", [FactorisationSettings(factors=0, bias_penalty=p) for p in (2.0, 5.0, 10.0)])


def matrix_factorisation() -> Factorisation:
    """Return the baseline `matrix_factorisation`."""
    return Factorisation(
        "matrix_factorisation",
        [
            FactorisationSettings(factors=factors, factor_penalty=penalty)
            for factors, penalty in product((4, 8, 16), (5.0, 10.0, 20.0))
        ],
    )


def _design(other_ND: Array) -> Array:
    return np.concatenate([np.ones((len(other_ND), 1)), other_ND[:, 1:]], axis=1)


def _starts(sorted_N: Array) -> Array:
    return np.flatnonzero(np.r_[True, np.diff(sorted_N) != 0])[: len(sorted_N)]
