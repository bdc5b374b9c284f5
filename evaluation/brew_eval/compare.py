"""Compares two models on the same rows: paired differences with intervals, by task, slice and group."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import numpy as np
from pydantic import TypeAdapter, ValidationError

from brew_eval.evaluation import evaluate
from brew_eval.intervals import Figure
from brew_eval.measurement import LOWER_IS_BETTER, EvaluationConfig
from brew_eval.report.report import TaskReport
from brew_eval.scored_rows import ScoredRows, ScoredRowsInfo
from brew_platform.errors import DataError, UserError

__all__ = ["Change", "Comparison", "SliceChange", "TaskComparison", "compare"]

FORMAT_VERSION = 1
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Change:
    """A figure of both models, and the paired difference A minus B."""

    a: Figure
    b: Figure
    difference: Figure

    def verdict(self, figure: str) -> str:
        """Return `better`, `worse` or `same` for A: the interval of the difference excludes 0, or not."""
        low, high = self.difference.low, self.difference.high
        if low is None or high is None or low <= 0 <= high:
            return "same"
        return "better" if (low > 0) != (figure in LOWER_IS_BETTER) else "worse"


@dataclass(frozen=True, kw_only=True)
class SliceChange:
    """AUC of a slice."""

    dimension: str
    name: str
    rows: int
    auc: Change


@dataclass(frozen=True, kw_only=True)
class TaskComparison:
    """A task on the rows that both models scored."""

    surface: str
    is_trained: bool
    rows: int  # that both models scored
    figures: dict[str, Change]
    slices: list[SliceChange]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Model A against model B, usually the version that it would replace."""

    a: ScoredRowsInfo
    b: ScoredRowsInfo
    rows_digest: str
    config: dict[str, Any]
    tasks: dict[str, TaskComparison]
    groups: dict[str, Change]  # mean AUC over tasks: all, by tier, by surface
    warnings: list[str]
    format_version: int = FORMAT_VERSION

    def to_json(self) -> str:
        """Return the comparison as JSON."""
        return _ADAPTER.dump_json(self, indent=2).decode() + "\n"

    @staticmethod
    def from_json(text: str | bytes) -> "Comparison":
        """Parse a comparison.

        Raises:
            DataError: The text is not a comparison, or is of another release.
        """
        try:
            comparison = _ADAPTER.validate_json(text)
        except ValidationError as error:
            raise DataError(
                f"this is not a comparison of two models: {error.errors()[0]['msg']}. Pass the JSON file that the "
                f"comparison wrote."
            ) from error
        if comparison.format_version != FORMAT_VERSION:
            raise DataError(
                f"the comparison has format_version {comparison.format_version}, but this release reads "
                f"{FORMAT_VERSION} only. Compare again."
            )
        return comparison


def compare(
    a: ScoredRows, b: ScoredRows, config: EvaluationConfig | None = None, *, tasks: Sequence[str] | None = None
) -> Comparison:
    """Compare A with B, in the way that a report compares a model with a baseline.

    Args:
        a: Rows of the first model.
        b: The same rows, scored by the second model.
        config: Settings.
        tasks: The tasks to compare; None: all.

    Raises:
        UserError: The rows are not the same, or only one has a task.
    """
    if tasks is not None:
        a, b = a.of_tasks(tasks), b.of_tasks(tasks)
    if not len(a):
        raise UserError("there are no rows to compare. Score both models first.")
    b = b.aligned_to(a)
    both_N, warnings = _scored_by_both(a, b)
    report = None
    if both_N.any():
        report = evaluate(a.select(both_N), [b.select(both_N)], config)
        warnings += report.warnings
    return Comparison(
        a=a.info,
        b=b.info,
        rows_digest=a.digest,
        config=asdict(config or EvaluationConfig()),
        tasks={name: _task(task) for name, task in report.tasks.items()} if report else {},
        groups={
            name: Change(a=group.figures["auc"], b=_only(group.baselines), difference=_only(group.differences))
            for name, group in (report.groups.items() if report else ())
        },
        warnings=warnings,
    )


def _scored_by_both(a: ScoredRows, b: ScoredRows) -> tuple[np.ndarray, list[str]]:
    """Return the rows with a label and two finite scores, bool, shape (N,), and what is left out."""
    has_score = [(rows.info.name, np.isfinite(rows.column("score"))) for rows in (a, b)]
    both_N = np.isfinite(a.column("label")) & has_score[0][1] & has_score[1][1]
    warnings = []
    task_N, names = a.codes("task")
    for number, task in enumerate(names):
        rows_N = task_N == number
        for name, has_score_N in has_score:
            if missing := int((rows_N & ~has_score_N).sum()):
                warnings.append(
                    f"{task}: {missing:,} of {int(rows_N.sum()):,} rows have no score of {name}; they are not compared"
                )
        if not np.any(rows_N & both_N):
            warnings.append(f"{task}: no row was scored by both models")
    return both_N, warnings


def _task(task: TaskReport) -> TaskComparison:
    other = _only(task.baselines)
    return TaskComparison(
        surface=task.surface,
        is_trained=task.is_trained,
        rows=other.rows,
        figures={
            name: Change(a=figure, b=other.figures[name], difference=other.differences[name])
            for name, figure in task.figures.items()
        },
        slices=[
            SliceChange(
                dimension=part.dimension,
                name=part.name,
                rows=part.rows,
                auc=Change(a=part.figures["auc"], b=_only(part.baselines), difference=_only(part.differences)),
            )
            for part in task.slices
        ],
    )


def _only(values: Mapping[str, T]) -> T:
    """Return the value of the only baseline, which is B."""
    (value,) = values.values()
    return value


_ADAPTER = TypeAdapter(Comparison)
