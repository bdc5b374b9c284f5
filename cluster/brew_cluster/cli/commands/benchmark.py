"""`brew360 benchmark`: the figures of a model on the rows after the cut, beside baselines and other models."""

from pathlib import Path
from typing import Annotated

import typer

from brew_cluster.cli.benchmark_options import Data, Model, Overrides, Protocol, Recipe
from brew_cluster.cli.commands import benchmark_explain, benchmark_online
from brew_cluster.cli.json_option import AsJson, print_json
from brew_cluster.cli.registry_options import RegistryName, RegistryUrl
from brew_cluster.cli.runner import log_to, report_errors, supervise
from brew_platform.console.plain_console import PlainConsole

__all__ = ["register"]

Rows = Annotated[Path, typer.Argument(help="Report (JSON) or scored rows (Parquet) of `brew360 benchmark run`.")]


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    group = typer.Typer(
        help="Measure models on rows after the cut, compare them, and explain scores.", no_args_is_help=True
    )
    for command in (run, compare):
        group.command(command.__name__)(command)
    benchmark_explain.register(group)
    benchmark_online.register(group)
    app.add_typer(group, name="benchmark")


def run(
    model: Model,
    overrides: Overrides = None,
    data: Data = None,
    task: Annotated[list[str] | None, typer.Option(help="Task to score; may be repeated. Default: all tasks.")] = None,
    rows: Annotated[
        str | None, typer.Option(help="Number of rows of each task to draw, or `all` after the cut. Default: 1000.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of the draw. Default: 0.")] = None,
    baselines: Annotated[
        str | None,
        typer.Option(help="Names with commas, or `none`. Default: popularity,entity_mean,biases,facts."),
    ] = None,
    history: Protocol = None,
    fit_calibration: Annotated[
        bool | None,
        typer.Option("--fit-calibration", help="Fit a calibration map on the rows of the gap before the benchmark."),
    ] = None,
    report: Annotated[
        Path | None, typer.Option(help="Path of the report. Default: in runs/benchmark, named after model and data.")
    ] = None,
    registry: RegistryUrl = None,
    name: RegistryName = None,
    recipe: Recipe = None,
) -> None:
    """Measure a model on the rows of a data folder after its cut, beside baselines that are fitted on the rows before.

        brew360 benchmark run runs/sft/export --data data/synthetic

        brew360 benchmark run registry:production --data data/synthetic --rows 200 --seed 0 --report sample.json

        brew360 benchmark run models/gemma-3-270m --data data/movielens --baselines entity_mean,lightgbm

    Writes the report (JSON, Markdown and HTML) and the scored rows (Parquet). `brew360 registry publish` reads the
    report. An interrupted benchmark continues when the same command runs again. The table goes to the standard output,
    progress to the standard error.
    """
    console = PlainConsole()
    with supervise(console):
        from brew_cluster.jobs.benchmark import load_benchmark, open_data, open_model, report_path, run_benchmark

        options = {"seed": seed, "tasks": task or None, "protocol": history, "fit_calibration": fit_calibration}
        options |= {"registry_url": registry, "model": name, "data": None if data is None else str(data)}
        if baselines is not None:
            options["baselines"] = [] if baselines == "none" else baselines.split(",")
        settings = list(overrides or [])
        if rows is not None:
            settings.insert(0, f"rows={'null' if rows == 'all' else rows}")
        job = load_benchmark(recipe, options, settings)
        folder = open_data(job)
        found = open_model(model, job)
        with log_to(Path(job.run) / "logs" / "benchmark.log"):
            path = report or report_path(job, found)
            run_benchmark(job, found, folder, path, console, PlainConsole(stderr=True))


def compare(
    a: Rows,
    b: Rows,
    task: Annotated[list[str] | None, typer.Option(help="Task to compare; may be repeated. Default: all.")] = None,
    replicates: Annotated[int, typer.Option(min=1, max=100_000, help="Of the bootstrap.")] = 1_000,
    report: Annotated[
        Path | None, typer.Option(help="JSON file that also receives the comparison, with .md and .html beside it.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compare two models that were scored on the same rows: differences of figures, with paired intervals.

        brew360 benchmark compare runs/7/report.json runs/6/report.json --report runs/7/against-6.json

    `brew360 registry publish --comparison` reads the JSON file.
    """
    console = PlainConsole()
    with report_errors(console):
        import json

        from brew_cluster.cli.views.benchmark import show_comparison
        from brew_cluster.jobs.benchmark_report import read_rows
        from brew_eval.compare import compare as compare_rows
        from brew_eval.measurement import EvaluationConfig
        from brew_eval.report.files import require_json_path, write_comparison

        if report is not None:
            require_json_path(report)
        comparison = compare_rows(
            read_rows(a), read_rows(b), EvaluationConfig(replicates=replicates), tasks=task or None
        )
        if report is not None:
            write_comparison(comparison, report)
        if as_json:
            print_json(json.loads(comparison.to_json()))
            return
        show_comparison(console, comparison)
        if report is not None:
            console.print(f"report: {report} (also .md and .html)")
