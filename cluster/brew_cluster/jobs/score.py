"""A batch as a user describes it: which requests, which version, which folder; and its run, top to bottom.

Holds the settings, and the order of a run on this machine's Ray or a given cluster.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.console import Console

from brew_platform.config import load_config
from brew_platform.console.progress import Phases
from brew_platform.registry.registry import Registry
from brew_platform.storage.base import open_store
from brew_serve.batch.config import BatchConfig
from brew_serve.batch.plan import BatchPlan
from brew_serve.engines.config import EngineConfig

__all__ = ["ScoreJob", "load_score", "plan_score", "run_score"]


@dataclass(frozen=True, kw_only=True)
class ScoreJob:
    """How a batch is scored. Paths are relative to the folder that the command runs in."""

    registry_url: str = "runs/registry"  # store of the model registry
    model: str = "brew360"  # its name there
    version: str = "production"  # alias, resolved when a batch is begun and then kept; or a number
    context_path: str  # file of a member context: profiles, histories and candidates by id
    cache_folder: str = "runs/versions"  # fetched versions; one that is there is not fetched again
    engine: EngineConfig = field(default_factory=EngineConfig)
    batch: BatchConfig = field(default_factory=BatchConfig)


def load_score(recipe: Path | None, overrides: Sequence[str]) -> ScoreJob:
    """The job of a recipe, or of the defaults, with `key=value`.

    Raises:
        ConfigError: a setting is unknown, of the wrong type or missing.
    """
    return load_config(ScoreJob, *([] if recipe is None else [recipe]), overrides=overrides)


def plan_score(job: ScoreJob, source: Path, out: Path) -> BatchPlan:
    """The plan of the batch in `out`, begun now or earlier; everything that can be wrong without Ray is found here.

    Raises:
        UserError: the requests, the context or the folder cannot be used, or the folder holds another batch.
        RegistryError: there is no such version.
    """
    from brew_serve.context.base import MemberContext

    begun = BatchPlan.read(out)
    registry = Registry(open_store(job.registry_url), job.model)
    keep = begun is not None and not job.version.isdecimal()
    number = begun.version if begun is not None and keep else registry.resolve(job.version)
    scoring = {name: asdict(job.engine)[name] for name in ("max_model_len", "dtype", "quantization", "rope")}
    plan = BatchPlan.of(source, model=job.model, version=number, engine=scoring, rows=job.batch.rows)
    MemberContext(Path(job.context_path)).close()
    plan.begin(out)
    return plan


def run_score(job: ScoreJob, plan: BatchPlan, out: Path, console: Console) -> None:
    """Scores what is missing in `out`, and shows how far it is.

    Raises:
        BrewError: one clear sentence about what failed; the same command goes on with the batch.
    """
    from brew_cluster.jobs.disk_space import require_space
    from brew_cluster.ray.local_ray import any_ray
    from brew_serve.batch.part_scoring import score_parts

    registry = Registry(open_store(job.registry_url), job.model)
    folder = registry.fetch(plan.version, Path(job.cache_folder).absolute())
    missing = plan.missing(out)
    rows, left = sum(part.rows for part in plan.parts()), sum(part.rows for part in missing)
    if left < rows:
        console.print(f"{rows - left:,} of {rows:,} rows were scored before; going on.", soft_wrap=True)
    if missing:
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

            score_parts(
                plan,
                missing,
                out.absolute(),
                folder,
                job.engine,
                Path(job.context_path).absolute(),
                job.batch,
                on_part=on_part,
            )
    totals = plan.finish(out)
    without = f"; {totals.failed:,} have no score, and their column `error` says why" if totals.failed else ""
    console.print(
        f"version {plan.version} scored {totals.candidates:,} candidates of {totals.rows:,} rows{without}: {out}",
        soft_wrap=True,
        markup=False,
    )
