"""Chooses the shares of the sources of a mix from the losses of small models that were trained on other mixes.

1. `propose_mixes`: the mixes to train on.
2. `decide`: the loss of each validation set as a function of the shares (`fit_mixing_law`), checked by leaving out one
   mix at a time; then the shares with the lowest weighted loss.
3. For a larger model or more tokens, the losses of each mix are extrapolated first (`fit_scaling_law`), if the mixes
   have the same order at the sizes that were trained.

Shape suffixes: M mixes, S sources, V validation sets, K sizes of models, T numbers of tokens, X sizes or tokens.

Source: Ye et al., "Data Mixing Laws: Optimizing Data Mixtures by Predicting Language Modeling Performance", arXiv
2403.16952: equation 7 for the law, and section 4 for its use on losses that scaling laws extrapolate, first over tokens
and then over sizes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.optimize import brentq, least_squares, minimize, minimize_scalar
from scipy.stats import spearmanr

from brew_platform.errors import UserError

__all__ = [
    "LEAST_RANK_CORRELATION",
    "Bounds",
    "Decision",
    "MixingLaw",
    "ScalingLaw",
    "Trials",
    "decide",
    "fewest_mixes",
    "fit_mixing_law",
    "fit_scaling_law",
    "propose_mixes",
    "rank_correlations",
    "share_bounds",
]

LEAST_SHARE = 0.01  # of a source; its natural share, if that is lower
CORNER = 0.75  # share of a source in the mix that has most of it, as far as its bounds allow
LEAST_RANK_CORRELATION = 0.8
_ROUNDING = 1e-3  # relative; so that a rounded weight does not exceed most_repeats
_STARTS = (0.0, 0.5, 0.8, 0.9, 0.95, 0.99)  # of the constant of a law, as a share of the lowest loss
_LARGEST_EXPONENT = 50.0  # of e
_EXPONENTS = np.geomspace(0.02, 3.0, 40)  # of scaling laws


class Bounds(NamedTuple):
    """The lowest and highest share of each source."""

    least_S: np.ndarray
    most_S: np.ndarray


@dataclass(frozen=True, kw_only=True, eq=False)
class MixingLaw:
    """The loss of a validation set: constant + exp(rate_S . share_S), in nats per token.

    The factor k of the paper is part of the rates, because shares add up to 1.
    """

    constant: float
    rate_S: np.ndarray

    def losses(self, share_MS: np.ndarray) -> np.ndarray:
        """Return the loss of each mix, shape (M,)."""
        return self.constant + _exp(share_MS @ self.rate_S)


@dataclass(frozen=True, kw_only=True, eq=False)
class ScalingLaw:
    """The loss of each mix at a size or number of tokens x: limit_M + scale_M / (x / unit)^exponent.

    The exponent is that of all mixes: the few points of a mix do not determine one of its own.
    """

    limit_M: np.ndarray
    scale_M: np.ndarray
    exponent: float
    unit: float

    def losses(self, size: float) -> np.ndarray:
        """Return the loss of each mix at a size, shape (M,)."""
        return self.limit_M + self.scale_M * (size / self.unit) ** -self.exponent


@dataclass(frozen=True, kw_only=True, eq=False)
class Trials:
    """What was measured.

    Args:
        share_MS: The shares of each mix. The first mix is the natural one.
        size_K: Parameters of the models, ascending.
        tokens_T: Trained tokens at each measurement, ascending.
        loss_MKTV: The loss of each validation set, in nats per token, above 0.
    """

    share_MS: np.ndarray
    size_K: np.ndarray
    tokens_T: np.ndarray
    loss_MKTV: np.ndarray


@dataclass(frozen=True, kw_only=True, eq=False)
class Decision:
    """The chosen shares.

    Args:
        share_S: The shares.
        is_by_law: They minimize the laws; otherwise they are those of the measured mix with the lowest loss, because
            the laws predict mixes that they have not seen no better than the mean of the others does.
        laws: The law of each validation set.
        error_V: The root mean square error of the laws for mixes that were left out, in nats per token.
        error: The same for the weighted loss.
        skill: 1 - (error / error of the mean of the other mixes)^2 for the weighted loss; at most 1.
        natural_V: The loss of the natural mix, measured or extrapolated.
        loss_V: The loss of the chosen mix, predicted by the laws or that of the measured mix.
        size_ranks: Rank correlation of the weighted losses of the mixes between successive sizes, K - 1 numbers.
        token_ranks: The same between successive numbers of tokens, at the largest size.
        refusal: Why losses were not extrapolated although a target is set; empty: they were, or there is no target.
    """

    share_S: np.ndarray
    is_by_law: bool
    laws: Sequence[MixingLaw]
    error_V: np.ndarray
    error: float
    skill: float
    natural_V: np.ndarray
    loss_V: np.ndarray
    size_ranks: list[float]
    token_ranks: list[float]
    refusal: str


def fewest_mixes(sources: int) -> int:
    """Return the number of mixes that determine a law (sources + 1 numbers) when one of them is left out."""
    return sources + 2


def share_bounds(tokens_S: np.ndarray, *, tokens: int, most_repeats: float) -> Bounds:
    """Return the shares that a source can have.

    Args:
        tokens_S: The tokens that each source has, at least 1.
        tokens: The tokens of the mix.
        most_repeats: The largest number of tokens that are used of a source, as a multiple of those that it has.

    Raises:
        UserError: The sources have too few tokens for the mix.
    """
    most_S = np.minimum(1.0, most_repeats * tokens_S / tokens * (1 - _ROUNDING))
    if most_S.sum() <= 1:
        raise UserError(
            f"the mix has {tokens:,} tokens, but its sources have {int(tokens_S.sum()):,}, each used at most "
            f"{most_repeats:g} times, so that there is nothing to choose. Lower the tokens of the mix, add data, or "
            f"raise most_repeats."
        )
    return Bounds(np.minimum(LEAST_SHARE, np.minimum(tokens_S / tokens_S.sum(), most_S)), most_S)


def propose_mixes(natural_S: np.ndarray, bounds: Bounds, *, count: int, seed: int) -> np.ndarray:
    """Return mixes to train on, shape (count, S): the natural one, one with much of each source, and random ones.

    Random mixes are Dirichlet variates around the square root of the natural shares, so that small sources vary too,
    with different concentrations. All are within the bounds and add up to 1.

    Args:
        natural_S: The share of each source in all tokens.
        bounds: From `share_bounds`.
        count: At least `fewest_mixes`.
        seed: Another seed gives other random mixes.
    """
    random, sources = np.random.default_rng(seed), len(natural_S)
    corners = [(1 - CORNER) * natural_S + CORNER * corner_S for corner_S in np.eye(sources)]
    centre_S = np.sqrt(natural_S) / np.sqrt(natural_S).sum()
    drawn = [random.dirichlet(sources * 2 ** random.uniform(0, 3) * centre_S) for _ in range(count - len(corners) - 1)]
    return np.array([_within(mix_S, bounds) for mix_S in [natural_S, *corners, *drawn]])


def fit_mixing_law(share_MS: np.ndarray, loss_M: np.ndarray) -> MixingLaw:
    """Fit the loss of a validation set as a function of the shares, by least squares.

    Args:
        share_MS: At least S + 1 mixes, whose shares add up to 1.
        loss_M: Losses above 0.
    """
    lowest = float(loss_M.min())

    def residuals(number_P: np.ndarray) -> np.ndarray:
        return number_P[0] + _exp(share_MS @ number_P[1:]) - loss_M

    def jacobian(number_P: np.ndarray) -> np.ndarray:
        return np.column_stack([np.ones(len(loss_M)), _exp(share_MS @ number_P[1:])[:, None] * share_MS])

    starts = []
    for part in _STARTS:  # with a constant, the logarithm is linear in the shares
        rate_S = np.linalg.lstsq(share_MS, np.log(loss_M - part * lowest), rcond=None)[0]
        starts.append(np.array([part * lowest, *rate_S]))
    start_P = min(starts, key=lambda number_P: _rms(residuals(number_P)))
    limits = ([0.0, *[-np.inf] * len(rate_S)], [lowest, *[np.inf] * len(rate_S)])
    number_P = least_squares(residuals, start_P, jacobian, limits, ftol=1e-10, xtol=1e-10, gtol=1e-12, max_nfev=200).x
    return MixingLaw(constant=float(number_P[0]), rate_S=number_P[1:])


def fit_scaling_law(size_X: np.ndarray, loss_MX: np.ndarray) -> ScalingLaw:
    """Fit L = E + A / x^a to the losses of each mix, with E and A of its own that are at least 0, and one exponent.

    Args:
        size_X: At least three sizes or numbers of tokens, ascending.
        loss_MX: The losses at each of them, above 0.
    """
    unit = float(size_X[0])

    def fit(exponent: float) -> tuple[np.ndarray, np.ndarray, float]:
        basis_X = (size_X / unit) ** -exponent
        centred_X = basis_X - basis_X.mean()
        scale_M = np.maximum(0.0, loss_MX @ centred_X / (centred_X @ centred_X))
        limit_M = loss_MX.mean(axis=1) - scale_M * basis_X.mean()
        scale_M = np.where(limit_M < 0, loss_MX @ basis_X / (basis_X @ basis_X), scale_M)
        limit_M = np.maximum(0.0, limit_M)
        return limit_M, scale_M, float(((limit_M[:, None] + scale_M[:, None] * basis_X - loss_MX) ** 2).sum())

    best = int(np.argmin([fit(exponent)[2] for exponent in _EXPONENTS]))
    around = (_EXPONENTS[max(0, best - 1)], _EXPONENTS[min(len(_EXPONENTS) - 1, best + 1)])
    exponent = float(minimize_scalar(lambda x: fit(x)[2], bounds=around, method="bounded", options={"xatol": 1e-9}).x)
    limit_M, scale_M, _ = fit(exponent)
    return ScalingLaw(limit_M=limit_M, scale_M=scale_M, exponent=exponent, unit=unit)


def rank_correlations(loss_MX: np.ndarray) -> list[float]:
    """Return Spearman's rank correlation of the mixes between successive columns; 0 where all losses are equal."""
    return [
        float(spearmanr(left_M, right_M).statistic) if np.ptp(left_M) > 0 and np.ptp(right_M) > 0 else 0.0
        for left_M, right_M in zip(loss_MX.T[:-1], loss_MX.T[1:], strict=True)
    ]


