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
    out: Annotated[Path, typer.Option(help="SQLite file to write; an existing file is replaced.")] = Path(
        "context.sqlite"
    ),
    until: Annotated[
        str, typer.Option(help="Last interaction: all, or train-cut for what training saw.", metavar="[all|train-cut]")
    ] = "all",
) -> None:
    """Write the profiles, histories and entities of a data folder to a file that services and batches read.

        brew360 context build --data data/synthetic --out runs/context.sqlite

        brew360 serve up context_path=runs/context.sqlite

    With --until train-cut, histories end where training ended, for a benchmark over HTTP.
    """
    console = PlainConsole()
    with report_errors(console):
        from brew_cluster.jobs.context import build_context
        from brew_data.data_folder import DataFolder

        tables = build_context(DataFolder.open(data), out, until=until)
        console.print(
            f"{out}: {tables.members.num_rows:,} members, {tables.entities.num_rows:,} entities, "
            f"{tables.interactions.num_rows:,} interactions"
        )
