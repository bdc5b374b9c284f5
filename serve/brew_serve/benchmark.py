"""The benchmark: how well scores of later rows rank what members did, beside simple and best possible rankings.

Owns: quality per task from scored rows. Does not own: scoring (`brew_serve.batch.flow`), or what
AUC and log loss are (`brew_platform.metrics`).
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from brew_data.prompts.suite import TaskSpec, TaskSuite
from brew_data.schema import Tables, micros
from brew_data.split import Split
from brew_platform.errors import BrewError
from brew_platform.metrics import auc, logloss, smoothed_mean

__all__ = ["TaskQuality", "benchmark", "benchmark_rows"]


@dataclass(frozen=True, kw_only=True)
class TaskQuality:
    """One task's quality on the benchmark's rows; None where it is unknown."""

    rows: int
    positive_rate: float
    auc: float | None
    logloss: float
    baseline_auc: float | None  # popularity: the entity's smoothed mean on the training rows
    best_auc: float | None  # of the true probabilities, where a generator knows them

    @property
    def gap_closed(self) -> float | None:
        """Share of the way from popularity to the best reachable AUC; None where that is unknown."""
        if self.auc is None or self.baseline_auc is None or self.best_auc is None:
            return None
        return (self.auc - self.baseline_auc) / (self.best_auc - self.baseline_auc)


def benchmark_rows(tables: Tables, split: Split) -> pa.Table:
    """The interactions that are judged: after the cut, of members who take part."""
    return _parts(tables, split)[1]


def benchmark(scores: pa.Table, tables: Tables, suite: TaskSuite, split: Split) -> dict[str, TaskQuality]:
    """Quality per task.

    Args:
        scores: interaction_id int64, score float64 (probability of a positive action), one row per benchmark row.
        tables: the tables that the rows come from; the baseline is fitted on their training part alone.

    Raises:
        BrewError: a benchmark row was not scored, or was scored twice.
    """
    scored = dict(zip(scores["interaction_id"].to_pylist(), scores["score"].to_pylist(), strict=True))
    oracle = None
    if tables.oracle is not None:
        pairs = zip(tables.oracle["interaction_id"].to_pylist(), tables.oracle["probability"].to_pylist(), strict=True)
        oracle = dict(pairs)
    earlier, later = _parts(tables, split)
    result = {}
    expected = 0
    for task in suite.tasks:
        train, test = (part.filter(pc.equal(part["surface"], task.surface)) for part in (earlier, later))
        if not test.num_rows:
            continue
        expected += test.num_rows
        ids = test["interaction_id"].to_pylist()
        if missing := [id_ for id_ in ids if id_ not in scored]:
            raise BrewError(
                f"task {task.name}: {len(missing)} of {len(ids)} benchmark rows have no score ({missing[0]})."
            )
        labels, probabilities = _labels(test, task), np.array([scored[id_] for id_ in ids])
        popularity = smoothed_mean(
            train["entity_id"].to_numpy(zero_copy_only=False),
            _labels(train, task),
            test["entity_id"].to_numpy(zero_copy_only=False),
        )
        result[task.name] = TaskQuality(
            rows=len(ids),
            positive_rate=float(labels.mean()),
            auc=auc(labels, probabilities),
            logloss=logloss(labels, probabilities),
            baseline_auc=auc(labels, popularity),
            best_auc=auc(labels, np.array([oracle[id_] for id_ in ids])) if oracle else None,
        )
    if not expected == len(scored) == scores.num_rows:
        raise BrewError(f"{scores.num_rows} scores were given for {expected} benchmark rows; each needs exactly one.")
    return result


def _parts(tables: Tables, split: Split) -> tuple[pa.Table, pa.Table]:
    """Training rows and benchmark rows of the members who take part."""
    out = tables.members.filter(tables.members["opted_out"])["member_id"].combine_chunks()
    rows = tables.interactions.filter(pc.invert(pc.is_in(tables.interactions["member_id"], value_set=out)))
    times = micros(rows).to_numpy()
    earlier = times <= split.train_until
    return rows.filter(pa.array(earlier)), rows.filter(pa.array(~earlier & (times <= split.until)))


def _labels(rows: pa.Table, task: TaskSpec) -> np.ndarray:
    positive = pc.is_in(rows["action"], value_set=pa.array(task.positive))
    return positive.to_numpy(zero_copy_only=False).astype(np.int64)