def decide(
    trials: Trials,
    weight_V: np.ndarray,
    bounds: Bounds,
    *,
    target_parameters: int | None = None,
    target_tokens: int | None = None,
) -> Decision:
    """Choose the shares with the lowest weighted mean of the losses.

    Args:
        trials: At least `fewest_mixes` mixes.
        weight_V: The weight of each validation set, at least 0, and not all 0.
        bounds: Of the shares. Shares outside the range of the mixes are not chosen either.
        target_parameters: The size to extrapolate to, from at least three sizes; None: the largest size.
        target_tokens: The tokens to extrapolate to, from at least three measurements; None: the last measurement.
    """
    weight_V = weight_V / weight_V.sum()
    total_MKT = trials.loss_MKTV @ weight_V
    size_ranks, token_ranks = rank_correlations(total_MKT[:, :, -1]), rank_correlations(total_MKT[:, -1])
    refusals = [
        f"between {before:,} and {after:,} {unit} the mixes have a rank correlation of {rank:.2f}, below "
        f"{LEAST_RANK_CORRELATION}"
        for target, unit, size_X, ranks in (
            (target_parameters, "parameters", trials.size_K, size_ranks),
            (target_tokens, "tokens", trials.tokens_T, token_ranks),
        )
        for before, after, rank in zip(size_X[:-1].tolist(), size_X[1:].tolist(), ranks, strict=True)
        if target is not None and rank < LEAST_RANK_CORRELATION
    ]
    loss_MV = trials.loss_MKTV[:, -1, -1]
    if not refusals:
        loss_MV = _extrapolated(trials, target_parameters, target_tokens)
    share_MS = trials.share_MS
    laws = [fit_mixing_law(share_MS, loss_M) for loss_M in loss_MV.T]
    left_out_MV = np.column_stack([_left_out(share_MS, loss_M) for loss_M in loss_MV.T])
    error, of_mean = _rms((left_out_MV - loss_MV) @ weight_V), _rms((_mean_of_others(loss_MV) - loss_MV) @ weight_V)
    skill = 1 - (error / of_mean) ** 2 if of_mean > 0 else 0.0
    if skill > 0:  # within what was measured: the laws are not extrapolated in the shares
        measured = Bounds(
            np.maximum(bounds.least_S, share_MS.min(axis=0)), np.minimum(bounds.most_S, share_MS.max(axis=0))
        )
        share_S = _minimize(laws, weight_V, measured, share_MS)
        loss_V = np.array([law.losses(share_S[None])[0] for law in laws])
    else:
        best = int(np.argmin(loss_MV @ weight_V))
        share_S, loss_V = share_MS[best], loss_MV[best]
    return Decision(
        share_S=share_S,
        is_by_law=skill > 0,
        laws=laws,
        error_V=np.sqrt(((left_out_MV - loss_MV) ** 2).mean(axis=0)),
        error=error,
        skill=skill,
        natural_V=loss_MV[0],
        loss_V=loss_V,
        size_ranks=size_ranks,
        token_ranks=token_ranks,
        refusal="; ".join(refusals),
    )


