"""Benchmark quality per task: AUC and log loss of the scores, the popularity baseline, and the best reachable AUC."""

import difflib
import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from brew_data.oracle import true_probabilities
from brew_data.prompts.suite import TaskSuite
from brew_data.schema import Tables, micros
from brew_data.split import Split
from brew_platform.errors import BrewError, ConfigError, UserError
from brew_platform.metrics import auc, logloss, smoothed_mean
from brew_platform.registry.gates import Gate

__all__ = ["BenchmarkRows", "TaskQuality", "benchmark", "select_rows", "validate_gates"]


@dataclass(frozen=True, kw_only=True)
class TaskQuality:
    """Quality of one task on the benchmark rows. A value is None if it is not defined or not known."""

    rows: int
    positive_rate: float
    auc: float | None
    logloss: float
    baseline_auc: float | None  # popularity: smoothed mean label of the entity on the training rows
    best_auc: float | None  # AUC of the true probabilities, which only synthetic data has
    # AUC of further baselines that were fitted on the training rows, by name.
    other_aucs: Mapping[str, float | None] = field(default_factory=dict)

    @property
    def gap_closed(self) -> float | None:
        """(auc - baseline_auc) / (best_auc - baseline_auc); None if a value is unknown or there is no gap."""
        if self.auc is None or self.baseline_auc is None or self.best_auc is None:
            return None
        if self.best_auc == self.baseline_auc:
            return None
        return (self.auc - self.baseline_auc) / (self.best_auc - self.baseline_auc)

    @property
    def gain(self) -> float | None:
        """auc - baseline_auc; None if one is unknown."""
        return None if self.auc is None or self.baseline_auc is None else self.auc - self.baseline_auc

    def figures(self) -> dict[str, Any]:
        """All figures by name, as reports and the registry store them and gates name them."""
        own = {name: value for name, value in asdict(self).items() if name != "other_aucs"}
        others = {f"{name}_auc": value for name, value in self.other_aucs.items()}
        return {**own, **others, "gain": self.gain, "gap_closed": self.gap_closed}


_NEED_TRUTH = ("best_auc", "gap_closed")
_FIGURES = (*(part.name for part in fields(TaskQuality) if part.name != "other_aucs"), "gain", "gap_closed")


