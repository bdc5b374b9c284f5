"""Ranking metrics: AUC, per-member AUC, and NDCG@k."""

import numpy as np

from brew_eval.metrics.base import Array, Ratio, require_finite, sums_by_member

__all__ = ["Auc", "SlateMetrics", "slate_metrics"]

_CHUNK = 200_000  # weights of rows at a time, which stay in the cache


class Auc:
    """The area under the ROC curve: P(a positive row scores above a negative row), ties count half.

    The Mann-Whitney statistic, with the weight of a row's member as the weight of the row. Rows are sorted once, so a
    replicate costs O(N).

    Args:
        label_N: 0 or 1, shape (N,).
        score_N: Finite, shape (N,).
        member_N: Index of each row's member, from 0 to M - 1, shape (N,).
    """

    def __init__(self, label_N: np.ndarray, score_N: np.ndarray, member_N: np.ndarray) -> None:
        score_N = require_finite("score", score_N)
        order_N = np.argsort(score_N)
        is_positive_N = label_N[order_N] > 0
        member_N, score_N = member_N[order_N], score_N[order_N]
        self._positive_member, self._negative_member = member_N[is_positive_N], member_N[~is_positive_N]
        # Negative rows whose score is below, and at most, that of each positive row.
        positive, negative = score_N[is_positive_N], score_N[~is_positive_N]
        self._below = np.searchsorted(negative, positive, side="left")
        up_to = np.searchsorted(negative, positive, side="right")
        self._up_to = up_to if np.any(up_to != self._below) else None

    def compute(self, weights_RM: np.ndarray) -> Array:
        if not len(self._positive_member) or not len(self._negative_member):
            return np.full(len(weights_RM), np.nan)
        step = max(_CHUNK // (len(self._positive_member) + len(self._negative_member)), 1)
        chunks = [self._weighted(weights_RM[start : start + step]) for start in range(0, len(weights_RM), step)]
        return np.concatenate(chunks)

    def _weighted(self, weights_RM: np.ndarray) -> Array:
        positive = weights_RM.take(self._positive_member, axis=1)
        negative = np.zeros((len(weights_RM), len(self._negative_member) + 1), dtype=np.int32)
        # Sums of int32 are several times faster than those of float64, and exact.
        np.cumsum(weights_RM.take(self._negative_member, axis=1), axis=1, dtype=np.int32, out=negative[:, 1:])
        twice = negative.take(self._below, axis=1)
        twice += twice if self._up_to is None else negative.take(self._up_to, axis=1)
        wins_R = 0.5 * np.einsum("rp,rp->r", positive, twice, dtype=np.float64)
        pairs_R = positive.sum(axis=1, dtype=np.float64) * negative[:, -1]
        return np.divide(wins_R, pairs_R, out=np.full(len(wins_R), np.nan), where=pairs_R > 0)


class SlateMetrics:
    """Per-member AUC and NDCG@k over slates, and the number of slates that have them.

    Attributes:
        uauc: Mean over members of the mean AUC of their slates.
        ndcg: Mean NDCG@k over slates.
        slates: Slates with positive and negative rows.
        one_class: Slates whose rows all have the same label; AUC is not defined for them, and any order has the same
            NDCG, so they are counted and not averaged.
    """

    def __init__(self, uauc: Ratio, ndcg: Ratio, slates: int, one_class: int) -> None:
        self.uauc, self.ndcg, self.slates, self.one_class = uauc, ndcg, slates, one_class


def slate_metrics(
    label_N: np.ndarray, score_N: np.ndarray, slate_N: np.ndarray, member_N: np.ndarray, members: int, *, k: int = 10
) -> SlateMetrics:
    """Prepare the metrics of slates.

    DCG@k is the sum of label / log2(1 + rank) over the k highest scores (Järvelin and Kekäläinen 2002); NDCG divides it
    by that of the best order. Rows with equal scores share the mean of their places' discounts, as in scikit-learn.

    Args:
        label_N: 0 or 1, shape (N,).
        score_N: Finite, shape (N,).
        slate_N: Slate of each row, int64, shape (N,). Slates with the same number of two members are different.
        member_N: Index of each row's member, from 0 to M - 1, shape (N,).
        members: M.
        k: Number of places that count.
    """
    score_N = require_finite("score", score_N)
    if not len(score_N):
        empty = Ratio(np.zeros(members), np.zeros(members))
        return SlateMetrics(empty, empty, 0, 0)
    group_N = _groups(slate_N, member_N)
    order_N = np.lexsort((-score_N, group_N))
    label_N, score_N, group_N, member_N = (
        label_N[order_N].astype(np.float64),
        score_N[order_N],
        group_N[order_N],
        member_N[order_N],
    )
    new_slate_N = np.concatenate([[True], group_N[1:] != group_N[:-1]])
    starts_S = np.flatnonzero(new_slate_N)
    size_S = np.diff(np.append(starts_S, len(group_N)))
    member_S = member_N[starts_S]
    positives_S = np.add.reduceat(label_N, starts_S)
    both_S = (positives_S > 0) & (positives_S < size_S)

    new_tie_N = new_slate_N | np.concatenate([[True], score_N[1:] != score_N[:-1]])
    starts_T = np.flatnonzero(new_tie_N)
    slate_T = np.cumsum(new_slate_N)[starts_T] - 1
    size_T = np.diff(np.append(starts_T, len(group_N)))
    positives_T = np.add.reduceat(label_N, starts_T)
    negatives_T = size_T - positives_T

    # Negatives above a group of ties: the running sum minus that at the start of the slate.
    above_T = np.cumsum(negatives_T) - negatives_T
    first_T = np.searchsorted(slate_T, np.arange(len(starts_S)))
    above_T = above_T - above_T[first_T][slate_T]
    negatives_S = size_S - positives_S
    below_T = negatives_S[slate_T] - above_T - negatives_T
    wins_S = np.bincount(slate_T, weights=positives_T * (below_T + 0.5 * negatives_T), minlength=len(starts_S))
    with np.errstate(invalid="ignore", divide="ignore"):
        auc_S = wins_S / (positives_S * negatives_S)

    place_N = np.arange(len(group_N)) - np.repeat(starts_S, size_S)
    discounts = np.concatenate([1 / np.log2(np.arange(2, k + 2)), [0.0]])
    discount_T = np.add.reduceat(discounts[np.minimum(place_N, k)], starts_T)
    dcg_S = np.bincount(slate_T, weights=positives_T / size_T * discount_T, minlength=len(starts_S))
    ideal_S = np.concatenate([[0.0], np.cumsum(discounts[:k])])[np.minimum(positives_S, k).astype(np.int64)]
    with np.errstate(invalid="ignore", divide="ignore"):
        ndcg_S = dcg_S / ideal_S

    def by_member(value_S: np.ndarray) -> tuple[Array, Array]:
        counts_M = sums_by_member(both_S.astype(np.float64), member_S, members)
        return sums_by_member(np.where(both_S, value_S, 0.0), member_S, members), counts_M

    auc_M, slates_M = by_member(auc_S)
    mean_M = np.divide(auc_M, slates_M, out=np.zeros(members), where=slates_M > 0)
    return SlateMetrics(
        uauc=Ratio(mean_M, (slates_M > 0).astype(np.float64)),
        ndcg=Ratio(*by_member(ndcg_S)),
        slates=int(both_S.sum()),
        one_class=int((~both_S).sum()),
    )


def _groups(slate_N: np.ndarray, member_N: np.ndarray) -> np.ndarray:
    """Return an index of each pair of member and slate."""
    _, slate_N = np.unique(slate_N, return_inverse=True)
    return member_N.astype(np.int64) * (int(slate_N.max()) + 1) + slate_N
