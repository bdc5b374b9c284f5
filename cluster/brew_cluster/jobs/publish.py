"""Publishes an exported model with its prompts, lineage and benchmark, for `brew360 registry publish` and the demo."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from brew_cluster.jobs.benchmark_report import REPORT_VERSION
from brew_cluster.jobs.data_versions import DEFAULT_NAME, SECTION
from brew_cluster.jobs.lineage import Lineage
from brew_data.prompts.bundle import PromptBundle
from brew_eval.compare import Comparison
from brew_eval.gates import registry_figures, validate_gates
from brew_eval.report.report import Report
from brew_platform.calibration_map import CALIBRATION_FILE, CalibrationMap
from brew_platform.errors import UserError
from brew_platform.model_folder.weight_files import read_model_config, read_weight_headers
from brew_platform.registry.gates import BENCHMARK, Gate
from brew_platform.registry.model_digest import folder_digest, model_digest
from brew_platform.registry.registry import Registry, Version
from brew_serve.version import load_version

__all__ = ["publish_export", "read_report"]

_MEASURED_ON = ("data", "prompt_digest", "date", "commit")  # of a report, kept in the lineage
_ENGINE = ("kind", "dtype", "quantization", "rope", "max_model_len")  # settings that change scores


def publish_export(
    registry: Registry,
    export: Path,
    *,
    author: str,
    report: Mapping[str, Any] | None = None,
    comparison: Comparison | None = None,
    gates: Sequence[Gate] | None = None,
    publication: str | None = None,
    dataset: str | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Version:
    """Publish an export as the next version.

    Args:
        registry: Receives the version.
        export: Folder with the model, its prompts, and the `lineage.json` of its training, if it has one.
        author: Who publishes.
        report: Of `brew360 benchmark run`; its figures become the metrics of the version. None: no figures. Its
            calibration map is written to `calibration.json` in the export, and published with it.
        comparison: With the version that this one replaces; adds figures of the change. Needs a report.
        gates: Of the version's promotions; None: those of the training recipe.
        publication: As in `Registry.publish`.
        dataset: Name of the data set in the same store that it may have been trained on; None: the default.
        on_progress: Called with (bytes in the store, bytes of all files).

    Raises:
        UserError: The folder is not a complete export, the report is of another model, the comparison is of another
            report, or a gate names an unknown task or figure.
        RegistryError, StorageError: As `Registry.publish`.
    """
    if not export.is_dir():
        raise UserError(f"{export} is not a folder. Pass the folder of an exported model, e.g. runs/sft/export.")
    model = read_model_config(export, remedy="pass the folder of an exported model, e.g. runs/sft/export")
    read_weight_headers(export)
    version = load_version(export)
    bundle = PromptBundle.load(export)
    lineage = Lineage.read(export)
    if gates is None:
        gates = lineage.gates if lineage is not None else []
    # The figures of a report are judged at the promotion. Here only names are checked, so any data may be assumed.
    validate_gates(gates, [task.name for task in bundle.suite.tasks], has_true_probabilities=True)
    measured = None if report is None else _require_same_model(report, export, bundle)
    figures = {} if report is None else _figures(report, comparison)
    calibration = None if report is None else report.get("calibration")
    if calibration is not None:
        CalibrationMap.from_json(json.dumps(calibration)).write(export / CALIBRATION_FILE)
    return registry.publish(
        export,
        signature={
            "suite": bundle.suite.name,
            "tasks": [task.name for task in bundle.suite.tasks],
            "prompt": asdict(bundle.format),
            "prompt_digest": bundle.digest,
            "model_type": model.get("model_type"),
            "context_length": version.engine.max_model_len,
        },
        lineage={
            **({} if lineage is None else lineage.document()),
            **({} if lineage is None else _known_versions(registry, lineage, dataset)),
            **({} if report is None else {BENCHMARK: _measured_on(report)}),
        },
        metrics=figures,
        gates=gates,
        measured_digest=measured,
        skip=() if calibration is not None else (CALIBRATION_FILE,),  # of an earlier publication
        publication=publication,
        author=author,
        on_progress=on_progress,
    )


def _known_versions(registry: Registry, lineage: Lineage, dataset: str | None) -> dict[str, Any]:
    """Return the versions in the same store that a model comes from, as far as they are there.

    `parent_version` is the number of the model that the training started from, by its digest; `datasets` has, by stage,
    name and version of the data set whose bins it read, by the hash of their plan.
    """
    known: dict[str, Any] = {}
    if lineage.parent is not None:
        for number in reversed(registry.versions()):
            if model_digest(registry.version(number).files) == lineage.parent.get("digest"):
                known["parent_version"] = number
                break
    datasets = Registry(registry.store, dataset or DEFAULT_NAME, section=SECTION)
    stages: dict[str, dict[str, Any]] = {}
    for number in datasets.versions():
        plans = {plan.get("plan_hash") for plan in datasets.version(number).metrics.get("bins", {}).values()}
        stages |= {
            stage: {"name": datasets.model, "version": number}
            for stage, plan_hash in lineage.plan_hashes.items()
            if plan_hash in plans
        }
    if stages:
        known["datasets"] = stages
    return known


def read_report(path: Path) -> dict[str, Any]:
    """Read a report of `brew360 benchmark run`.

    Raises:
        UserError: The file is not one, or it is of another release.
    """
    remedy = "Pass the file that `brew360 benchmark run MODEL --data FOLDER --report FILE` wrote."
    try:
        report = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"the report {path} cannot be read ({error}). {remedy}") from error
    if not isinstance(report, dict) or not all(
        isinstance(report.get(name), dict) for name in ("model", "tasks", "data", "sample")
    ):
        raise UserError(f"{path} is not the report of a benchmark. {remedy}")
    if report.get("format_version") != REPORT_VERSION:
        raise UserError(
            f"the report {path} has format_version {report.get('format_version')!r}, but this release reads "
            f"{REPORT_VERSION} only. Run the benchmark again."
        )
    return report


def _require_same_model(report: Mapping[str, Any], export: Path, bundle: PromptBundle) -> str:
    """Return the digest of the export, which is that of the measured model with its own prompts."""
    if replaced := report.get("history"):
        raise UserError(
            f"the report was measured with other history policies for {', '.join(sorted(replaced))}, so its figures "
            f"are not those of the prompts that a service builds by default. Run the benchmark without `history`."
        )
    digest = folder_digest(export)
    measured = report["model"].get("digest")
    if measured != digest or report.get("prompt_digest") != bundle.digest:
        raise UserError(
            f"the report is of another model: it measured {report['model'].get('name')!r} with the digest "
            f"{str(measured)[:12]}, but {export} has {digest[:12]}. Run `brew360 benchmark run {export} --data FOLDER "
            f"--report FILE` and publish with its report."
        )
    return digest


def _figures(report: Mapping[str, Any], comparison: Comparison | None) -> Mapping[str, Any]:
    """Return the figures of the version, with those of the change."""
    if comparison is None:
        figures: Mapping[str, Any] = report["tasks"]
        return figures
    return registry_figures(Report.from_dict(report.get("evaluation")), comparison)


def _measured_on(report: Mapping[str, Any]) -> dict[str, Any]:
    """Where the figures come from; `rows_digest` tells which versions can be compared."""
    engine = report.get("engine") or {}
    sample = dict(report["sample"])
    return {
        "rows_digest": sample.pop("rows_digest", None),
        "sample": sample,
        "engine": {name: engine.get(name) for name in _ENGINE},
        **{name: report.get(name) for name in _MEASURED_ON},
    }
