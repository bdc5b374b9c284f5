"""One training job as a user describes it: which data, which run folder, which settings; and its run, top to bottom.

Holds the job's settings, the recipes that ship, and the order of a run on this machine's Ray or a given cluster. Does
not own: training (brew_train) or coming back after this process is lost (brew_cluster.ray.relauncher).
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import ray
import torch
from rich.console import Console

from brew_cluster.cli.views.training import TrainView
from brew_cluster.jobs.disk_space import require_space
from brew_cluster.jobs.recipe import find_recipe
from brew_cluster.ray.local_ray import any_ray
from brew_cluster.ray.relauncher import Decision, relaunch
from brew_data.prompts.bundle import PromptBundle
from brew_platform.config import load_config
from brew_platform.errors import ConfigError, UserError
from brew_train.checkpoints.checkpointer import Checkpointer
from brew_train.checkpoints.export import export
from brew_train.checkpoints.export_template import ExportTemplate
from brew_train.checkpoints.manifest import CHECKPOINTS, peek_checkpoint
from brew_train.config import ModelShape, TrainConfig
from brew_train.diagnostics.dry_run import dry_run
from brew_train.distributed.context import DistributedContext
from brew_train.loop import BEST, MODEL, TrainResult
from brew_train.ray_launcher import run_on_ray

__all__ = ["TrainJob", "dry_run_job", "export_run", "load_job", "relaunch_job", "run_job"]


@dataclass(kw_only=True)
class TrainJob:
    """A training job. Paths are relative to the folder that the command runs in.

    Raises:
        ConfigError: bins name an unknown stage.
    """

    RENAMED: ClassVar[dict[str, str]] = {"tokenizer": "prompts"}  # `load_config` names the new key in its error

    data: str = ""  # folder that `brew360 data` made; the paths below may refer to it as ${data}
    run: str = ""  # folder of this run; the same folder again continues it
    prompts: str = "${data}/prompts"  # folder of the data's prompts (tokenizer, suite, format); exports contain them
    bins: dict[str, str] = field(default_factory=dict)  # folder of packed bins for each stage, by its name
    evaluation: dict[str, str] = field(default_factory=dict)  # likewise, for stages with evaluate_every
    context_length: int = 512  # tokens that the model reads
    vocabulary_size: int | None = None  # for a dry run without a tokenizer; else the tokenizer's
    train: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        unknown = sorted({*self.bins, *self.evaluation} - {stage.name for stage in self.train.stages})
        if unknown:
            raise ConfigError(
                f"bins are given for {', '.join(unknown)}, but the stages are "
                f"{', '.join(stage.name for stage in self.train.stages)}."
            )

    def require_run(self) -> None:
        """Raises a ConfigError where no run folder is named; a dry run needs none."""
        if not self.run:
            raise ConfigError(
                "run has no value: give the run's folder, as run=runs/NAME; the same folder continues it."
            )


def load_job(recipe: str, overrides: Sequence[str] = ()) -> TrainJob:
    """The job that a recipe describes.

    Args:
        recipe: path of a YAML file, or the name of a recipe that ships: cpt, ift, sft.
        overrides: `key=value`.

    Raises:
        ConfigError: there is no such recipe, or a setting is unknown or of the wrong type.
    """
    return load_config(TrainJob, find_recipe("train", recipe), overrides=overrides)


def run_job(job: TrainJob, console: Console) -> TrainResult:
    """Trains on the Ray that RAY_ADDRESS names, else on one of this machine's own; shows how far it is.

    Raises:
        BrewError: one clear sentence about what failed; the run folder can be continued.
    """
    run = Path(job.run)
    bundle = _load_prompts(job)
    require_space(run)
    with _ray(job, run), TrainView(run, console, stages=job.train.stages) as view:
        result = run_on_ray(
            job.train,
            bins={name: Path(folder) for name, folder in job.bins.items()},
            evaluation={name: Path(folder) for name, folder in job.evaluation.items()},
            out=run,
            shape=ModelShape(vocabulary_size=bundle.tokenizer.vocabulary_size, context_length=job.context_length),
            end_token_ids=(bundle.tokenizer.end, bundle.tokenizer.user),
            on_metrics=view.update,
        )
    for folder in [result.export, *sorted((run / BEST).glob("[!.]*"))]:
        bundle.save(folder)
    view.summary(result)
    return result


def relaunch_job(job: TrainJob, recipe: str, overrides: Sequence[str], *, most: int, console: Console) -> int:
    """Runs `brew360 train` with these arguments as a child, and again when it is lost; returns its exit code."""
    command = [
        sys.executable,
        "-c",
        "from brew_cluster.cli.main import main; main()",
        "train",
        "--driver",
        recipe,
        *overrides,
    ]
    checkpoints = Path(job.run) / CHECKPOINTS

    def progress() -> int:
        newest = peek_checkpoint(checkpoints)
        return newest.step if newest else 0

    def on_loss(code: int, decision: Decision) -> None:
        how = f"was killed by signal {-code}" if code < 0 else f"failed with exit code {code}"
        what = (
            f"starting it again from step {progress():,}"
            if decision.again
            else "giving up; run the same command again once the cause is fixed"
        )
        console.print(f"the training driver {how}: {what}.", style="yellow", soft_wrap=True)

    return relaunch(command, most=most, progress=progress, on_loss=on_loss)


def dry_run_job(job: TrainJob, gpus: int, console: Console) -> None:
    """Prints what the job takes on each of `gpus` GPUs, from the real building and sharding on no device at all.

    Raises:
        UserError: the job cannot run on so many GPUs, or neither a tokenizer nor a vocabulary size is given.
    """
    vocabulary_size = job.vocabulary_size or PromptBundle.load(Path(job.prompts)).tokenizer.vocabulary_size
    shape = ModelShape(vocabulary_size=vocabulary_size, context_length=job.context_length)
    dry_run(job.train, gpus=gpus, shape=shape).render(console)


def export_run(run: Path, out: Path) -> int:
    """Exports the averaged weights of the newest checkpoint in `run`, which may be training, and returns its step.

    Raises:
        UserError: there is no checkpoint yet, or `out` exists.
    """
    if out.exists():
        raise UserError(f"{out} exists: choose another folder, or remove that one.")
    context = DistributedContext(device=torch.device("cpu"))
    checkpoint = Checkpointer(run / CHECKPOINTS, keep=1, context=context).newest()
    if checkpoint is None:
        raise UserError(f"{run} has no complete checkpoint yet: wait for the first, or check the path.")
    export(checkpoint, ExportTemplate.load(run / MODEL), out, context)
    return checkpoint.step


def _load_prompts(job: TrainJob) -> PromptBundle:
    """Load the prompts of the data, and check that all bins and the initial model were made with them."""
    bundle = PromptBundle.load(Path(job.prompts))
    for folder in (*job.bins.values(), *job.evaluation.values()):
        bundle.require_bins(Path(folder))
    if job.train.model.init_from is not None:
        bundle.require_model(Path(job.train.model.init_from))
    return bundle


@contextmanager
def _ray(job: TrainJob, run: Path) -> Iterator[None]:
    with any_ray(detached=False, logs=run / "logs" / "ray") as own:
        cores = int(ray.cluster_resources().get("CPU", 0))
        if own and job.train.workers > cores:
            raise UserError(
                f"train.workers={job.train.workers}, but this machine's Ray has room for {cores} (twice its cores): "
                f"lower train.workers, or set RAY_ADDRESS to a larger cluster."
            )
        yield
