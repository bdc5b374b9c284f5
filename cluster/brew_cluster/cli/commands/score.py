"""`brew360 score`: batch scoring."""

from pathlib import Path
from typing import Annotated

import typer

from brew_cluster.cli.runner import log_to, supervise
from brew_platform.console.plain_console import PlainConsole

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command()(score)


def score(
    requests: Annotated[Path, typer.Argument(help="Parquet file or folder of requests: task, member_id, candidates.")],
    out: Annotated[Path, typer.Argument(help="Folder of the scores; the same folder again continues the batch.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="Settings, e.g. context_path=runs/demo/context.sqlite", metavar="[KEY=VALUE]..."),
    ] = None,
    recipe: Annotated[Path | None, typer.Option(help="YAML file of settings.")] = None,
) -> None:
    """Score a batch of requests with a model version from the registry, or continue an interrupted batch.

        brew360 score requests.parquet runs/scores context_path=runs/demo/context.sqlite

    Requests that are already scored are skipped. docs/clients.md lists the columns of the requests and of the scores.
    """
    console = PlainConsole()
    with supervise(console):
        from brew_cluster.jobs.score import load_score, plan_score, run_score

        job = load_score(recipe, overrides or [])
        plan = plan_score(job, requests, out)
        with log_to(out / "_logs" / "score.log"):
            run_score(job, plan, out, console)
