"""Scores of the serving engine in scored rows."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from brew_eval.engine_scores import add_engine_scores
from brew_platform.errors import UserError
from brew_serve.batch.dataset_scoring import SCORES

from .rows import columns, scored


def engine_scores(ids: list[int], task: str = "like") -> pa.Table:
    rows: list[dict[str, Any]] = [
        {
            "interaction_id": id_,
            "task": task,
            "score": id_ / 10,
            "probabilities": [
                {"action": "no", "probability": 1 - id_ / 10},
                {"action": "yes", "probability": id_ / 10},
            ],
            "version": None,
        }
        for id_ in ids
    ]
    return pa.Table.from_pylist(rows, SCORES)


def test_scores_are_joined_by_task_and_row() -> None:
    rows = scored(columns(4))
    result = add_engine_scores(rows, engine_scores([3, 0, 1]), model="registry:7", version=7)
    assert result.column("score") == pytest.approx([0.0, 0.1, np.nan, 0.3], nan_ok=True)
    assert result.table["probabilities"].to_pylist() == [[1.0, 0.0], [0.9, 0.1], None, [0.7, 0.3]]
    assert (result.info.model, result.info.version, result.digest) == ("registry:7", 7, rows.digest)
    nothing = add_engine_scores(rows, SCORES.empty_table())
    assert nothing.table["score"].null_count == 4


@pytest.mark.parametrize(
    ("scores", "words"),
    [
        (engine_scores([9]), "not to be scored, the first is row 9"),
        (engine_scores([1], task="share"), "the task 'share' are of rows"),
        (engine_scores([1, 1]), "several scores of a row"),
    ],
)
def test_other_rows_are_refused(scores: pa.Table, words: str) -> None:
    with pytest.raises(UserError, match=words):
        add_engine_scores(scored(columns(4)), scores)
