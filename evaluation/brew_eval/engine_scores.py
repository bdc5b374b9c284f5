"""Puts the scores of the serving engine into scored rows."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from brew_eval.scored_rows import SCORED_ROWS, ScoredRows
from brew_platform.errors import UserError

__all__ = ["add_engine_scores"]


def add_engine_scores(rows: ScoredRows, scores: pa.Table, **changes: Any) -> ScoredRows:
    """Return the rows with a model's scores; rows that the engine did not score have none, and reports count them.

    Args:
        rows: The rows to score, as of `brew_eval.baselines.scoring.rows_to_score`.
        scores: Of `brew_serve.batch.dataset_scoring.score_requests`: interaction_id int64, task string, score float64,
            probabilities list<struct<action, probability>>.
        changes: Fields of `ScoredRowsInfo`, such as `model` and `version`.

    Raises:
        UserError: A row has several scores, or a score is of a row that is not among the rows.
    """
    task_N, tasks = rows.codes("task")
    id_N, names = rows.column("row_id"), scores["task"].to_pylist()
    places = {task: np.flatnonzero(task_N == number) for number, task in enumerate(tasks)}
    scored_N = scores["interaction_id"].to_numpy()
    position_N = np.full(len(rows), -1, dtype=np.int64)
    for task in sorted(set(names)):
        chosen = np.flatnonzero(np.array(names, dtype=object) == task)
        known = id_N[places[task]] if task in places else np.empty(0, np.int64)  # ascending
        at = np.searchsorted(known, scored_N[chosen])
        found = at < len(known)
        found[found] = known[at[found]] == scored_N[chosen][found]
        if not found.all():
            raise UserError(
                f"{int((~found).sum()):,} scores of the task {task!r} are of rows that are not to be scored, the first "
                f"is row {scored_N[chosen][~found][0]}. Score the rows of the same data, cut and sample."
            )
        if len(np.unique(at)) < len(at):
            raise UserError(f"the task {task!r} has several scores of a row. Score each row once.")
        position_N[places[task][at]] = chosen
    order = pa.array(position_N, mask=position_N < 0)
    table = rows.table
    columns = {"score": scores["score"], "probabilities": _numbers(scores["probabilities"])}
    for name, column in columns.items():
        taken = column.take(order).cast(SCORED_ROWS.field(name).type)
        table = table.set_column(SCORED_ROWS.get_field_index(name), SCORED_ROWS.field(name), taken)
    return rows.replaced(table, **changes)


def _numbers(probabilities: pa.ChunkedArray) -> pa.Array:
    """Return list<float64> of list<struct<action, probability>>, in the same order."""
    array = pa.concat_arrays(probabilities.chunks) if probabilities.num_chunks else pa.nulls(0, probabilities.type)
    values = pc.struct_field(array.values, "probability").cast(pa.float64())
    return pa.ListArray.from_arrays(array.offsets, values, mask=array.is_null())