def _extrapolated(trials: Trials, parameters: int | None, tokens: int | None) -> np.ndarray:
    """Return the losses at the targets, shape (M, V): over tokens for each size, and then over sizes."""
    loss_MKV = trials.loss_MKTV[:, :, -1]
    if tokens is not None:
        loss_MKV = np.stack(
            [
                np.stack([fit_scaling_law(trials.tokens_T, loss_MT).losses(tokens) for loss_MT in by_set], axis=-1)
                for by_set in trials.loss_MKTV.transpose(1, 3, 0, 2)
            ],
            axis=1,
        )
    if parameters is None:
        return loss_MKV[:, -1]
    by_size = [fit_scaling_law(trials.size_K, loss_MK).losses(parameters) for loss_MK in loss_MKV.transpose(2, 0, 1)]
    return np.stack(by_size, axis=-1)


def _minimize(laws: Sequence[MixingLaw], weight_V: np.ndarray, bounds: Bounds, share_MS: np.ndarray) -> np.ndarray:
    """Return the shares with the lowest weighted loss. It is convex, so each local minimum is the minimum."""

    def loss(share_S: np.ndarray) -> float:
        return float(sum(w * law.losses(share_S[None])[0] for w, law in zip(weight_V, laws, strict=True)))

    def gradient(share_S: np.ndarray) -> np.ndarray:
        parts = [w * _exp(share_S @ law.rate_S) * law.rate_S for w, law in zip(weight_V, laws, strict=True)]
        return np.sum(parts, axis=0)

    start_S = min(share_MS, key=loss)
    found = minimize(
        loss,
        start_S,
        jac=gradient,
        method="SLSQP",
        bounds=list(zip(*bounds, strict=True)),
        constraints={"type": "eq", "fun": lambda s: s.sum() - 1, "jac": np.ones_like},
        options={"ftol": 1e-14, "maxiter": 1_000},
    )
    share_S = _within(found.x, bounds)
    return share_S if loss(share_S) < loss(start_S) else start_S