def validate_gates(gates: Sequence[Gate], tasks: Collection[str], *, has_true_probabilities: bool) -> None:
    """Check that a benchmark can measure the figure of every gate.

    Args:
        gates: Figures are TASK.FIGURE.
        tasks: Names of the suite's tasks.
        has_true_probabilities: Whether the data have the true probability of every interaction.

    Raises:
        ConfigError: A gate names an unknown task or figure, or one that the data cannot give.
    """
    for gate in gates:
        task, _, figure = gate.figure.rpartition(".")
        for name, known, what in [(task, tasks, "task"), (figure, _FIGURES, "figure")]:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
                raise ConfigError(
                    f"release.gates names {gate.figure}, but the benchmark does not have the {what} {name!r}. Did you "
                    f"mean {near[0] if near else 'another'}? Write TASK.FIGURE; the {what}s are {', '.join(known)}."
                )
        if figure in _NEED_TRUTH and not has_true_probabilities:
            raise ConfigError(
                f"release.gates names {gate.figure}, but the source does not have true probabilities, so that the best "
                f"reachable AUC is unknown. Set {task}.gain or {task}.auc instead."
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class BenchmarkRows:
    """The rows after the cut that a benchmark scores, or a sample of them."""

    ids: Mapping[str, np.ndarray]  # by task: int64 interaction ids, ascending; every task has at least one
    interactions: int  # in the sample; one interaction may have several tasks
    of: int  # interactions that the sample was drawn from
    digest: str  # SHA-256 over tasks, ids and labels: figures are comparable if it is the same

    @property
    def scores(self) -> int:
        """The number of scores: one per task and row."""
        return sum(len(ids) for ids in self.ids.values())


def select_rows(
    tables: Tables,
    suite: TaskSuite,
    split: Split,
    *,
    tasks: Collection[str] | None = None,
    sample: int | None = None,
    seed: int = 0,
) -> BenchmarkRows:
    """Select the rows after the cut of the members who have not opted out.

    Args:
        tables: The data.
        suite: Its tasks.
        split: The cut.
        tasks: Names of the tasks to score; None: all.
        sample: Number of interactions to draw; None, or more than there are: all.
        seed: Of the draw. The interactions with the smallest SHA-256 of "seed:interaction_id" are drawn, so that the
            sample is the same on every machine and a larger sample contains a smaller one.

    Raises:
        UserError: A task is unknown, the sample is not positive, or there are no rows.
    """
    known = [task.name for task in suite.tasks]
    if unknown := [name for name in tasks or () if name not in known]:
        raise UserError(f"the suite {suite.name} has no task {unknown[0]!r}; its tasks are {', '.join(known)}.")
    if sample is not None and sample < 1:
        raise UserError(f"the sample has {sample} rows; use at least 1, or leave it out to score all rows.")
    chosen = [task for task in suite.tasks if tasks is None or task.name in tasks]
    later = _parts(tables, split)[1]
    later = later.filter(pc.is_in(later["surface"], pa.array([task.surface for task in chosen], pa.string())))
    if not later.num_rows:
        raise UserError(
            f"the data have no interaction after the cut for the tasks {', '.join(task.name for task in chosen)}, so "
            f"there is nothing to measure. Choose another task, or build the data with an earlier cut."
        )
    of = later.num_rows
    if sample is not None and sample < of:
        ids = later["interaction_id"].to_pylist()
        order = sorted(ids, key=lambda id_: hashlib.sha256(f"{seed}:{id_}".encode()).digest())
        later = later.filter(pc.is_in(later["interaction_id"], pa.array(order[:sample], pa.int64())))
    digest = hashlib.sha256()
    by_task = {}
    for task in chosen:
        rows = later.filter(pc.equal(later["surface"], task.surface)).sort_by("interaction_id")
        if rows.num_rows:
            by_task[task.name] = rows["interaction_id"].to_numpy()
            labels = _labels(rows, suite.positive_actions(task))
            digest.update(f"{task.name}\0{rows.num_rows}\0".encode() + by_task[task.name].astype("<i8").tobytes())
            digest.update(labels.astype("<i8").tobytes())
    return BenchmarkRows(ids=by_task, interactions=later.num_rows, of=of, digest=digest.hexdigest())


def benchmark(
    scores: pa.Table,
    tables: Tables,
    suite: TaskSuite,
    split: Split,
    rows: BenchmarkRows | None = None,
    *,
    baselines: Mapping[str, Mapping[str, Mapping[int, float]]] = MappingProxyType({}),
) -> dict[str, TaskQuality]:
    """Compute the quality of each task that has benchmark rows.

    Args:
        scores: task string, interaction_id int64, score float64 (probability of a positive outcome), one row per
            task and benchmark row of its surface.
        tables: Tables that the rows come from; the baseline is fitted on their training rows.
        suite: The tasks.
        split: The cut.
        rows: From `select_rows`; None: all rows of all tasks.
        baselines: Of models that were fitted on the training rows, by name: for tasks, the probability of a positive
            outcome by interaction id.

    Raises:
        BrewError: A benchmark row has no score or more than one.
    """
    columns = (scores[name].to_pylist() for name in ("task", "interaction_id", "score"))
    scored = {(task, id_): score for task, id_, score in zip(*columns, strict=True)}
    earlier, later = _parts(tables, split)
    result = {}
    expected = 0
    for task in suite.tasks:
        train, test = (part.filter(pc.equal(part["surface"], task.surface)) for part in (earlier, later))
        if rows is not None:
            test = test.filter(pc.is_in(test["interaction_id"], pa.array(rows.ids.get(task.name, ()), pa.int64())))
        if not test.num_rows:
            continue
        expected += test.num_rows
        ids = test["interaction_id"].to_pylist()
        if missing := [id_ for id_ in ids if (task.name, id_) not in scored]:
            raise BrewError(
                f"task {task.name}: {len(missing)} of {len(ids)} benchmark rows have no score ({missing[0]})."
            )
        positive = suite.positive_actions(task)
        labels, probabilities = _labels(test, positive), np.array([scored[task.name, id_] for id_ in ids])
        popularity = smoothed_mean(
            train["entity_id"].to_numpy(zero_copy_only=False),
            _labels(train, positive),
            test["entity_id"].to_numpy(zero_copy_only=False),
        )
        result[task.name] = TaskQuality(
            rows=len(ids),
            positive_rate=float(labels.mean()),
            auc=auc(labels, probabilities),
            logloss=logloss(labels, probabilities),
            baseline_auc=auc(labels, popularity),
            best_auc=auc(labels, true_probabilities(tables.oracle, test["interaction_id"].to_numpy(), positive))
            if tables.oracle is not None
            else None,
            other_aucs={
                name: auc(labels, np.array([by_task[task.name][id_] for id_ in ids]))
                for name, by_task in baselines.items()
                if task.name in by_task
            },
        )
    if not expected == len(scored) == scores.num_rows:
        raise BrewError(f"{scores.num_rows} scores for {expected} benchmark rows. Give exactly one score per row.")
    return result


def _parts(tables: Tables, split: Split) -> tuple[pa.Table, pa.Table]:
    """Return the training rows and the benchmark rows of the members who have not opted out."""
    out = tables.members.filter(tables.members["opted_out"])["member_id"].combine_chunks()
    rows = tables.interactions.filter(pc.invert(pc.is_in(tables.interactions["member_id"], value_set=out)))
    times = micros(rows).to_numpy()
    earlier, later = times <= split.train_until, (times > split.benchmark_after) & (times <= split.until)
    return rows.filter(pa.array(earlier)), rows.filter(pa.array(later))


def _labels(rows: pa.Table, positive_actions: list[str]) -> np.ndarray:
    positive = pc.is_in(rows["action"], value_set=pa.array(positive_actions))
    return positive.to_numpy(zero_copy_only=False).astype(np.int64)
