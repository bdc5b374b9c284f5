"""The `brew360` command: what ML teams type, and where the commands around the service are added.

Owns: the demo, data, training and export. Does not own: commands around the service (`service_commands`), or how a
command ends (`command`).
"""

import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from brew_cluster.cli.command import logged, one_sentence
from brew_cluster.cli.service_commands import keys_app, rank, score, serve_app
from brew_platform.console.logging import PipeSafeConsole
from brew_platform.errors import UserError

__all__ = ["app", "main"]

app = typer.Typer(
    name="brew360",
    help="One language model ranks for every surface: data, training, registry and serving on one Ray cluster.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


@app.callback()
def _brew360() -> None:
    """Every command prints progress to the terminal and a full log to its run folder."""


@app.command()
def demo(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="Settings of the recipe, e.g. train.stages.1.steps=50", metavar="[KEY=VALUE]..."),
    ] = None,
    source: Annotated[
        str, typer.Option(help="synthetic (a small economic graph) or movielens (real data).")
    ] = "synthetic",
    path: Annotated[Path | None, typer.Option(help="Folder of the input files; movielens needs it.")] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the service up, and print a curl line for it.")] = False,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the HTTP service.")] = 8000,
    run_dir: Annotated[Path | None, typer.Option(help="Folder of this run. Default: runs/<source>-<time>.")] = None,
    registry: Annotated[str, typer.Option(help="Registry that the version is published to.")] = "runs/registry",
    report: Annotated[Path | None, typer.Option(help="Where report.json goes. Default: the run's folder.")] = None,
) -> None:
    """Run the whole road: tables, prompts, bins, training, benchmark, registry, and ranking over HTTP.

    Takes about 10 minutes on two cores with the synthetic graph, and up to 20 with MovieLens:

        brew360 demo

        brew360 demo --source movielens --path ml-100k
    """
    console = PipeSafeConsole()
    run = run_dir or Path("runs") / f"{source}-{time.strftime('%Y%m%d-%H%M%S')}"
    with one_sentence(console, keep_children=keep):
        from brew_cluster.jobs.demo_config import load_recipe

        config = load_recipe(source, overrides or [])
        if run.exists() and any(run.iterdir()):
            raise UserError(f"{run} holds an earlier run: choose another --run-dir, or remove that folder.")
        from brew_cluster.ray.local_ray import refuse_running_ray
        from brew_platform.ports import require_free_port

        require_free_port(port)
        refuse_running_ray()
        from brew_cluster.jobs.demo import (  # seconds of imports, for which a refusal need not wait
            DemoOptions,
            run_demo,
        )

        with logged(run / "logs" / "demo.log"):
            options = DemoOptions(
                run=run.absolute(),
                registry=registry if "://" in registry else str(Path(registry).absolute()),
                report=report or run / "report.json",
                port=port,
                path=path,
                keep=keep,
            )
            run_demo(config, options, console)


@app.command()
def data(
    out: Annotated[Path, typer.Argument(help="Folder to make; it must not hold anything yet.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="Settings of the recipe, e.g. vocabulary_size=4000", metavar="[KEY=VALUE]..."),
    ] = None,
    source: Annotated[
        str, typer.Option(help="synthetic (a small economic graph) or movielens (real data).")
    ] = "synthetic",
    path: Annotated[Path | None, typer.Option(help="Folder of the input files; movielens needs it.")] = None,
    pairs: Annotated[int, typer.Option(min=0, help="Preference pairs to make, for DPO and ORPO.")] = 2_000,
) -> None:
    """Make what `brew360 train` reads: tables, a tokenizer, packed bins, and preference pairs.

    brew360 data data/synthetic
    """
    console = PipeSafeConsole()
    with one_sentence(console):
        from brew_cluster.jobs.dataset import make_dataset
        from brew_cluster.jobs.demo_config import load_recipe

        config = load_recipe(source, overrides or [])
        if out.exists() and any(out.iterdir()):
            raise UserError(f"{out} is not empty: choose another folder, or remove that one.")
        with logged(out / "logs" / "data.log"):
            make_dataset(config, out.absolute(), console, path=path, pairs=pairs)


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="A YAML file, or a recipe that ships: cpt, ift, sft, mixtral_8x22b.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="Settings, e.g. run=runs/a train.stages.0.steps=500", metavar="[KEY=VALUE]..."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Build and shard on no device at all; print memory and communication.")
    ] = False,
    gpus: Annotated[int, typer.Option(min=1, help="GPUs of the dry run.")] = 256,
    relaunches: Annotated[
        int, typer.Option(min=0, help="Times that a lost driver is started again without progress between.")
    ] = 3,
    driver: Annotated[bool, typer.Option("--driver", hidden=True)] = False,
) -> None:
    """Train a model, or go on with a run: the same command with the same run folder continues it.

        brew360 data data/synthetic

        brew360 train cpt run=runs/cpt

        brew360 train ift run=runs/ift

        brew360 train sft run=runs/sft

        brew360 train mixtral_8x22b --dry-run --gpus 256

    Watch a run with `tensorboard --logdir runs/cpt/tensorboard`. `touch runs/cpt/checkpoint-now` commits at once.
    """
    console = PipeSafeConsole()
    with one_sentence(console, relaunched=driver):
        from brew_cluster.jobs.train import dry_run_job, load_job, relaunch_job, run_job

        job = load_job(recipe, overrides or [])
        if dry_run:
            dry_run_job(job, gpus, console)
            return
        job.require_run()
        if driver:
            with logged(Path(job.run) / "logs" / "train.log"):
                run_job(job, console)
            return
        code = relaunch_job(job, recipe, overrides or [], most=relaunches, console=console)
    if code:
        sys.exit(code)


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="Folder of a training run; it may be running.")],
    out: Annotated[Path, typer.Argument(help="Folder to write: safetensors that transformers and vLLM load.")],
) -> None:
    """Export the averaged weights of a run's newest checkpoint, also while it trains.

    brew360 export runs/cpt runs/cpt-now
    """
    console = PipeSafeConsole()
    with one_sentence(console):
        from brew_cluster.jobs.train import export_run

        folder = export_run(run, out)
        console.print(f"exported step {folder} to {out}", soft_wrap=True)


app.command()(score)
app.add_typer(serve_app, name="serve")
app.command()(rank)
app.add_typer(keys_app, name="keys")


def main() -> None:
    """Entry point of the `brew360` command."""
    app()
