"""`brew360 study`: what a setting of data, training or prompts changes, as a table and a plot with intervals."""

from pathlib import Path
from typing import Annotated

import typer

from brew_cluster.cli.commands.release import Address, Gateway, Gpus, StepsFolder, step_runner
from brew_cluster.cli.runner import log_to, report_errors, supervise
from brew_platform.console.plain_console import PlainConsole

__all__ = ["register"]

DEFAULT_ROOT, DEFAULT_STEPS = Path("runs/studies"), Path("runs/releases/steps")
Folder = Annotated[Path, typer.Argument(help="Folder of a study.")]


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    group = typer.Typer(help="Measure what a setting changes: scaling laws, ablations, probes.", no_args_is_help=True)
    group.command("list")(list_studies)
    for command in (run, plot):
        group.command(command.__name__)(command)
    app.add_typer(group, name="study")


def list_studies() -> None:
    """List the studies that ship."""
    console = PlainConsole()
    with report_errors(console):
        from brew_cluster.cli.views.table import add_row, make_table
        from brew_cluster.jobs.study_config import shipped_studies

        table = make_table("study", "question", "versions", "paper")
        for name, study in shipped_studies().items():
            versions = f"{len(study.sweep.releases)} releases" if study.sweep else "models=..."
            add_row(table, name, study.config.question, versions, study.config.paper)
        console.print(table)


def run(
    recipe: Annotated[str, typer.Argument(help="YAML file of a study, or the name of one that ships.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            help="Settings of the study or of its releases, e.g. benchmark.rows=100", metavar="[KEY=VALUE]..."
        ),
    ] = None,
    folder: Annotated[Path | None, typer.Option(help="Folder of the study. Default: runs/studies/NAME.")] = None,
    steps: StepsFolder = DEFAULT_STEPS,
    at_once: Annotated[int, typer.Option(min=1, help="Releases that run at the same time.")] = 1,
    address: Address = None,
    gateway: Gateway = None,
    gpus: Gpus = 0,
    check: Annotated[
        bool, typer.Option("--check", help="Check the recipe, list its releases, and run nothing.")
    ] = False,
) -> None:
    """Run a study, and write its table (table.csv, table.md) and its plot (plot.svg).

        brew360 study run history_length

        brew360 study run needle data=data/movielens models={base: runs/sft/export}

    The releases of a study are a sweep: steps that have finished are not run again, and the same command continues a
    study that was interrupted.
    """
    console = PlainConsole()
    with supervise(console):
        from brew_cluster.jobs.study import plan_study, run_study
        from brew_cluster.jobs.study_config import read_study

        study = read_study(recipe, overrides or [])
        root = folder or DEFAULT_ROOT / study.config.name
        releases = plan_study(study, root, steps)
        if check:
            for release in releases:
                console.print(f"{release.recipe.name}: {', '.join(step.name for step in release.steps)}")
            return
        with log_to(root / "logs" / "study.log"):
            run_study(study, releases, root, step_runner(address, gateway, gpus, steps), console, at_once=at_once)


def plot(
    folder: Folder,
    settings: Annotated[
        list[str] | None, typer.Argument(help="Settings of the plot, e.g. log=false", metavar="[KEY=VALUE]...")
    ] = None,
) -> None:
    """Draw the plot of a study again, from its table.

    brew360 study plot runs/studies/history_length log=false
    """
    console = PlainConsole()
    with report_errors(console):
        from brew_cluster.jobs.study import redraw

        console.print(str(redraw(folder, settings or [])))
