"""`brew360 benchmark explain`: a scored prompt, and what changes without each of its parts."""

from pathlib import Path
from typing import Annotated

import typer

from brew_cluster.cli.benchmark_options import Data, Model, Overrides, Protocol, Recipe
from brew_cluster.cli.json_option import AsJson, print_json
from brew_cluster.cli.registry_options import RegistryName, RegistryUrl
from brew_cluster.cli.runner import log_to, supervise
from brew_platform.console.plain_console import PlainConsole

__all__ = ["register"]

_LARGEST_ID = 2**63 - 1


def register(app: typer.Typer) -> None:
    """Add the command to the group `benchmark`."""
    app.command()(explain)


def explain(
    model: Model,
    overrides: Overrides = None,
    data: Data = None,
    member: Annotated[
        str | None, typer.Option(help="Member of the data. Default: that of --interaction.", show_default=False)
    ] = None,
    task: Annotated[
        str | None, typer.Option(help="Task that scores the row. Default: the first one on its surface.")
    ] = None,
    interaction: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=_LARGEST_ID,
            help="Interaction to predict: a row_id of the scored rows. Default: the member's newest one after the cut.",
        ),
    ] = None,
    row: Annotated[
        int | None,
        typer.Option(min=0, help="Instead of --interaction: the n-th row of the member after the cut, from 0."),
    ] = None,
    history: Protocol = None,
    top: Annotated[int, typer.Option(min=1, help="Number of changes in the table, the largest ones.")] = 20,
    by_log_odds: Annotated[
        bool, typer.Option("--by-log-odds", help="Sort by the change of the log-odds, not of the probability.")
    ] = False,
    report: Annotated[
        Path | None, typer.Option(help="JSON file that also receives the explanation, with .md and .html beside it.")
    ] = None,
    as_json: AsJson = False,
    registry: RegistryUrl = None,
    name: RegistryName = None,
    recipe: Recipe = None,
) -> None:
    """Show a scored prompt with the label probabilities, and what changes without one turn or one field.

        brew360 benchmark explain registry:production --data data/synthetic --member m17

        brew360 benchmark explain runs/sft/export --data data/synthetic --interaction 1234 --task job_apply

        brew360 benchmark explain runs/sft/export --data data/synthetic --member m17 --row 0 --report explained.json

    The prompt and its score are those of `brew360 benchmark run` for the row. Then each past interaction, each field of
    the profile and each field of the candidate is left out in turn. The prompt is compiled again, with the other turns
    unchanged, and scored. The table is sorted by the absolute change of P(positive). JSON and report have all changes.
    """
    console = PlainConsole()
    with supervise(console):
        from brew_cluster.cli.views.explanation import show_explanation
        from brew_cluster.jobs.benchmark import load_benchmark, open_data, open_model
        from brew_cluster.jobs.benchmark_explain import RowChoice, prepare_explanation
        from brew_eval.report.files import require_json_path, write_explanation

        if report is not None:
            require_json_path(report)
        choice = RowChoice(member=member, interaction=interaction, row=row)
        options = {"tasks": None if task is None else [task], "protocol": history, "registry_url": registry}
        options |= {"model": name, "data": None if data is None else str(data)}
        job = load_benchmark(recipe, options, overrides or [])
        folder = open_data(job)
        explainer = prepare_explanation(job, open_model(model, job), folder, choice)
        with log_to(Path(job.run) / "logs" / "explain.log", private=True):  # what precedes may name the member
            explanation = explainer.run(PlainConsole(stderr=True), order="log_odds" if by_log_odds else "probability")
        if report is not None:
            write_explanation(explanation, report)
        if as_json:
            print_json(explanation.document())
            return
        show_explanation(console, explanation, member=explainer.member, top=top)
        if report is not None:
            console.print(f"report: {report} (also .md and .html)")
