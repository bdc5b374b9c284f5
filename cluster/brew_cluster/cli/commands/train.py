"""`brew360 train`: a training run, or the dry run of one."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from brew_cluster.cli.runner import log_to, supervise
from brew_platform.console.plain_console import PlainConsole

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command()(train)


def train(
    recipe: Annotated[str, typer.Argument(help="A YAML file, or a shipped recipe: cpt, ift, sft, mixtral_8x22b.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="Settings, e.g. run=runs/a train.stages.0.steps=500", metavar="[KEY=VALUE]..."),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Build and shard the model without a device; print memory and communication."),
    ] = False,
    gpus: Annotated[int, typer.Option(min=1, help="GPUs of the dry run.")] = 256,
    relaunches: Annotated[
        int, typer.Option(min=0, help="Restarts of a lost driver, in a row without progress, before the run fails.")
    ] = 3,
    driver: Annotated[bool, typer.Option("--driver", hidden=True)] = False,
) -> None:
    """Train a model, or continue a run: the same command with the same run folder continues it.

        brew360 data build synthetic --out data/synthetic

        brew360 train cpt run=runs/cpt

        brew360 train ift run=runs/ift

        brew360 train sft run=runs/sft

        brew360 train mixtral_8x22b --dry-run --gpus 256

    Watch a run with `tensorboard --logdir runs/cpt/tensorboard`. To write a checkpoint at once, run
    `touch runs/cpt/checkpoint-now`.
    """
    console = PlainConsole()
    with supervise(console, relaunched=driver):
        from brew_cluster.jobs.train import dry_run_job, load_job, relaunch_job, run_job

        job = load_job(recipe, overrides or [])
        if dry_run:
            dry_run_job(job, gpus, console)
            return
        job.require_run()
        if driver:
            with log_to(Path(job.run) / "logs" / "train.log"):
                run_job(job, console)
            return
        code = relaunch_job(job, recipe, overrides or [], most=relaunches, console=console)
    if code:
        sys.exit(code)
