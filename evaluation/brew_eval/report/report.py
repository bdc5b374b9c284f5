"""The report of an evaluation: figures with intervals by task, slice and group, as one object and as JSON."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from pydantic import TypeAdapter, ValidationError

from brew_eval.intervals import Figure
from brew_eval.metrics.probability import ReliabilityBin
from brew_eval.scored_rows import ScoredRowsInfo
from brew_platform.errors import DataError

__all__ = ["FORMAT_VERSION", "BaselineReport", "Counts", "GroupReport", "Report", "SliceReport", "TaskReport"]

FORMAT_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Counts:
    """The rows of a task, and those that no figure contains."""

    rows: int
    used: int  # rows with a finite score and a label
    positives: int  # of those used
    members: int  # of those used
    without_score: int
    not_finite: int  # the score is NaN or infinite
    without_label: int  # the outcome is not known, or not an outcome of the task
    unseen_outcome: int  # the training rows do not have the outcome
    slates: int  # with both labels: AUC by member and NDCG are of these
    one_class_slates: int  # with a single label

    @property
    def positive_rate(self) -> float | None:
        """Share of positive rows."""
        return self.positives / self.used if self.used else None


@dataclass(frozen=True, kw_only=True)
class BaselineReport:
    """A baseline on the rows that the model and the baseline both scored."""

    rows: int
    figures: dict[str, Figure]
    differences: dict[str, Figure]  # model minus baseline, paired
    gap_closed: Figure  # (model - baseline) / (best - baseline), of AUC


@dataclass(frozen=True, kw_only=True)
class SliceReport:
    """Some rows of a task."""

    dimension: str
    name: str
    rows: int
    positives: int
    members: int
    figures: dict[str, Figure]
    baselines: dict[str, Figure]  # AUC
    differences: dict[str, Figure]  # of AUC: model minus baseline, paired


@dataclass(frozen=True, kw_only=True)
class TaskReport:
    """The figures of a task."""

    surface: str
    is_trained: bool
    counts: Counts
    figures: dict[str, Figure]
    best_auc: Figure
    baselines: dict[str, BaselineReport]
    reliability: list[ReliabilityBin]  # empty if the scores are not probabilities
    slices: list[SliceReport]

    @property
    def tier(self) -> str:
        """T1 (trained) or T2 (never trained)."""
        return "T1" if self.is_trained else "T2"


@dataclass(frozen=True, kw_only=True)
class GroupReport:
    """Means over tasks: all, of a tier, or of a surface. A figure that a task does not have is left out of its mean."""

    tasks: int
    figures: dict[str, Figure]
    baselines: dict[str, Figure]  # AUC, over the tasks that the baseline has
    differences: dict[str, Figure]  # of AUC, over the same tasks


@dataclass(frozen=True, kw_only=True)
class Report:
    """The evaluation of a model on a suite."""

    info: ScoredRowsInfo
    rows_digest: str  # `ScoredRows.digest`: two reports can be compared if it is the same
    config: dict[str, Any]  # of `EvaluationConfig`
    tasks: dict[str, TaskReport]
    groups: dict[str, GroupReport]
    baselines: dict[str, ScoredRowsInfo]
    warnings: list[str]  # what the figures do not contain, and why
    date: str
    commit: str | None
    machine: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    seconds: float | None = None  # duration of scoring
    format_version: int = FORMAT_VERSION

    def to_json(self) -> str:
        """Return the report as JSON."""
        return _ADAPTER.dump_json(self, indent=2).decode() + "\n"

    @staticmethod
    def from_json(text: str | bytes) -> "Report":
        """Parse a report.

        Raises:
            DataError: The text is not a report, or is of another release.
        """
        return _checked(lambda: _ADAPTER.validate_json(text))

    @staticmethod
    def from_dict(document: object) -> "Report":
        """Return the report of parsed JSON.

        Raises:
            DataError: As `from_json`.
        """
        return _checked(lambda: _ADAPTER.validate_python(document))


def _checked(parse: Callable[[], Report]) -> Report:
    try:
        report = parse()
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the document"
        raise DataError(
            f"this is not the report of an evaluation: {place}: {first['msg']}. Pass the JSON file that the evaluation "
            f"wrote."
        ) from error
    if report.format_version != FORMAT_VERSION:
        raise DataError(
            f"the report has format_version {report.format_version}, but this release reads {FORMAT_VERSION} only. "
            f"Evaluate again."
        )
    return report


_ADAPTER = TypeAdapter(Report)
