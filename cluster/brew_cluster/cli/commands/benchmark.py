"""`brew360 benchmark`: the figures of a model on the rows after the cut."""

from pathlib import Path
from typing import Annotated

import typer

from brew_cluster.cli.registry_options import RegistryName, RegistryUrl
from brew_cluster.cli.runner import log_to, supervise
from brew_platform.console.plain_console import PlainConsole

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command()(benchmark)


def benchmark(
    model: Annotated[
        str, typer.Argument(help="registry:NUMBER, registry:ALIAS, or the folder of an export or of a base model.")
    ],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Settings, e.g. engine.threads=1", metavar="[KEY=VALUE]...")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Data folder, from `brew360 data build`.")] = None,
    task: Annotated[list[str] | None, typer.Option(help="Task to score; may be repeated. Default: all tasks.")] = None,
    rows: Annotated[int | None, typer.Option(min=1, help="Number of rows to draw. Default: all after the cut.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of the draw. Default: 0.")] = None,
    report: Annotated[
        Path | None, typer.Option(help="Path of the report. Default: in runs/benchmark, named after model and data.")
    ] = None,
    registry: RegistryUrl = None,
    name: RegistryName = None,
    recipe: Annotated[Path | None, typer.Option(help="YAML file of settings.")] = None,
) -> None:
    """Measure a model on the rows of a data folder after its cut: AUC and log loss of each task, beside popularity.

        brew360 benchmark runs/sft/export --data data/synthetic

        brew360 benchmark registry:production --data data/synthetic --rows 2000 --seed 0 --report sample.json

        brew360 benchmark models/gemma-3-270m --data data/movielens

    `brew360 registry publish` reads the report. An interrupted benchmark continues when the same command runs again.
    The table goes to the standard output, progress to the standard error.
    """
    console = PlainConsole()
    with supervise(console):
        from brew_cluster.jobs.benchmark import load_benchmark, open_model, report_path, run_benchmark
        from brew_data.data_folder import DataFolder
        from brew_platform.errors import UserError

        options = {"rows": rows, "seed": seed, "tasks": task or None, "registry_url": registry, "model": name}
        options["data"] = None if data is None else str(data)
        job = load_benchmark(recipe, options, overrides or [])
        if not job.data:
            raise UserError("the benchmark needs data. Pass --data FOLDER, a folder that `brew360 data build` wrote.")
        folder = DataFolder.open(Path(job.data))
        found = open_model(model, job)
        with log_to(Path(job.run) / "logs" / "benchmark.log"):
            path = report or report_path(job, found)
            run_benchmark(job, found, folder, path, console, PlainConsole(stderr=True))
