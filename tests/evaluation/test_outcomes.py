"""Outcomes of scored rows, and of training rows."""

from dataclasses import replace

import pytest

from brew_data.split import Split
from brew_eval.baselines.scoring import rows_to_score
from brew_eval.outcomes import add_outcomes, training_outcomes
from brew_eval.scored_rows import ScoredRows
from brew_platform.errors import UserError

from .baselines.tiny import DAY, SUITE, TASK, make_tables
from .rows import columns, info, scored

TABLES = make_tables([0, 0, 1, 1, 0, 1], [0, 1, 0, 1, 2, 2], [5, 2, 4, 2, 1, 5], [1, 2, 3, 4, 6, 7])
SPLIT = Split(train_until=5 * DAY, until=10 * DAY)


def rows() -> ScoredRows:
    return rows_to_score(TABLES, SUITE, SPLIT, info(), [TASK])


def test_rows_have_the_outcome_of_their_action() -> None:
    result = add_outcomes(rows(), TABLES, SUITE)
    assert result.table["outcome"].to_pylist() == ["rated_1", "rated_5"]
    assert result.column("label").tolist() == [0.0, 1.0]


def test_an_action_that_is_not_an_outcome_has_no_label() -> None:
    actions = TABLES.interactions["action"].to_pylist()
    interactions = TABLES.interactions.set_column(
        TABLES.interactions.column_names.index("action"), "action", [["viewed", *actions[1:-1], "viewed"]]
    )
    result = add_outcomes(rows(), replace(TABLES, interactions=interactions), SUITE)
    assert result.table["outcome"].to_pylist() == ["rated_1", None]
    assert result.table["label"].to_pylist() == [False, None]


def test_training_outcomes_are_those_before_the_cut() -> None:
    assert training_outcomes(TABLES, SUITE, SPLIT)[TASK.name] == {"rated_2", "rated_4", "rated_5"}
    assert training_outcomes(TABLES, SUITE, Split(train_until=0, until=1))[TASK.name] == frozenset()
    assert set(training_outcomes(TABLES, SUITE, SPLIT)) == {task.name for task in SUITE.tasks if task.in_training}


def test_other_data_and_another_suite_are_refused() -> None:
    with pytest.raises(UserError, match="not interactions of the data"):
        add_outcomes(scored({**columns(1, task=TASK.name), "row_id": [99]}), TABLES, SUITE)
    with pytest.raises(UserError, match="the task 'like', but the suite movielens"):
        add_outcomes(scored(columns(1)), TABLES, SUITE)
