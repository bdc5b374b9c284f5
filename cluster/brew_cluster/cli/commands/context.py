"""`brew360 context build`: what a service needs for members and candidates that requests name by id."""

from pathlib import Path
from typing import Annotated

import typer

from brew_cluster.cli.runner import report_errors
from brew_platform.console.plain_console import PlainConsole

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    group = typer.Typer(help="Build the member context of a service.", no_args_is_help=True)

    @group.callback()
    def _context() -> None:
        """Build the member context of a service."""

    group.command()(build)
    app.add_typer(group, name="context")


def build(
    data: Annotated[Path, typer.Option(help="Data folder, from `brew360 data build`.")],
    out: Annotated[
        str, typer.Option(help="SQLite file to write, or redis://host:6379/0; an existing context is replaced.")
    ] = "context.sqlite",
    until: Annotated[
        str, typer.Option(help="Last interaction: all, or train-cut for what training saw.", metavar="[all|train-cut]")
    ] = "all",
) -> None:
    """Write the profiles, histories and entities of a data folder to a file, or a Redis, for services and batches.

        brew360 context build --data data/synthetic --out runs/context.sqlite

        brew360 serve up context_path=runs/context.sqlite

    With --until train-cut, histories end where training ended, for a benchmark over HTTP.
    """
    console = PlainConsole()
    with report_errors(console):
        from brew_cluster.jobs.context import build_context
        from brew_data.data_folder import DataFolder
        from brew_serve.context.location import public_location

        tables = build_context(DataFolder.open(data), out, until=until)
        name = public_location(out) if "://" in out else out
        console.print(
            f"{name}: {tables.members.num_rows:,} members, {tables.entities.num_rows:,} entities, "
            f"{tables.interactions.num_rows:,} interactions"
        )
