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

import difflib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from brew_eval.compare import Comparison, SliceChange, TaskComparison
from brew_eval.intervals import Figure
from brew_eval.measurement import FIGURES, SLICE_FIGURES
from brew_eval.report.report import Report, TaskReport
from brew_eval.slices import DIMENSIONS
from brew_platform.errors import ConfigError, UserError
from brew_platform.registry.gates import AGAINST, CHANGE, Gate, find_figure

__all__ = ["fallen_slices", "missing_figures", "registry_figures", "validate_gates"]

_COUNTS = ("without_score", "not_finite", "without_label", "unseen_outcome")
_FIXED = ("rows", "positive_rate", *FIGURES, "baseline_auc", "best_auc", "gain", "gap_closed", *_COUNTS)
_NEED_TRUTH = ("best_auc", "gap_closed")


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


def validate_gates(gates: Sequence[Gate], tasks: Collection[str], *, has_true_probabilities: bool) -> None:
    """Check that a benchmark can measure the figure of every gate.

    Args:
        gates: Figures are TASK.FIGURE, as in `registry_figures`.
        tasks: Names of the suite's tasks.
        has_true_probabilities: Whether the data have the true probability of every interaction.

    Raises:
        ConfigError: A gate names an unknown task or figure, or one that the data cannot give.
    """
    for gate in gates:
        task, _, figure = gate.figure.partition(".") if "." in gate.figure else ("", "", gate.figure)
        for name, is_known, known, what in [
            (task, task in tasks, tasks, "task"),
            (figure, _is_figure(figure), _FIXED, "figure"),
        ]:
            if not is_known:
                near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
                raise ConfigError(
                    f"release.gates names {gate.figure}, but the benchmark does not have the {what} {name!r}. Did you "
                    f"mean {near[0] if near else 'another'}? Write TASK.FIGURE; the {what}s are {', '.join(known)}."
                )
        if figure.endswith(_NEED_TRUTH) and not has_true_probabilities:
            raise ConfigError(
                f"release.gates names {gate.figure}, but the source does not have true probabilities, so that the best "
                f"reachable AUC is unknown. Set {task}.gain or {task}.auc instead."
            )


def _is_figure(path: str) -> bool:
    """Whether `registry_figures` can have a figure of a task at this path."""
    if path in _FIXED or path in _with_bounds(FIGURES):
        return True
    first, *rest = path.split(".")
    if first == "slices" and len(rest) == 3:
        return rest[0] in DIMENSIONS and rest[2] in ("rows", *_with_bounds(SLICE_FIGURES))
    if first == "change" and len(rest) == 1:
        return rest[0] in ("fallen_slices", *_with_bounds(FIGURES))
    from brew_eval.baselines.by_name import NAMES

    for suffix in ("auc", "gain", "gain_low", "gain_high", "gap_closed"):
        name = path.removesuffix(f"_{suffix}")
        if name != path and (name in NAMES or name.startswith("fact_")):
            return True
    return False


def _with_bounds(figures: Sequence[str]) -> list[str]:
    return [f"{figure}{bound}" for figure in figures for bound in ("", "_low", "_high")]


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
