"""Turns reports and comparisons into the figures that the registry's gates read. Pure functions.

The registry records a version's figures and judges bounds on them (`brew_platform.registry.gates`). A bound on an
interval, or on a slice, is therefore a bound on a figure with a name of its own:

| gate | meaning |
|---|---|
| `figure: post_like.auc, at_least: 0.7` | a required figure |
| `figure: post_like.lightgbm_gain_low, at_least: 0` | the gain over LightGBM is above 0 with its interval |
| `figure: post_like.slices.history.0-4.auc, at_least: 0.65` | a slice |
| `figure: post_like.change.auc_low, at_least: -0.002` | AUC falls by at most .002 against the replaced version |
| `figure: post_like.change.fallen_slices, at_most: 0` | no slice falls |
"""

from collections.abc import Mapping, Sequence
from typing import Any

from brew_eval.compare import Comparison, SliceChange, TaskComparison
from brew_eval.intervals import Figure
from brew_eval.report.report import Report, TaskReport
from brew_platform.errors import UserError
from brew_platform.registry.gates import AGAINST, CHANGE, find_figure

__all__ = ["fallen_slices", "missing_figures", "registry_figures"]


def registry_figures(
    report: Report, change: Comparison | None = None, *, tolerance: float = 0.0, reference: str = "entity_mean"
) -> dict[str, dict[str, Any]]:
    """Return all figures by task, as a version's metrics.

    Names of one task: `rows`, `positive_rate`, `FIGURE`, `FIGURE_low`, `FIGURE_high`; `best_auc`; per baseline
    `NAME_auc`, `NAME_gain` with bounds, and `NAME_gap_closed`; `baseline_auc`, `gain` and `gap_closed` of the
    reference; `without_score`, `not_finite`, `without_label`, `unseen_outcome`; `slices.DIMENSION.NAME.FIGURE`, with
    bounds; and with a comparison `change.FIGURE`, `change.FIGURE_low`, `change.FIGURE_high`, `change.fallen_slices`,
    and `change.against`. This is the number of the replaced version (`ScoredRowsInfo.version`), without which the
    registry uses none of them.

    Args:
        report: Of the version.
        change: The version (A) against the version that it replaces (B).
        tolerance: See `fallen_slices`.
        reference: Name of the baseline of `baseline_auc`, `gain` and `gap_closed`.

    Raises:
        UserError: The comparison is of another model or other rows.
    """
    if change is not None and (change.a, change.rows_digest) != (report.info, report.rows_digest):
        raise UserError(
            f"the comparison is of {change.a.name} on other rows than the report of {report.info.name}, so their "
            f"figures do not belong together. Compare the rows that the report was made from."
        )
    found = {name: _task_figures(task, reference) for name, task in report.tasks.items()}
    if change is not None:
        for name, compared in change.tasks.items():
            values = {figure: part.difference for figure, part in compared.figures.items()}
            fallen = len(fallen_slices(compared, tolerance=tolerance))
            found[name][CHANGE] = {**_flat(values), "fallen_slices": fallen, AGAINST: change.b.version}
    return found


def missing_figures(figures: Mapping[str, Any], required: Sequence[str]) -> list[str]:
    """Return the required figures, as dotted paths, that are not a finite number."""
    return [path for path in required if find_figure(figures, path) is None]


def fallen_slices(task: TaskComparison, *, tolerance: float = 0.0) -> list[SliceChange]:
    """Return the slices whose AUC fell: the whole interval of the difference is below -tolerance.

    With an interval of 95%, about 1 of 40 slices of two equal models is found by chance; a tolerance makes that rarer.

    Args:
        task: A against B.
        tolerance: Fall of AUC that is accepted, not negative.
    """
    return [
        part for part in task.slices if part.auc.difference.high is not None and part.auc.difference.high < -tolerance
    ]


def _task_figures(task: TaskReport, reference: str) -> dict[str, Any]:
    counts = task.counts
    found: dict[str, Any] = {
        "rows": counts.used,
        "positive_rate": counts.positive_rate,
        **_flat(task.figures),
        "best_auc": task.best_auc.value,
        "without_score": counts.without_score,
        "not_finite": counts.not_finite,
        "without_label": counts.without_label,
        "unseen_outcome": counts.unseen_outcome,
    }
    for name, baseline in task.baselines.items():
        gain = baseline.differences["auc"]
        if name == reference:
            found["baseline_auc"] = baseline.figures["auc"].value
            found["gain"], found["gap_closed"] = gain.value, baseline.gap_closed.value
        found[f"{name}_auc"] = baseline.figures["auc"].value
        found |= _flat({f"{name}_gain": gain})
        found[f"{name}_gap_closed"] = baseline.gap_closed.value
    slices: dict[str, dict[str, Any]] = {}
    for part in task.slices:
        slices.setdefault(part.dimension, {})[part.name] = {"rows": part.rows, **_flat(part.figures)}
    return {**found, "slices": slices}


def _flat(figures: Mapping[str, Figure]) -> dict[str, float | None]:
    """Return value and bounds of each figure."""
    found: dict[str, float | None] = {}
    for name, figure in figures.items():
        found |= {name: figure.value, f"{name}_low": figure.low, f"{name}_high": figure.high}
    return found
