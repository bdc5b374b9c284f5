"""Fits baselines on the rows before a cut, and scores the rows that a model scores.

Shape suffix: N rows.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from brew_data.oracle import true_probabilities
from brew_data.prompts.suite import TaskSuite
from brew_data.prompts.tasks import TaskSpec
from brew_data.schema import Tables, micros
from brew_data.split import Split
from brew_eval.baselines.base import Baseline
from brew_eval.baselines.blend import Blend
from brew_eval.baselines.boosted_trees import BoostedTrees
from brew_eval.baselines.factorisation import biases, matrix_factorisation
from brew_eval.baselines.hstu import Hstu
from brew_eval.baselines.interactions import TaskInteractions
from brew_eval.baselines.key_history import KeyHistory
from brew_eval.baselines.matches import Matches
from brew_eval.baselines.means import EntityMean, Popularity
from brew_eval.baselines.sasrec import SasRec
from brew_eval.scored_rows import ScoredRows, ScoredRowsInfo, hash_members
from brew_platform.errors import UserError

__all__ = ["BASELINES", "rows_to_score", "score_baselines"]

BASELINES: Mapping[str, Callable[[], Baseline]] = {
    "popularity": Popularity,
    "entity_mean": EntityMean,
    "biases": biases,
    "matrix_factorisation": matrix_factorisation,
    "matches": Matches,
    "lightgbm": BoostedTrees,
    "sasrec": SasRec,
    "hstu": Hstu,
}
BLEND = ("lightgbm", "matrix_factorisation")  # parts of the baseline `blend`
PROTOCOLS: tuple[Literal["streaming", "frozen"], ...] = ("streaming", "frozen")


def rows_to_score(
    tables: Tables,
    suite: TaskSuite,
    split: Split,
    info: ScoredRowsInfo,
    tasks: Sequence[TaskSpec] | None = None,
) -> ScoredRows:
    """Return the rows after the cut without scores.

    Args:
        tables: The data.
        suite: Its tasks.
        split: The cut.
        info: Origin of the rows. With a frozen history all rows of a member and a task are one slate; with a streaming
            one those of the same time are, as the entities of one impression.
        tasks: Those to score; None: all that have rows.

    Raises:
        UserError: No task has rows after the cut.
    """
    everything = _not_opted_out(tables)
    ids = tables.members["member_id"].combine_chunks()
    member_N = pc.index_in(everything["member_id"], value_set=ids).to_numpy()
    past = KeyHistory(member_N, micros(everything).to_numpy(), np.zeros((len(member_N), 0)))
    hashes = np.array(hash_members(ids.to_pylist()))
    locales = tables.members["locale"].combine_chunks()
    parts = []
    for task in tasks if tasks is not None else suite.tasks:
        if not pc.any(pc.equal(everything["surface"], task.surface)).as_py():
            continue
        rows = TaskInteractions.of(tables, suite, task).between(split.benchmark_after, split.until)
        queries = rows.streaming() if info.history == "streaming" else rows.frozen(split.train_until)
        columns = {
            "row_id": rows.id_N,
            "task": [task.name] * len(rows),
            "surface": [task.surface] * len(rows),
            "member": hashes[rows.member_N],
            "time": rows.time_N,
            "label": rows.label_N,
            "score": pa.nulls(len(rows), pa.float64()),
            "history": past.sums(queries.member_Q, queries.before_Q)[0].astype(np.int32),
            "locale": locales.take(pa.array(rows.member_N)),
            "is_trained": [task.in_training] * len(rows),
        }
        columns["slate"] = _slates(rows, info.history)
        if tables.oracle is not None:
            columns["best"] = true_probabilities(tables.oracle, rows.id_N, suite.positive_actions(task))
        parts.append(pa.table(columns))
    if not sum(part.num_rows for part in parts):
        raise UserError("no task has rows after the cut, so there is nothing to score. Move the cut.")
    return ScoredRows.of(pa.concat_tables(parts), replace(info, train_until=split.train_until))


def score_baselines(
    tables: Tables,
    suite: TaskSuite,
    split: Split,
    targets: Sequence[ScoredRows],
    baselines: Mapping[str, Callable[[], Baseline]] = BASELINES,
) -> Iterator[tuple[str, list[ScoredRows]]]:
    """Fit baselines on the interactions of each task before the cut, and score the rows of a model.

    Args:
        tables: The data.
        suite: Its tasks.
        split: The cut.
        targets: Rows to score, as of a model or from `rows_to_score`; the history of each follows its `info.history`.
        baselines: Constructors by name. With `lightgbm` and `matrix_factorisation` there is also their mean, `blend`.

    Yields:
        The name of a baseline, and its scores of each target.

    Raises:
        UserError: A target has a row that the data do not have, or no interaction of a task is before the cut.
    """
    data = {
        task.name: TaskInteractions.of(tables, suite, task)
        for task in suite.tasks
        if any(task.name in target.tasks for target in targets)
    }
    fitted: dict[str, dict[str, Baseline]] = {}
    for name, make in baselines.items():
        fitted[name] = {}
        for task, rows in data.items():
            fitted[name][task] = make()
            fitted[name][task].fit(rows, split.train_until)
        yield name, [_score(target, data, fitted[name], name, split) for target in targets]
    if all(name in fitted for name in BLEND):
        blends: dict[str, Baseline] = {
            task: Blend("blend", [fitted[name][task] for name in BLEND], is_fitted=True) for task in data
        }
        yield "blend", [_score(target, data, blends, "blend", split) for target in targets]


def _slates(rows: TaskInteractions, history: str) -> pa.Array:
    """Return the slate of each row: int64, null for a row that is alone, shape (N,)."""
    if history == "frozen":
        return pa.array(np.zeros(len(rows), dtype=np.int64))
    pairs = np.stack([rows.member_N, rows.time_N], axis=1)
    _, pair_N, counts = np.unique(pairs, axis=0, return_inverse=True, return_counts=True)
    return pa.array(rows.time_N, mask=counts[pair_N.reshape(-1)] < 2)


def _score(
    target: ScoredRows,
    data: Mapping[str, TaskInteractions],
    models: Mapping[str, Baseline],
    name: str,
    split: Split,
) -> ScoredRows:
    task_N, tasks = target.codes("task")
    id_N, score_N = target.column("row_id"), np.full(len(target), np.nan)
    for number, task in enumerate(tasks):
        rows = data[task]
        order_N = np.argsort(rows.id_N)
        chosen_N = np.flatnonzero(task_N == number)
        place_N = np.minimum(np.searchsorted(rows.id_N[order_N], id_N[chosen_N]), len(rows) - 1)
        row_N = order_N[place_N]
        if (unknown := rows.id_N[row_N] != id_N[chosen_N]).any():
            raise UserError(
                f"task {task}: row {id_N[chosen_N][unknown][0]} is to be scored, but the data do not have it. Score a "
                f"model and its baselines on the same data."
            )
        part = rows.take(row_N)
        queries = part.streaming() if target.info.history == "streaming" else part.frozen(split.train_until)
        score_N[chosen_N] = models[task].score(rows, queries)
    return target.with_scores(score_N, baseline=name)


def _not_opted_out(tables: Tables) -> pa.Table:
    out = tables.members.filter(tables.members["opted_out"])["member_id"].combine_chunks()
    return tables.interactions.filter(pc.invert(pc.is_in(tables.interactions["member_id"], value_set=out)))
