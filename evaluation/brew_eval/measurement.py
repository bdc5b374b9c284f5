"""Measures one model on the rows of one task: every figure with its replicates."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import numpy as np

from brew_eval.intervals import Bootstrap, Figure, Replicates
from brew_eval.metrics.probability import CalibrationError, log_loss
from brew_eval.metrics.ranking import Auc, slate_metrics
from brew_eval.scored_rows import ScoredRows
from brew_platform.settings import NonNegativeInt, PositiveInt, Range, Settings

__all__ = [
    "FIGURES",
    "LOWER_IS_BETTER",
    "SLICE_FIGURES",
    "EvaluationConfig",
    "Measurement",
    "TaskRows",
    "are_probabilities",
    "auc_of",
    "figures",
    "measure",
    "measure_slice",
]

FIGURES = ("auc", "uauc", "ndcg", "logloss", "ece")
SLICE_FIGURES = ("auc", "logloss", "ece")
LOWER_IS_BETTER = ("logloss", "ece")


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig(Settings):
    """Settings of figures and intervals."""

    replicates: Annotated[int, Range(ge=1, le=100_000)] = 1000  # of the bootstrap over members
    level: Annotated[float, Range(gt=0, lt=1)] = 0.95  # of the intervals
    seed: NonNegativeInt = 0  # of the bootstrap
    ndcg_k: PositiveInt = 10  # places of a slate that NDCG counts
    bins: Annotated[int, Range(ge=2, le=1000)] = 15  # of calibration error and reliability curve
    windows: PositiveInt = 4  # slices of time
    locales: PositiveInt = 20  # largest number of locales and languages; the rarest are one slice


@dataclass(frozen=True, eq=False)
class TaskRows:
    """Columns of one task's rows.

    Args:
        label_N: 0, 1, or NaN if it is not known, shape (N,).
        slate_N: int64, shape (N,), -1 for a row without a slate.
        member_N: Index among the members of the whole evaluation, shape (N,), so that all tasks share their weights.
        best_N: True probabilities, NaN if they are not known.
    """

    label_N: np.ndarray
    slate_N: np.ndarray
    member_N: np.ndarray
    best_N: np.ndarray

    @staticmethod
    def of(rows: ScoredRows, member_N: np.ndarray) -> "TaskRows":
        """Read the columns of rows of one task."""
        return TaskRows(rows.column("label"), rows.codes("slate")[0], member_N, rows.column("best"))


@dataclass(frozen=True, eq=False)
class Measurement:
    """The figures of one model on some rows."""

    replicates: Mapping[str, Replicates]
    slates: int
    one_class_slates: int


def measure(
    rows: TaskRows, score_N: np.ndarray, used_N: np.ndarray, bootstrap: Bootstrap, config: EvaluationConfig
) -> Measurement:
    """Compute all figures that the scores have.

    Args:
        rows: Of one task.
        score_N: float64, shape (N,).
        used_N: Rows to use, bool, shape (N,); they have labels and finite scores.
        bootstrap: The weights of the members.
        config: The settings.

    Returns:
        `uauc` and `ndcg` are of slates only, `logloss` and `ece` of scores in [0, 1] only; NaN otherwise.
    """
    in_slate_N = used_N & (rows.slate_N >= 0)
    slates = slate_metrics(
        rows.label_N[in_slate_N],
        score_N[in_slate_N],
        rows.slate_N[in_slate_N],
        rows.member_N[in_slate_N],
        bootstrap.members,
        k=config.ndcg_k,
    )
    found = measure_slice(rows, score_N, used_N, bootstrap, config)
    found |= {"uauc": bootstrap.replicate(slates.uauc), "ndcg": bootstrap.replicate(slates.ndcg)}
    return Measurement({name: found[name] for name in FIGURES}, slates.slates, slates.one_class)


def measure_slice(
    rows: TaskRows, score_N: np.ndarray, used_N: np.ndarray, bootstrap: Bootstrap, config: EvaluationConfig
) -> dict[str, Replicates]:
    """Compute the figures `SLICE_FIGURES`, which need no slates. The arguments are those of `measure`."""
    label, score, member = rows.label_N[used_N], score_N[used_N], rows.member_N[used_N]
    found = dict.fromkeys(SLICE_FIGURES, Replicates(float("nan"), np.full(config.replicates, np.nan)))
    found["auc"] = bootstrap.replicate(Auc(label, score, member))
    if are_probabilities(score):
        found["logloss"] = bootstrap.replicate(log_loss(label, score, member, bootstrap.members))
        found["ece"] = bootstrap.replicate(CalibrationError(label, score, member, bootstrap.members, bins=config.bins))
    return found


def auc_of(rows: TaskRows, score_N: np.ndarray, used_N: np.ndarray, bootstrap: Bootstrap) -> Replicates:
    """Compute the AUC only. The arguments are those of `measure`."""
    return bootstrap.replicate(Auc(rows.label_N[used_N], score_N[used_N], rows.member_N[used_N]))


def are_probabilities(score_N: np.ndarray) -> bool:
    """Whether there are scores, all in [0, 1]."""
    return len(score_N) > 0 and bool(np.all((score_N >= 0) & (score_N <= 1)))


def figures(replicates: Mapping[str, Replicates], level: float) -> dict[str, Figure]:
    """Return figures with intervals."""
    return {name: value.figure(level) for name, value in replicates.items()}