def _left_out(share_MS: np.ndarray, loss_M: np.ndarray) -> np.ndarray:
    """Return the loss of each mix that the law of the others predicts."""
    mixes = np.arange(len(loss_M))
    return np.array(
        [fit_mixing_law(share_MS[mixes != m], loss_M[mixes != m]).losses(share_MS[m : m + 1])[0] for m in mixes]
    )


def _mean_of_others(loss_MV: np.ndarray) -> np.ndarray:
    return (loss_MV.sum(axis=0) - loss_MV) / (len(loss_MV) - 1)


def _within(share_S: np.ndarray, bounds: Bounds) -> np.ndarray:
    """Return the nearest shares within the bounds that add up to 1 (Euclidean projection)."""

    def clipped(shift: float) -> np.ndarray:
        return np.clip(share_S - shift, *bounds)

    low, high = (share_S - bounds.most_S).min(), (share_S - bounds.least_S).max()  # all at most, all at least
    return clipped(brentq(lambda shift: clipped(shift).sum() - 1, low, high, xtol=1e-15))


def _exp(exponent: np.ndarray) -> np.ndarray:
    return np.exp(np.clip(exponent, -_LARGEST_EXPONENT, _LARGEST_EXPONENT))


def _rms(error_M: np.ndarray) -> float:
    return float(np.sqrt((error_M**2).mean()))
