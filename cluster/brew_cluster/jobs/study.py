"""Runs a study: its sweep or its probes, then the table, the scaling laws and the plot."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from brew_cluster.jobs.benchmark_report import rows_path
from brew_cluster.jobs.study_config import StudyAxis, StudyConfig, StudyRecipe
from brew_cluster.releases.config import TRAINING
from brew_cluster.releases.release import Release
from brew_cluster.releases.runner import StepRunner
from brew_cluster.releases.sweep import plan_sweep, run_sweep
from brew_eval.report.files import read_evaluation
from brew_eval.report.markdown import escape_markdown, table_markdown
from brew_eval.report.report import Report
from brew_eval.scored_rows import ScoredRows
from brew_eval.studies.scaling_law import MIN_POINTS
from brew_eval.studies.scored_points import Laws, ScoredVersion, slice_points, version_points
from brew_eval.studies.study_table import (
    StudyPlot,
    StudyPoint,
    law_table,
    points_table,
    read_points,
    study_plots,
    write_points,
)
from brew_platform.config import load_config
from brew_platform.console.plain_console import PlainConsole
from brew_platform.errors import UserError
from brew_platform.files import replace_atomically
from brew_platform.model_folder.weight_files import read_weight_headers
from brew_platform.provenance import now, source_commit
from brew_platform.yaml_files import parse_yaml
from brew_train.telemetry.recorder import read_run

__all__ = ["StudyModel", "plan_study", "redraw", "run_study"]

FORMAT_VERSION = 1
STUDY_FILE, TABLE, TEXT, PLOT = "study.json", "table.csv", "table.md", "plot.svg"  # in the folder of a study


@dataclass(frozen=True, kw_only=True)
class StudyModel:
    """A model that a probe measures.

    Args:
        name: Of its point.
        reference: Folder of an export, or a version of the registry.
        data: Data folder.
        x: Place on the axis; None without a numeric axis.
    """

    name: str
    reference: str
    data: Path
    x: float | None = None


def plan_study(study: StudyRecipe, folder: Path, steps: Path) -> list[Release]:
    """Check a study before anything runs.

    Args:
        study: The study.
        folder: Of the study; its sweep is in the folder `sweep`.
        steps: Of the steps, which releases share.

    Returns:
        The releases of its sweep; empty without a sweep.

    Raises:
        UserError: A release has an invalid setting, or a step that the study needs is missing.
    """
    config = study.config
    if study.sweep is None:
        return []
    if config.laws and len(study.sweep.releases) < MIN_POINTS:
        raise UserError(
            f"laws is set, but the sweep has {len(study.sweep.releases)} releases. A scaling law needs at least "
            f"{MIN_POINTS}."
        )
    releases = plan_sweep(study.sweep, folder / "sweep", steps)
    needed = (config.axis.step,) if config.axis.of == "tokens" else ()
    for release in releases:
        names = [step.name for step in release.steps]
        if not config.probes and "benchmark" not in names:
            raise UserError(
                f"release {release.recipe.name} has no benchmark, whose figures the study compares. Add one."
            )
        if config.probes and not {*names} & {*TRAINING}:
            raise UserError(f"release {release.recipe.name} trains no model that the probe could measure. Add a step.")
        if missing := [name for name in needed if name not in names]:
            raise UserError(f"axis.step is {missing[0]}, which the release {release.recipe.name} does not have.")
    return releases


def run_study(
    study: StudyRecipe,
    releases: Sequence[Release],
    folder: Path,
    runner: StepRunner,
    console: PlainConsole,
    *,
    at_once: int = 1,
) -> list[StudyPoint]:
    """Run what has not finished, and write table, text and plot.

    Args:
        study: The study.
        releases: From `plan_study`.
        folder: Of the study.
        runner: Runs the steps of the releases.
        console: The output.
        at_once: Releases that run at the same time.

    Returns:
        The points.

    Raises:
        BrewError: Some releases failed, or a model could not be measured.
    """
    config = study.config
    if releases:
        run_sweep(releases, folder / "sweep", runner, console, at_once=at_once)
    laws: Laws = {}
    if config.probes:
        from brew_cluster.jobs.study_probes import run_probes  # imports PyTorch

        points = run_probes(config, _models(study, releases), folder, console)
    else:
        versions = _scored(study, releases)
        if config.by == "version":
            points, laws = version_points(
                versions, config.figures, config.evaluation, tasks=config.tasks, with_laws=config.laws
            )
        else:
            points = slice_points(versions, config.by, config.figures, tasks=config.tasks)
    _write(config, points, laws, folder)
    for line in law_table(laws).rows:
        console.print(f"{line[0]}, {line[1]}: limit {line[3]}, exponent {line[5]}", soft_wrap=True)
    console.print(f"study: {folder / TEXT}, {folder / TABLE}, {folder / PLOT}", soft_wrap=True)
    return points


def redraw(folder: Path, overrides: Sequence[str] = ()) -> Path:
    """Draw the plot of a study again, from its table; scaling laws are drawn by `run_study` only.

    Args:
        folder: Of the study.
        overrides: Settings of the plot, such as `log=false`.

    Returns:
        The file of the plot.

    Raises:
        UserError: The folder is not that of a study, or a setting is invalid.
    """
    try:
        content = json.loads((folder / STUDY_FILE).read_text())
        if content["format_version"] != FORMAT_VERSION:
            raise ValueError(f"its format_version is {content['format_version']}, not {FORMAT_VERSION}")
        plot = content["plot"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{folder} is not the folder of a study ({error}). Pass the folder that `brew360 study run` wrote."
        ) from error
    points = read_points(folder / TABLE)
    replace_atomically(folder / PLOT, study_plots(points, load_config(StudyPlot, plot, overrides=overrides)))
    return folder / PLOT


def _write(config: StudyConfig, points: Sequence[StudyPoint], laws: Laws, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_points(points, folder / TABLE)
    tables = [points_table(points, figure) for figure in dict.fromkeys(point.figure for point in points)]
    tables += [law_table(laws)] if laws else []
    paper = f" Paper: {config.paper}." if config.paper else ""
    text = "\n\n".join(table_markdown(table) for table in tables)
    head = f"# {escape_markdown(config.name)}\n\n{escape_markdown(config.question)}{escape_markdown(paper)}"
    replace_atomically(folder / TEXT, f"{head}\n\n{text}\n")
    replace_atomically(folder / PLOT, study_plots(points, config.plot, laws))
    content = {
        "format_version": FORMAT_VERSION,
        "name": config.name,
        "question": config.question,
        "paper": config.paper,
        "plot": asdict(config.plot),
        "date": now(),
        "commit": source_commit(),
    }
    replace_atomically(folder / STUDY_FILE, json.dumps(content, indent=1) + "\n")


def _scored(study: StudyRecipe, releases: Sequence[Release]) -> list[ScoredVersion]:
    """Return the scored rows of each version, with the report beside them."""
    if study.sweep is None:
        return [
            ScoredVersion(name=name, rows=ScoredRows.read(Path(file.rows)), x=file.x, report=_report(Path(file.rows)))
            for name, file in study.config.scored.items()
        ]
    found = []
    for release in releases:
        report = next(step.output for step in release.steps if step.name == "benchmark")
        found.append(
            ScoredVersion(
                name=_short_name(study, release),
                rows=ScoredRows.read(rows_path(report)),
                x=_place(study.config.axis, release),
                report=read_evaluation(report),
            )
        )
    return found


def _report(rows: Path) -> Report | None:
    path = rows.with_suffix(".json")
    return read_evaluation(path) if path.is_file() else None


def _models(study: StudyRecipe, releases: Sequence[Release]) -> list[StudyModel]:
    config = study.config
    if study.sweep is None:
        assert config.data is not None
        return [
            StudyModel(name=name, reference=reference, data=Path(config.data))
            for name, reference in config.models.items()
        ]
    found = []
    for release in releases:
        built = next((step.output for step in release.steps if step.name == "data"), None)
        data = built or Path(str(release.recipe.commands["data"].folder))
        found.append(
            StudyModel(
                name=_short_name(study, release),
                reference=str(_export(release)),
                data=data,
                x=_place(config.axis, release),
            )
        )
    return found


def _export(release: Release) -> Path:
    """Return the export of the last training step of a release."""
    return [step.output for step in release.steps if step.name in TRAINING][-1] / "export"


def _short_name(study: StudyRecipe, release: Release) -> str:
    """Return the name of a release without that of the study, or the values that the sweep varies."""
    assert study.sweep is not None
    others = [dict(text.split("=", 1) for text in each) for each in study.sweep.releases.values()]
    own = dict(text.split("=", 1) for text in study.sweep.releases[release.recipe.name])
    name = release.recipe.name.removeprefix(f"{study.sweep.name}-")
    if not name.isdigit():
        return name
    varied = [key for key in own if len({each.get(key) for each in others}) > 1]
    return ", ".join(f"{key.split('.')[-1]} {own[key]}" for key in varied) or name


def _place(axis: StudyAxis, release: Release) -> float | None:
    """Return the place of a release on the axis."""
    if axis.of == "setting":
        return _number(axis.setting or "", release)
    if axis.of == "tokens":
        step = next(step for step in release.steps if step.name == axis.step)
        # A step that was repeated after a restart counts once.
        rows = {row["step"]: row["tokens"] for row in read_run(step.output)[0] if "tokens" in row}
        return float(sum(rows.values()))
    if axis.of == "parameters":
        return float(sum(math.prod(t.shape) for t in read_weight_headers(_export(release)).values()))
    return None


def _number(key: str, release: Release) -> float:
    text = release.recipe.settings.get(key)
    try:
        value = parse_yaml(text or "")
    except ValueError:
        value = None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UserError(
            f"axis.setting is {key}, but the release {release.recipe.name} has {text!r} there, not a number. Name a "
            f"setting that the sweep or the recipe of its releases sets to a number."
        )
    return float(value)
