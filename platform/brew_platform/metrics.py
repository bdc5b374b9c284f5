"""Computes ranking metrics: AUC, log loss, and the scores of a smoothed mean label."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from brew_platform.errors import UserError

__all__ = ["auc", "logloss", "smoothed_mean"]

_EPSILON = 1e-15  # a wrong probability of exactly 0 or 1 adds -ln(1e-15), about 34.5, instead of infinity


def auc(labels: ArrayLike, scores: ArrayLike) -> float | None:
    """Compute the area under the ROC curve.

    It is the probability that a random positive row scores above a random negative one. Ties count half (the
    Mann-Whitney statistic).

    Args:
        labels: 0 or 1, any integer, float or bool dtype, shape (n,).
        scores: Finite numbers, shape (n,). A higher score means more likely positive.

    Returns:
        A number from 0 to 1, or None if all rows have the same label.

    Raises:
        UserError: A shape or a label is invalid, or a score is not finite.
    """
    y, s = _labels(labels), _numbers("scores", scores)
    _same_length("labels", y, "scores", s)
    if y.size == 0 or y.min() == y.max():
        return None
    from sklearn.metrics import roc_auc_score  # the import takes a second

    return float(roc_auc_score(y, s))


def logloss(labels: ArrayLike, probabilities: ArrayLike) -> float:
    """Compute the mean of -(y ln p + (1-y) ln(1-p)), with p clipped to [1e-15, 1 - 1e-15].

    Args:
        labels: 0 or 1, shape (n,), n > 0.
        probabilities: The probability of label 1, from 0 to 1, shape (n,).

    Returns:
        The log loss, in nats.

    Raises:
        UserError: A shape or a value is invalid.
    """
    y, p = _labels(labels), _numbers("probabilities", probabilities)
    _same_length("labels", y, "probabilities", p)
    if y.size == 0:
        raise UserError("logloss of no rows is not defined. Pass at least one row.")
    if p.min() < 0 or p.max() > 1:
        raise UserError(
            f"probabilities must be in [0, 1], but they span [{p.min():.6g}, {p.max():.6g}]. Convert scores to "
            f"probabilities first, for example with a sigmoid."
        )
    p = np.clip(p, _EPSILON, 1 - _EPSILON)
    return float(-np.mean(y * np.log(p) + (1 - y) * np.log1p(-p)))


def smoothed_mean(
    train_items: ArrayLike, train_labels: ArrayLike, test_items: ArrayLike, *, prior: float = 5.0
) -> NDArray[np.float64]:
    """Score items by their mean label: (sum of labels + prior * global mean) / (count + prior).

    An item without training rows gets the global mean.

    Args:
        train_items: Ids, integers or strings, shape (n_train,), n_train > 0.
        train_labels: 0 or 1, shape (n_train,).
        test_items: Ids of the same dtype, shape (n_test,).
        prior: The weight of the global mean, in rows.

    Returns:
        Scores, float64, shape (n_test,).

    Raises:
        UserError: A shape or a value is invalid, there are no training rows, `prior` is not above 0, or the ids have
            different dtypes.
    """
    if not prior > 0:
        raise UserError(
            f"prior is {prior}, but must be above 0, because an unseen item has no other score. Use the default, 5."
        )
    y, train, test = _labels(train_labels), _ids("train_items", train_items), _ids("test_items", test_items)
    _same_length("train_items", train, "train_labels", y)
    if y.size == 0:
        raise UserError("smoothed_mean has no training rows. Pass at least one.")
    if test.size and train.dtype.kind != test.dtype.kind:
        raise UserError(
            f"train_items are {train.dtype} and test_items are {test.dtype}, so no item would match. Pass both as "
            f"integers or both as strings."
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
        raise UserError(f"{name} are not numbers: {error}. Pass one number per row.") from error
    if array.ndim != 1:
        raise UserError(f"{name} have shape {array.shape}, but must have shape (n,). Pass one number per row.")
    bad = np.flatnonzero(~np.isfinite(array))
    if bad.size:
        raise UserError(
            f"{name} have {bad.size} values that are not finite, the first in row {bad[0]}. Remove those rows, or find "
            f"out why the model computed them."
        )
    return array


def _labels(values: ArrayLike) -> NDArray[np.float64]:
    array = _numbers("labels", values)
    bad = np.flatnonzero((array != 0) & (array != 1))
    if bad.size:
        raise UserError(
            f"labels must be 0 or 1, but row {bad[0]} has {array[bad[0]]:g}. Convert the labels to 0 and 1."
        )
    return array


def _ids(name: str, values: ArrayLike) -> NDArray[Any]:
    array = np.asarray(values)
    if array.dtype == object:  # the dtype of strings from pandas and pyarrow
        array = np.asarray([str(value) for value in array.tolist()])
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iuUS"):
        raise UserError(
            f"{name} are {array.dtype} of shape {array.shape}, but must be integers or strings of shape (n,). Pass one "
            f"id per row."
        )
    return array


def _same_length(name: str, array: NDArray[Any], other: str, array2: NDArray[Any]) -> None:
    if len(array) != len(array2):
        raise UserError(f"there are {len(array)} {name}, but {len(array2)} {other}. Pass one of each per row.")
