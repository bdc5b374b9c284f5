"""What a ranking is judged by: AUC, log loss, and the popularity baseline that a model must beat.

Holds the formulas.
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from brew_platform.errors import UserError

__all__ = ["auc", "logloss", "smoothed_mean"]

_EPSILON = 1e-15  # a probability of exactly 0 or 1 that is wrong costs -ln(1e-15), about 34.5, and not infinity


def auc(labels: ArrayLike, scores: ArrayLike) -> float | None:
    """Area under the ROC curve: the probability that a random positive row scores above a random negative one.

    Ties count half (the Mann-Whitney statistic).

    Args:
        labels: 0 or 1, any integer, float or bool dtype, shape (n,).
        scores: any finite numbers, higher is more positive, shape (n,).

    Returns:
        A number from 0 to 1, or None where the rows are not of both classes.

    Raises:
        UserError: other shapes, other labels, or a score that is not finite.
    """
    y, s = _labels(labels), _numbers("scores", scores)
    _same_length("labels", y, "scores", s)
    if y.size == 0 or y.min() == y.max():
        return None
    from sklearn.metrics import roc_auc_score  # imports for a second

    return float(roc_auc_score(y, s))


def logloss(labels: ArrayLike, probabilities: ArrayLike) -> float:
    """Mean of -(y ln p + (1-y) ln(1-p)), in nats, with p clipped to [1e-15, 1 - 1e-15].

    Args:
        labels: 0 or 1, shape (n,), n > 0.
        probabilities: of label 1, from 0 to 1, shape (n,).

    Raises:
        UserError: other shapes or values.
    """
    y, p = _labels(labels), _numbers("probabilities", probabilities)
    _same_length("labels", y, "probabilities", p)
    if y.size == 0:
        raise UserError("logloss of no rows is not defined. Give at least one row.")
    if p.min() < 0 or p.max() > 1:
        raise UserError(
            f"probabilities must lie in [0, 1], but they span [{p.min():.6g}, {p.max():.6g}]. Turn scores into "
            f"probabilities first, for example with a sigmoid."
        )
    p = np.clip(p, _EPSILON, 1 - _EPSILON)
    return float(-np.mean(y * np.log(p) + (1 - y) * np.log1p(-p)))


def smoothed_mean(
    train_items: ArrayLike, train_labels: ArrayLike, test_items: ArrayLike, *, prior: float = 5.0
) -> NDArray[np.float64]:
    """Popularity: score(item) = (sum of its labels + prior * global mean) / (its count + prior).

    Args:
        train_items: ids, integers or strings, shape (n_train,), n_train > 0.
        train_labels: 0 or 1, shape (n_train,).
        test_items: ids of the same kind, shape (n_test,).
        prior: weight of the global mean, in rows; an item that training never saw scores the global mean.

    Returns:
        float64 array, shape (n_test,).

    Raises:
        UserError: other shapes or values, no training rows, a prior that is not above 0, ids of different kinds.
    """
    if not prior > 0:
        raise UserError(f"prior={prior} must be above 0: an unseen item has no other score. The default is 5.")
    y, train, test = _labels(train_labels), _ids("train_items", train_items), _ids("test_items", test_items)
    _same_length("train_items", train, "train_labels", y)
    if y.size == 0:
        raise UserError("smoothed_mean has no training rows to count. Give at least one.")
    if test.size and train.dtype.kind != test.dtype.kind:
        raise UserError(
            f"train_items are {train.dtype} and test_items are {test.dtype}, so none would be found again. Give "
            f"both as integers or both as strings."
        )
    items, index = np.unique(train, return_inverse=True)
    sums, counts = np.bincount(index, weights=y), np.bincount(index)
    scores = (sums + prior * y.mean()) / (counts + prior)
    place = np.minimum(np.searchsorted(items, test), items.size - 1)
    return np.where(items[place] == test, scores[place], y.mean()) if test.size else np.empty(0)


def _numbers(name: str, values: ArrayLike) -> NDArray[np.float64]:
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise UserError(f"{name} are not numbers: {error}. Give one number per row.") from error
    if array.ndim != 1:
        raise UserError(f"{name} have shape {array.shape}, and must have shape (n,). Give one number per row.")
    bad = np.flatnonzero(~np.isfinite(array))
    if bad.size:
        raise UserError(
            f"{name} hold {bad.size} values that are not finite, the first in row {bad[0]}. Remove those rows, or find "
            f"out why the model gave them."
        )
    return array


def _labels(values: ArrayLike) -> NDArray[np.float64]:
    array = _numbers("labels", values)
    bad = np.flatnonzero((array != 0) & (array != 1))
    if bad.size:
        raise UserError(
            f"labels must be 0 or 1, but row {bad[0]} holds {array[bad[0]]:g}. Say which is positive first."
        )
    return array


def _ids(name: str, values: ArrayLike) -> NDArray[Any]:
    array = np.asarray(values)
    if array.dtype == object:  # pandas and pyarrow hand strings over so
        array = np.asarray([str(value) for value in array.tolist()])
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iuUS"):
        raise UserError(
            f"{name} are {array.dtype} of shape {array.shape}, and must be integers or strings of shape (n,). Give one "
            f"id per row."
        )
    return array


def _same_length(name: str, array: NDArray[Any], other: str, array2: NDArray[Any]) -> None:
    if len(array) != len(array2):
        raise UserError(f"{len(array)} {name} and {len(array2)} {other} were given. Give one of each per row.")
