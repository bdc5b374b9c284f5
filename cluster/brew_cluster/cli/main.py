"""The `brew360` command: the list of its commands, each in a module of brew_cluster.cli.commands."""

import typer

from brew_cluster.cli.commands import (
    benchmark,
    cluster,
    context,
    dashboards,
    data,
    demo,
    export,
    jobs,
    keys,
    rank,
    registry,
    release,
    score,
    serve,
    store,
    study,
    submit,
    train,
)

__all__ = ["COMMANDS", "app", "main"]

# `brew360 --help` lists commands in this order, then groups of commands
COMMANDS = (
    demo,
    data,
    train,
    export,
    benchmark,
    registry,
    release,
    study,
    submit,
    jobs,
    context,
    serve,
    rank,
    score,
    keys,
    store,
    cluster,
    dashboards,
)

app = typer.Typer(
    name="brew360",
    help="One language model ranks for every surface: data, training, registry and serving on one Ray cluster.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


@app.callback()
def _brew360() -> None:
    """One language model ranks for every surface: data, training, registry and serving on one Ray cluster.

    Each command prints its progress and writes a full log to its run folder. Start with: brew360 demo
    """


for command in COMMANDS:
    command.register(app)


def main() -> None:
    """Entry point of the `brew360` command."""
    app()
