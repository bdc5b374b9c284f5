"""The true probabilities of generated interactions, which the table `oracle` has: a row per interaction and action."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from brew_platform.errors import DataError

__all__ = ["true_probabilities"]


def true_probabilities(oracle: pa.Table, interaction_ids: np.ndarray, actions: Sequence[str]) -> np.ndarray:
    """Return the true probability that an interaction has one of several actions.

    Args:
        oracle: The table `oracle` (`brew_data.schema.Tables`).
        interaction_ids: int64, shape (rows,), without repeats.
        actions: Names of actions: the positive ones of a task.

    Returns:
        float64, shape (rows,): the sum over the actions, in the order of `interaction_ids`.

    Raises:
        DataError: The oracle has no row of an interaction.
    """
    ids = pa.array(interaction_ids, pa.int64())
    rows = oracle.filter(pc.is_in(oracle["interaction_id"], value_set=ids))
    place = pc.index_in(rows["interaction_id"], value_set=ids).to_numpy()
    missing = np.flatnonzero(np.bincount(place, minlength=len(ids)) == 0)
    if len(missing):
        raise DataError(
            f"table oracle: interaction {ids[missing[0]].as_py()} has no row, so that its best score is unknown. Write "
            f"a row for each action of its surface, or write no oracle."
        )
    is_positive = pc.is_in(rows["action"], value_set=pa.array(actions, pa.string())).to_numpy(zero_copy_only=False)
    return np.bincount(place, weights=rows["probability"].to_numpy() * is_positive, minlength=len(ids))
