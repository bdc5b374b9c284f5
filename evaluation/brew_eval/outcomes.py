"""The outcomes of scored rows, and which of them the training rows have."""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from brew_data.prompts.suite import TaskSuite
from brew_data.prompts.tasks import TaskSpec
from brew_data.schema import Tables, micros
from brew_data.split import Split
from brew_eval.scored_rows import SCORED_ROWS, ScoredRows
from brew_platform.errors import UserError

__all__ = ["add_outcomes", "training_outcomes"]


def add_outcomes(rows: ScoredRows, tables: Tables, suite: TaskSuite) -> ScoredRows:
    """Return the rows with their outcomes; an action that is not an outcome of the task has neither outcome nor label.

    Args:
        rows: `row_id` is an interaction of the tables.
        tables: The data.
        suite: Its tasks.

    Raises:
        UserError: A row is not an interaction of the tables, or its task is not in the suite.
    """
    specs = {task.name: task for task in suite.tasks}
    if unknown := [name for name in rows.tasks if name not in specs]:
        raise UserError(
            f"the rows have the task {unknown[0]!r}, but the suite {suite.name} has {', '.join(specs)}. Pass the suite "
            f"that they were scored with."
        )
    place = pc.index_in(rows.table["row_id"], value_set=tables.interactions["interaction_id"].combine_chunks())
    if place.null_count:
        raise UserError(
            f"{place.null_count:,} rows are not interactions of the data. Pass the data that they were scored on."
        )
    action_N = tables.interactions["action"].take(place).to_numpy()
    task_N, tasks = rows.codes("task")
    outcome_N = np.full(len(rows), None, dtype=object)
    for number, name in enumerate(tasks):
        names = _outcomes(suite, specs[name])
        chosen = task_N == number
        outcome_N[chosen] = [names.get(action) for action in action_N[chosen]]
    outcome = pa.array(outcome_N, pa.string())
    label = pc.if_else(outcome.is_null(), pa.scalar(None, pa.bool_()), rows.table["label"])
    table = rows.table
    for column, values in (("outcome", outcome), ("label", label)):
        table = table.set_column(SCORED_ROWS.get_field_index(column), SCORED_ROWS.field(column), values)
    return rows.replaced(table)


def training_outcomes(tables: Tables, suite: TaskSuite, split: Split) -> dict[str, frozenset[str]]:
    """Return the outcomes that each trained task has in the training rows.

    `evaluate` reports rows with other outcomes apart: the model has never seen their label as an answer.
    """
    earlier = tables.interactions.filter(pa.array(micros(tables.interactions).to_numpy() <= split.train_until))
    pairs = earlier.group_by(["surface", "action"]).aggregate([]).to_pylist()
    return {
        task.name: frozenset(
            _outcomes(suite, task)[pair["action"]]
            for pair in pairs
            if pair["surface"] == task.surface and pair["action"] in _outcomes(suite, task)
        )
        for task in suite.tasks
        if task.in_training
    }


def _outcomes(suite: TaskSuite, task: TaskSpec) -> Mapping[str, str]:
    """Return the outcome of each action."""
    return {action: outcome.name for outcome in suite.outcomes(task) for action in outcome.actions}
