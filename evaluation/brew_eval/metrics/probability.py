"""Metrics of probabilities: log loss, calibration error, and the reliability curve."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from brew_eval.metrics.base import Array, Ratio, require_finite, sums_by_member
from brew_platform.errors import UserError

__all__ = ["CalibrationError", "ReliabilityBin", "log_loss", "reliability_curve"]

_EPSILON = 1e-15  # as in brew_platform.metrics.logloss


def log_loss(label_N: np.ndarray, probability_N: np.ndarray, member_N: np.ndarray, members: int) -> Ratio:
    """Prepare the mean of -(y ln p + (1 - y) ln(1 - p)), in nats, with p clipped to [1e-15, 1 - 1e-15].

    Args:
        label_N: 0 or 1, shape (N,).
        probability_N: From 0 to 1, shape (N,).
        member_N: Index of each row's member, from 0 to M - 1, shape (N,).
        members: M.

    Raises:
        UserError: A probability is not in [0, 1].
    """
    p_N = np.clip(_require_probabilities(probability_N), _EPSILON, 1 - _EPSILON)
    loss_N = -np.where(label_N > 0, np.log(p_N), np.log1p(-p_N))
    ones_N = np.ones(len(p_N))
    return Ratio(sums_by_member(loss_N, member_N, members), sums_by_member(ones_N, member_N, members))


class CalibrationError:
    """The expected calibration error: the mean over bins of |mean probability - share of positives|, by rows.

    Bins have about the same number of rows by default, because the rates of most tasks are low, and bins of the same
    width would put nearly all rows into one (Nixon et al. 2019; with equal widths: Guo et al. 2017). The edges are
    those of all rows, in every replicate. The noise of small bins raises the error, and that of replicates even more,
    so the figure lies in the lower part of its interval; compare models by the paired difference.

    Args:
        label_N: 0 or 1, shape (N,).
        probability_N: From 0 to 1, shape (N,).
        member_N: Index of each row's member, from 0 to M - 1, shape (N,).
        members: M.
        bins: B.
        strategy: `quantile` (the same number of rows) or `uniform` (the same width).

    Raises:
        UserError: A probability is not in [0, 1], or there are fewer than 2 bins.
    """

    def __init__(
        self,
        label_N: np.ndarray,
        probability_N: np.ndarray,
        member_N: np.ndarray,
        members: int,
        *,
        bins: int = 15,
        strategy: Literal["quantile", "uniform"] = "quantile",
    ) -> None:
        p_N = _require_probabilities(probability_N)
        bin_N = _bins(p_N, bins, strategy)
        index_N = bin_N * members + member_N
        gap = np.bincount(index_N, weights=p_N - label_N, minlength=bins * members).reshape(bins, members)
        rows = np.bincount(member_N, minlength=members)
        self._gap_BM, self._rows_M = gap[np.any(gap != 0, axis=1)], rows.astype(np.float64)

    def compute(self, weights_RM: np.ndarray) -> Array:
        weights_MR = weights_RM.astype(np.float64).T
        rows_R = self._rows_M @ weights_MR
        error_R = np.abs(self._gap_BM @ weights_MR).sum(axis=0)
        return np.divide(error_R, rows_R, out=np.full(len(rows_R), np.nan), where=rows_R > 0)


@dataclass(frozen=True)
class ReliabilityBin:
    """A point of a reliability curve."""

    rows: int
    probability: float  # mean of the predictions
    rate: float  # share of positive rows


def reliability_curve(
    label_N: np.ndarray,
    probability_N: np.ndarray,
    *,
    bins: int = 15,
    strategy: Literal["quantile", "uniform"] = "quantile",
) -> list[ReliabilityBin]:
    """Return the bins that have rows, by ascending probability. The arguments are those of `CalibrationError`."""
    p_N = _require_probabilities(probability_N)
    bin_N = _bins(p_N, bins, strategy)
    rows_B = np.bincount(bin_N, minlength=bins)
    sums = [np.bincount(bin_N, weights=values, minlength=bins) for values in (p_N, label_N)]
    return [
        ReliabilityBin(int(rows), float(probability / rows), float(positives / rows))
        for rows, probability, positives in zip(rows_B, *sums, strict=True)
        if rows
    ]


def _bins(p_N: np.ndarray, bins: int, strategy: str) -> np.ndarray:
    """Return the bin of each row; the edges are those of scikit-learn's `calibration_curve`."""
    if bins < 2:
        raise UserError(f"a calibration error of {bins} bins is not defined. Use at least 2.")
    places = np.linspace(0.0, 1.0, bins + 1)
    edges = np.quantile(p_N, places) if strategy == "quantile" and len(p_N) else places
    return np.searchsorted(edges[1:-1], p_N)


def _require_probabilities(probability_N: np.ndarray) -> Array:
    p_N = require_finite("probability", probability_N)
    if len(p_N) and (p_N.min() < 0 or p_N.max() > 1):
        raise UserError(
            f"probabilities must be in [0, 1], but they span [{p_N.min():.6g}, {p_N.max():.6g}]. Report AUC only, or "
            f"calibrate the scores first."
        )
    return p_N
