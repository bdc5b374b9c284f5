"""The points of a study from the scored rows and reports of its versions, and the scaling laws through them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from brew_eval.intervals import Bootstrap, Figure, Replicates, mean_of
from brew_eval.measurement import EvaluationConfig, TaskRows, measure
from brew_eval.report.report import Report, TaskReport
from brew_eval.scored_rows import ScoredRows
from brew_eval.studies.scaling_law import ScalingLaw, fit_scaling_law
from brew_eval.studies.study_table import StudyPoint
from brew_platform.errors import UserError

__all__ = ["FORMS", "MEAN", "Laws", "ScoredVersion", "slice_points", "version_points"]

MEAN = "mean over tasks"
FORMS: dict[str, Literal["loss", "auc"]] = {"logloss": "loss", "auc": "auc", "uauc": "auc"}  # figures with a law
Laws = dict[tuple[str, str], ScalingLaw]


@dataclass(frozen=True, kw_only=True)
class ScoredVersion:
    """A version of a study.

    Args:
        name: Of its point.
        rows: Its scored rows.
        x: Place on the axis; None without a numeric axis.
        report: Of its benchmark; None if there are scored rows only.
    """

    name: str
    rows: ScoredRows
    x: float | None = None
    report: Report | None = None


def version_points(
    versions: Sequence[ScoredVersion],
    names: Sequence[str],
    config: EvaluationConfig,
    *,
    tasks: Sequence[str] = (),
    with_laws: bool = False,
) -> tuple[list[StudyPoint], Laws]:
    """Compute figures of versions: a point per version, a series per task, and their mean.

    Versions that scored the same rows have the same draws of members, so the replicates of a law are paired.

    Args:
        versions: The versions, of which each has the tasks.
        names: Figures of `brew_eval.measurement.FIGURES`.
        config: Settings of the intervals.
        tasks: Tasks to show; (): all.
        with_laws: Whether to fit scaling laws to the figures that have one.

    Returns:
        The points, and the laws by figure and series.

    Raises:
        UserError: A version lacks a task, or as in `fit_scaling_law`.
    """
    points: list[StudyPoint] = []
    found: dict[tuple[str, str], list[tuple[float | None, Replicates]]] = {}
    for version in versions:
        rows = version.rows.of_tasks(tasks) if tasks else version.rows
        for series, (count, replicates) in _replicates(rows, config).items():
            for figure in names:
                value = replicates[figure]
                found.setdefault((figure, series), []).append((version.x, value))
                points.append(
                    StudyPoint(
                        figure=figure,
                        series=series,
                        point=version.name,
                        x=version.x,
                        value=value.figure(config.level),
                        rows=count,
                    )
                )
    laws: Laws = {}
    if with_laws:
        for (figure, series), pairs in found.items():
            if (form := FORMS.get(figure)) is None:
                continue
            kept = [(x, value) for x, value in pairs if x is not None and np.isfinite(value.value)]
            laws[figure, series] = fit_scaling_law(
                [x for x, _ in kept], [value for _, value in kept], form=form, level=config.level
            )
    return points, laws


def slice_points(
    versions: Sequence[ScoredVersion], by: str, figures: Sequence[str], *, tasks: Sequence[str] = ()
) -> list[StudyPoint]:
    """Return figures of slices or of tasks: a point per slice, a series per version and for each baseline.

    Baselines are those of the first version's report; their only figure of a slice is the AUC.

    Args:
        versions: The versions, with reports.
        by: A dimension of slices, such as `history` or `time`, or `task`.
        figures: Names, such as auc.
        tasks: Tasks to show; (): all.

    Raises:
        UserError: A version has no report, or its report has no such task or slices.
    """
    points: list[StudyPoint] = []
    for number, version in enumerate(versions):
        if version.report is None:
            raise UserError(f"{version.name} has scored rows only, but `by: {by}` needs the report of a benchmark.")
        chosen = tasks or list(version.report.tasks)
        if unknown := [name for name in chosen if name not in version.report.tasks]:
            raise UserError(
                f"the report of {version.name} has no task {unknown[0]!r}; it has {', '.join(version.report.tasks)}."
            )
        several = len(chosen) > 1
        for task in chosen:
            report = version.report.tasks[task]
            for figure in figures:
                places = _places(report, task, by, figure)
                if not places:
                    raise UserError(f"the report of {version.name} has no slices by {by} of the task {task}.")
                for point, rows, value, baselines in places:
                    shown = f"{task}, {point}" if several and by != "task" else point
                    series = {version.name: value, **(baselines if number == 0 else {})}
                    points += [
                        StudyPoint(figure=figure, series=name, point=shown, value=found, rows=rows)
                        for name, found in series.items()
                    ]
    return points


def _places(report: TaskReport, task: str, by: str, figure: str) -> list[tuple[str, int, Figure, dict[str, Figure]]]:
    """Return name, rows, figure, and the baselines' figure, of each point."""
    if by == "task":
        others = {name: part.figures.get(figure, Figure(None)) for name, part in report.baselines.items()}
        name = f"{task} ({report.tier})"
        return [(name, report.counts.used, report.figures.get(figure, Figure(None)), others)]
    return [
        (part.name, part.rows, part.figures.get(figure, Figure(None)), part.baselines if figure == "auc" else {})
        for part in report.slices
        if part.dimension == by
    ]


def _replicates(rows: ScoredRows, config: EvaluationConfig) -> dict[str, tuple[int, dict[str, Replicates]]]:
    """Return the number of rows used, and the figures, by task; and of the mean if there are several tasks."""
    member_N, members = rows.codes("member")
    task_N, names = rows.codes("task")
    bootstrap = Bootstrap(max(len(members), 1), replicates=config.replicates, seed=config.seed)
    found: dict[str, tuple[int, dict[str, Replicates]]] = {}
    for number, task in sorted(enumerate(names), key=lambda pair: str(pair[1])):
        part_N = task_N == number
        part = rows.select(part_N)
        score_N = part.column("score")
        used_N = np.isfinite(score_N) & np.isfinite(part.column("label"))
        measured = measure(TaskRows.of(part, member_N[part_N]), score_N, used_N, bootstrap, config)
        found[task] = int(used_N.sum()), dict(measured.replicates)
    if len(found) > 1:
        figures = {
            name: mean_of([values[name] for _, values in found.values()]) for name in next(iter(found.values()))[1]
        }
        found[MEAN] = sum(count for count, _ in found.values()), figures
    return found
