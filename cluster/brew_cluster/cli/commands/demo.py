"""`brew360 demo`: the end-to-end pipeline on one machine."""

import time
from pathlib import Path
from typing import Annotated

import typer

from brew_cluster.cli.runner import log_to, supervise
from brew_data.sources.base import source_names
from brew_platform.console.plain_console import PlainConsole
from brew_platform.errors import UserError

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command()(demo)


def demo(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="Settings of the recipe, e.g. train.stages.1.steps=50", metavar="[KEY=VALUE]..."),
    ] = None,
    source: Annotated[
        str, typer.Option(help=f"Source of the tables; installed are {', '.join(source_names())}.")
    ] = "synthetic",
    path: Annotated[Path | None, typer.Option(help="Input files, for a source that reads some.")] = None,
    recipe: Annotated[
        Path | None, typer.Option(help="YAML file of settings. Default: the recipe of the source.")
    ] = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave the service running and print a curl line for it.")
    ] = False,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the HTTP service.")] = 8000,
    run_dir: Annotated[Path | None, typer.Option(help="Folder of this run. Default: runs/<source>-<time>.")] = None,
    registry: Annotated[str, typer.Option(help="Registry that the version is published to.")] = "runs/registry",
    report: Annotated[Path | None, typer.Option(help="Path of report.json. Default: in the run folder.")] = None,
) -> None:
    """Run the end-to-end pipeline: tables, prompts, bins, training, benchmark, registry, and ranking over HTTP.

    Takes about 10 minutes on two cores with the synthetic graph, and up to 20 with MovieLens:

        brew360 demo

        brew360 demo --source movielens --path ml-100k
    """
    console = PlainConsole()
    run = run_dir or Path("runs") / f"{source}-{time.strftime('%Y%m%d-%H%M%S')}"
    with supervise(console, keep_children=keep):
        from brew_cluster.jobs.demo_config import load_recipe

        config = load_recipe(source, overrides or [], recipe=recipe, input_path=path)
        if run.exists() and any(run.iterdir()):
            raise UserError(f"{run} holds an earlier run: choose another --run-dir, or remove that folder.")
        from brew_cluster.ray.local_ray import refuse_running_ray
        from brew_platform.ports import require_free_port

        require_free_port(port)
        refuse_running_ray()
        from brew_cluster.jobs.demo import DemoOptions, run_demo  # takes seconds to import; after the quick checks

        with log_to(run / "logs" / "demo.log"):
            options = DemoOptions(
                run=run.absolute(),
                registry=registry if "://" in registry else str(Path(registry).absolute()),
                report=report or run / "report.json",
                port=port,
                keep=keep,
            )
            run_demo(config, options, console)
