"""The true probability of a task is the sum over its positive actions."""

import numpy as np
import pyarrow as pa
import pytest

from brew_data.oracle import true_probabilities
from brew_platform.errors import DataError

ORACLE = pa.table(
    {
        "interaction_id": [7, 7, 7, 2, 2, 9],
        "action": ["apply", "save", "skip", "like", "skip", "apply"],
        "probability": [0.125, 0.25, 0.625, 0.75, 0.25, 1.0],
    }
)


@pytest.mark.parametrize(
    ("actions", "expected"), [(["apply"], [0.0, 0.125]), (["save", "apply"], [0.0, 0.375]), (["like"], [0.75, 0.0])]
)
def test_probabilities_of_positive_actions_add_up_in_the_order_of_the_ids(actions: list, expected: list) -> None:
    assert true_probabilities(ORACLE, np.array([2, 7]), actions).tolist() == expected


def test_no_interaction_is_no_error() -> None:
    assert true_probabilities(ORACLE, np.array([], dtype=np.int64), ["apply"]).tolist() == []


def test_an_interaction_without_rows_is_refused() -> None:
    with pytest.raises(DataError, match="interaction 8 has no row"):
        true_probabilities(ORACLE, np.array([7, 8]), ["apply"])
