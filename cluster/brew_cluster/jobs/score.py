"""The job of `brew360 score`: its settings, its plan, and its run on a local Ray or on a cluster."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from brew_data.privacy.pseudonyms import PseudonymConfig
from brew_data.prompts.history import HistoryPolicy
from brew_platform.config import load_config
from brew_platform.console.plain_console import PlainConsole
from brew_platform.console.progress import Phases
from brew_platform.errors import UserError
from brew_platform.registry.registry import Registry
from brew_platform.settings import Name, Settings
from brew_platform.storage.base import open_store
from brew_serve.batch.config import BatchConfig
from brew_serve.batch.plan import BatchPlan
from brew_serve.engines.config import EngineConfig
from brew_serve.version import load_version

__all__ = ["ScoreJob", "load_score", "plan_score", "run_score"]


@dataclass(frozen=True, kw_only=True)
class ScoreJob(Settings):
    """The settings of a scoring job. Paths are relative to the working directory."""

    registry_url: str = "${oc.env:BREW360_REGISTRY,runs/registry}"  # store of the model registry
    model: Name = "brew360"  # name of the model in the registry
    version: Name = "production"  # number, or alias; an alias is resolved once, when the batch starts
    context_path: str  # the member context: a file of `brew360 context build`, or redis://host:6379/0
    # The key of the pseudonyms, for a member context of a data set with pseudonyms; requests name members by their ids.
    pseudonyms: PseudonymConfig | None = None
    cache_folder: str = "runs/versions"  # downloaded versions; an existing one is reused
    engine: EngineConfig = field(default_factory=EngineConfig)
    history: dict[str, HistoryPolicy] = field(default_factory=dict)  # replaces the policies of the model, by task
    calibrated: bool = False  # write probabilities that the calibration map of the version has corrected
    batch: BatchConfig = field(default_factory=BatchConfig)


def load_score(recipe: Path | None, overrides: Sequence[str]) -> ScoreJob:
    """Load the settings of a job.

    Args:
        recipe: A YAML file; None: the defaults.
        overrides: `key=value`.

    Raises:
        ConfigError: A setting is unknown, has the wrong type, or is missing.
    """
    return load_config(ScoreJob, *([] if recipe is None else [recipe]), overrides=overrides)


def plan_score(job: ScoreJob, source: Path, out: Path) -> BatchPlan:
    """Create the plan of the batch in `out`, or read the plan of an interrupted batch.

    All checks run here, before Ray starts.

    Args:
        job: The settings.
        source: A Parquet file or folder of requests.
        out: The folder of the scores.

    Returns:
        The plan. It is also stored in `out`.

    Raises:
        UserError: The requests, the context or the folder are not valid, or the folder contains another batch.
        RegistryError: The version does not exist.
    """
    from brew_serve.context.location import check_context, public_location

    begun = BatchPlan.read(out)
    registry = Registry(open_store(job.registry_url), job.model)
    keep = begun is not None and not job.version.isdecimal()
    number = begun.version if begun is not None and keep else registry.resolve(job.version)
    scoring = {name: asdict(job.engine)[name] for name in ("max_model_len", "dtype", "quantization", "rope")}
    if job.history:
        scoring["history"] = {task: asdict(policy) for task, policy in job.history.items()}
    if job.calibrated:
        scoring["calibrated"] = True
    context = public_location(job.context_path)
    plan = BatchPlan.of(source, model=job.model, version=number, engine=scoring, context=context, rows=job.batch.rows)
    check_context(job.context_path, None if job.pseudonyms is None else job.pseudonyms.open())
    plan.begin(out)
    return plan


def run_score(job: ScoreJob, plan: BatchPlan, out: Path, console: PlainConsole) -> None:
    """Score the missing parts of a batch, and show the progress.

    Raises:
        BrewError: A step failed. The same command continues the batch.
    """
    from brew_cluster.jobs.disk_space import require_space
    from brew_cluster.ray.local_ray import any_ray
    from brew_serve.batch.part_scoring import score_parts

    registry = Registry(open_store(job.registry_url), job.model)
    holder = f"brew360 score --out {out}"  # another host may continue the batch, and download the version again
    with plan.locked(out), registry.holds.hold(holder, versions=[plan.version], required=False):
        folder = registry.fetch(plan.version, Path(job.cache_folder).absolute())
        missing = plan.missing(out)
        rows, left = sum(part.rows for part in plan.parts()), sum(part.rows for part in missing)
        if left < rows:
            console.print(f"{rows - left:,} of {rows:,} rows are already scored; continuing.")
        if missing:
            version = load_version(folder, job.engine, job.history)  # what does not fit is found before Ray starts
            if job.calibrated and version.calibration is None:
                raise UserError(
                    f"version {plan.version} has no calibration map, so it has no calibrated probabilities. Score with "
                    f"calibrated=false into another folder, or with a version that has a map."
                )
            require_space(out)
            done = rows - left
            with (
                any_ray(detached=False, logs=out / "_logs" / "ray"),
                Phases(["score"], console=console).phase("score", total=rows, unit="rows") as progress,
            ):
                progress.update(done)

                def on_part(scored: int) -> None:
                    nonlocal done
                    done += scored
                    progress.update(done)

                context = job.context_path if "://" in job.context_path else str(Path(job.context_path).absolute())
                score_parts(
                    plan,
                    missing,
                    out.absolute(),
                    folder,
                    job.engine,
                    context,
                    job.batch,
                    history=job.history,
                    pseudonyms=job.pseudonyms and job.pseudonyms.absolute(),
                    calibrated=job.calibrated,
                    on_part=on_part,
                )
        totals = plan.finish(out)
    without = f"; {totals.failed:,} have no score, and their column `error` says why" if totals.failed else ""
    console.print(
        f"version {plan.version} scored {totals.candidates:,} candidates of {totals.rows:,} rows{without}: {out}"
    )
    if totals.abandoned:
        console.print(
            f"{totals.abandoned:,} candidates are of requests that ended the engine; the batch went on without them."
        )
