"""Selects the rows that a model scores: all after the cut, or a sample that is the same on every machine."""

import hashlib
from collections.abc import Collection

import numpy as np

from brew_data.prompts.suite import TaskSuite
from brew_data.schema import Tables
from brew_data.split import Split
from brew_eval.baselines.scoring import rows_to_score
from brew_eval.outcomes import add_outcomes
from brew_eval.scored_rows import ScoredRows, ScoredRowsInfo
from brew_platform.errors import UserError

__all__ = ["rows_after_cut", "sample_rows"]


def rows_after_cut(
    tables: Tables, suite: TaskSuite, split: Split, info: ScoredRowsInfo, tasks: Collection[str] = ()
) -> ScoredRows:
    """Return the rows after the cut, with their outcomes and without scores.

    Args:
        tables: The data.
        suite: Its tasks.
        split: The cut.
        info: Origin of the rows, as for `rows_to_score`.
        tasks: Names of the tasks; (): all.

    Raises:
        UserError: A task is unknown, or there are no rows.
    """
    known = [task.name for task in suite.tasks]
    if unknown := [name for name in tasks if name not in known]:
        raise UserError(f"the suite {suite.name} has no task {unknown[0]!r}; its tasks are {', '.join(known)}.")
    chosen = [task for task in suite.tasks if not tasks or task.name in tasks]
    return add_outcomes(rows_to_score(tables, suite, split, info, chosen), tables, suite)


def sample_rows(rows: ScoredRows, per_task: int | None, *, seed: int = 0) -> ScoredRows:
    """Draw rows of each task; a slate is drawn as a whole.

    Slates, and rows without a slate, are taken in the order of the SHA-256 of "seed:row_id", by the smallest row id of
    a slate, until a task has enough rows. So a larger sample contains a smaller one, and tasks on the same surface have
    the same rows.

    Args:
        rows: All rows.
        per_task: Rows of each task to draw; a task has more if its last slate exceeds them. None: all.
        seed: Of the draw.

    Raises:
        UserError: `per_task` is not positive.
    """
    if per_task is None:
        return rows
    if per_task < 1:
        raise UserError(f"the sample has {per_task} rows per task; use at least 1, or leave it out to score all rows.")
    task_N, tasks = rows.codes("task")
    slate_N, member_N, id_N = rows.codes("slate")[0], rows.codes("member")[0], rows.column("row_id")
    slates = int(slate_N.max(initial=0)) + 1
    unit_N = np.where(slate_N >= 0, member_N * slates + slate_N, -1 - np.arange(len(rows)))
    kept_N = np.zeros(len(rows), dtype=bool)
    for number in range(len(tasks)):
        of_task = np.flatnonzero(task_N == number)  # row ids ascend, so the first row of a unit has its smallest id
        _, first_U, place, size_U = np.unique(
            unit_N[of_task], return_index=True, return_inverse=True, return_counts=True
        )
        ids = id_N[of_task[first_U]].tolist()
        order_U = np.array(sorted(range(len(ids)), key=lambda unit: _hash(f"{seed}:{ids[unit]}")))
        enough = int(np.searchsorted(np.cumsum(size_U[order_U]), per_task)) + 1
        kept_N[of_task[np.isin(place.reshape(-1), order_U[:enough])]] = True
    return rows.select(kept_N)


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
