"""`brew360 benchmark run`: measures a model on the rows of a data folder after its cut, with the engine that serves."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

from brew_cluster.jobs.benchmark_report import (
    evaluate_rows,
    make_document,
    rows_path,
    validation_split,
    write_benchmark,
)
from brew_data.data_folder import DataFolder
from brew_data.prompts.bundle import PROMPT_FILE, PromptBundle
from brew_data.prompts.history import HistoryPolicy
from brew_data.prompts.suite import changed_suite
from brew_data.split import Split
from brew_eval.baselines.by_name import DEFAULT, check_baselines, score_by_name
from brew_eval.calibration import fit_calibration
from brew_eval.engine_scores import add_engine_scores
from brew_eval.measurement import EvaluationConfig
from brew_eval.report.files import require_json_path
from brew_eval.scored_rows import ScoredRows, ScoredRowsInfo
from brew_eval.selection import rows_after_cut, sample_rows
from brew_platform.config import config_digest, load_config
from brew_platform.console.plain_console import PlainConsole
from brew_platform.console.progress import Phases
from brew_platform.errors import UserError
from brew_platform.model_folder.families import check_architecture
from brew_platform.model_folder.weight_files import read_model_config, read_weight_headers
from brew_platform.processes import ProcessTreeMeter
from brew_platform.provenance import now, source_commit
from brew_platform.registry.model_digest import folder_digest, model_digest
from brew_platform.registry.registry import Registry
from brew_platform.settings import Name, NonNegativeInt, OneOf, PositiveInt, Settings
from brew_platform.storage.base import open_store
from brew_serve.batch.config import BatchConfig
from brew_serve.engines.config import EngineConfig
from brew_serve.version import load_version

if TYPE_CHECKING:  # it imports Ray
    from brew_cluster.jobs.benchmark_scores import ScoreParts

__all__ = [
    "BenchmarkJob",
    "BenchmarkModel",
    "benchmark_bundle",
    "load_benchmark",
    "open_data",
    "open_model",
    "report_path",
    "run_benchmark",
    "version_folder",
]

ROWS = 1_000  # of each task
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
    rows: PositiveInt | None = ROWS  # of each task, drawn from those after the cut; null: all
    seed: NonNegativeInt = 0  # of the draw
    # streaming: a row is scored at its own time; frozen: at the end of training, so that a member's rows are one slate
    protocol: Annotated[str, OneOf(("streaming", "frozen"))] = "streaming"
    baselines: list[str] = field(default_factory=lambda: list(DEFAULT))  # fitted on the rows before the cut
    fit_calibration: bool = False  # fit a calibration map on the rows between training and benchmark
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    history: dict[str, HistoryPolicy] = field(default_factory=dict)  # replaces the policies of the model, by task
    # Changes of the suite at scoring, as of a data set: the model reads prompts that it was not trained on
    suite_changes: list[str] = field(default_factory=list)
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

    def document(self) -> dict[str, Any]:
        """The model as a report records it."""
        return {name: value for name, value in asdict(self).items() if name != "folder"}


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


def open_data(job: BenchmarkJob) -> DataFolder:
    """Open the data folder.

    Raises:
        UserError: The job names none, or it is not a complete data folder.
    """
    if not job.data:
        raise UserError("the benchmark needs data. Pass --data FOLDER, a folder that `brew360 data build` wrote.")
    return DataFolder.open(Path(job.data))


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
    """Return the default path of a report: in `job.run`, named after the model, the data and a frozen history."""
    parts = [model.name if model.version else "-".join(model.folder.parts[-2:]), Path(job.data).absolute().name]
    parts += [] if job.protocol == "streaming" else [job.protocol]
    return Path(job.run) / f"{'-'.join(re.sub(r'[^A-Za-z0-9._-]+', '-', part) for part in parts)}.json"


def run_benchmark(
    job: BenchmarkJob,
    model: BenchmarkModel,
    data: DataFolder,
    report: Path,
    console: PlainConsole,
    progress_console: PlainConsole,
) -> dict[str, Any]:
    """Measure a model, write the report and the scored rows, and print its table.

    The scores that an interrupted run computed are kept in `job.run`, and the same command continues with the others.

    Args:
        job: The settings.
        model: From `open_model`.
        data: The data folder.
        report: Receives the report as JSON; Markdown, HTML and the scored rows (Parquet) are written beside it.
        console: Receives the table and the path of the report.
        progress_console: Shows the progress.

    Returns:
        The content of the JSON file.

    Raises:
        BrewError: The model's prompts are not those of the data, there are no rows, or scoring failed.
    """
    require_json_path(report)
    check_baselines(job.baselines)
    bundle, split = benchmark_bundle(job, model, data), data.info.split
    tables, suite = data.tables(), bundle.suite
    origin = ScoredRowsInfo(
        model=model.name,
        version=model.version,
        suite=suite.name,
        data_digest=data.info.digest,
        history=cast(Literal["streaming", "frozen"], job.protocol),
        seed=job.seed,
        commit=source_commit(),
        date=now(),
    )
    everything = rows_after_cut(tables, suite, split, origin, job.tasks)
    splits, candidates = {"score": split}, {"score": everything}
    if job.fit_calibration:
        splits["calibrate"] = validation_split(split)
        candidates["calibrate"] = rows_after_cut(tables, suite, splits["calibrate"], origin, job.tasks)
    to_score = {phase: sample_rows(rows, job.rows, seed=job.seed) for phase, rows in candidates.items()}
    # These import Ray and PyTorch, which takes seconds; after the quick checks.
    from brew_cluster.cli.views.benchmark import show_report
    from brew_cluster.jobs.benchmark_scores import ScoreParts

    folder = version_folder(job, model, bundle)
    load_version(folder, job.engine, job.history)  # what does not fit together is found before Ray starts
    phases = Phases([*to_score, "baselines", "evaluate"], console=progress_console)
    scored, parts = {}, []
    with ProcessTreeMeter(interval_seconds=2.0) as memory:
        for phase, rows in to_score.items():
            parts.append(ScoreParts(Path(job.run).absolute() / "scores" / _key(job, model, bundle, rows)))
            scored[phase] = _score(job, data, bundle, rows, splits[phase], folder, parts[-1], phases, phase)
            phases.seconds[phase] = parts[-1].seconds  # over all attempts
        rows = scored["score"]
        calibration = None
        if job.fit_calibration:
            calibration = fit_calibration(scored["calibrate"], test_from=split.benchmark_after + 1)
        source: dict[str, Any] = {"source": data.info.source, "source_config": data.info.source_config}
        baselines = []
        with phases.phase("baselines", total=None, unit="baselines") as progress:
            for baseline in score_by_name(job.baselines, rows, tables, suite, split, **source):
                baselines.append(baseline)
                progress.update(len(baselines), last=baseline.info.name)
        with phases.phase("evaluate"):
            evaluated = evaluate_rows(
                rows,
                baselines,
                tables,
                suite,
                split,
                job.evaluation,
                tasks=job.tasks,
                calibration=calibration,
                seconds=phases.seconds["score"],
            )
    document = make_document(
        evaluated,
        model=model.document(),
        data=data,
        prompt_digest=bundle.digest,
        everything=everything,
        rows=rows,
        per_task=job.rows,
        engine=job.engine,
        seconds=phases.seconds,
        peak_bytes=memory.peak_bytes,
        history=job.history,
        calibration=calibration,
    )
    write_benchmark(document, evaluated, rows, report)
    for part in parts:
        part.remove()
    show_report(console, evaluated, title=f"{model.name} on {data.folder}: {document['sample']['name']}")
    for text in evaluated.warnings:
        progress_console.print(f"not in the figures: {text}")
    console.print(f"report: {report} (also .md and .html); scored rows: {rows_path(report)}")
    return document


def benchmark_bundle(job: BenchmarkJob, model: BenchmarkModel, data: DataFolder) -> PromptBundle:
    """Return the prompts that a model is scored with: those of the data, with the changes of the job.

    Raises:
        UserError: The model was trained with other prompts, its tokenizer is another one, or a change is invalid.
    """
    bundle = data.bundle()
    _require_prompts(model, bundle, data)
    if job.suite_changes:
        bundle = replace(bundle, suite=changed_suite(bundle.suite, job.suite_changes))
    return bundle


def version_folder(job: BenchmarkJob, model: BenchmarkModel, bundle: PromptBundle) -> Path:
    """Return the version folder that engines load; for a base model or a changed suite it is made in `job.run`.

    Raises:
        UserError: As `make_base_version`.
    """
    if model.kind != "base" and not job.suite_changes:
        return model.folder
    from brew_cluster.jobs.base_version import make_base_version  # imports PyTorch, which takes seconds

    name = f"{model.kind}-{model.digest[:12]}-{bundle.digest[:12]}"
    return make_base_version(model.folder, bundle, Path(job.run).absolute() / name)


def _score(
    job: BenchmarkJob,
    data: DataFolder,
    bundle: PromptBundle,
    rows: ScoredRows,
    split: Split,
    folder: Path,
    parts: "ScoreParts",
    phases: Phases,
    phase: str,
) -> ScoredRows:
    """Score rows with Ray; those that an interrupted run scored are read from `parts`."""
    from brew_cluster.jobs.benchmark_scores import score_rows
    from brew_cluster.ray.local_ray import any_ray

    done = parts.read()
    if done.num_rows:
        phases.note(f"{done.num_rows:,} of {len(rows):,} rows were scored before; the others follow.")
    if done.num_rows < len(rows):
        with (
            any_ray(detached=False, logs=Path(job.run) / "logs" / "ray"),
            phases.phase(phase, total=len(rows), unit="rows") as progress,
        ):
            progress.update(done.num_rows)
            done = score_rows(
                data,
                bundle,
                rows,
                folder,
                job.engine,
                job.batch,
                split=split,
                history=job.history,
                parts=parts,
                on_progress=progress.update,
            )
    return add_engine_scores(rows, done)


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


def _key(job: BenchmarkJob, model: BenchmarkModel, bundle: PromptBundle, rows: ScoredRows) -> str:
    """Name the folder of unfinished scores: other settings that change scores have another name."""
    engine = {name: asdict(job.engine)[name] for name in _SCORING}
    history = [{task: asdict(policy) for task, policy in job.history.items()}] if job.history else []
    return config_digest([model.digest, bundle.digest, rows.digest, job.protocol, engine, *history])[:16]
