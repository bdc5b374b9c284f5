"""`brew360 serve up`, `status` and `down`: the ranking service."""

from typing import Annotated

import typer

from brew_cluster.cli.client_options import DEFAULT_URL, KeyFile, Url, open_client
from brew_cluster.cli.json_option import AsJson, print_json
from brew_cluster.cli.runner import log_to, report_errors, supervise
from brew_platform.console.plain_console import PlainConsole

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    group = typer.Typer(help="Start, inspect and stop the ranking service.", no_args_is_help=True)
    group.command()(up)
    group.command()(status)
    group.command()(down)
    app.add_typer(group, name="serve")


def up(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            help="A YAML file or a shipped recipe (h100); then settings, e.g. port=8100 "
            "context_path=runs/a/context.sqlite",
            metavar="[RECIPE] [KEY=VALUE]...",
        ),
    ] = None,
    foreground: Annotated[
        bool, typer.Option("--foreground", help="Stay in the foreground; Ctrl-C or SIGTERM stops the service.")
    ] = False,
) -> None:
    """Serve the registry's `production` version, on this machine's Ray or on the cluster that RAY_ADDRESS names.

        brew360 serve up

        brew360 serve up port=8100 context_path=runs/demo/context.sqlite

        brew360 serve up service.yaml middleware.keys_path=keys.yaml host=0.0.0.0

    cluster/brew_cluster/recipes/serve.yaml lists the settings.
    """
    console = PlainConsole()
    with supervise(console, keep_children=not foreground):
        from brew_cluster.jobs.serve import log_of, run_serve
        from brew_cluster.jobs.serve_job import load_serve

        job = load_serve(arguments or [])
        with log_to(log_of(job)):
            run_serve(job, console, foreground=foreground)


def status(url: Url = DEFAULT_URL, key_file: KeyFile = None, as_json: AsJson = False) -> None:
    """Show which versions serve, in which role, on how many replicas, and whether the service is ready.

    brew360 serve status
    """
    console = PlainConsole()
    with report_errors(console):
        from brew_cluster.cli.views.service import show_status
        from brew_platform.errors import BrewError

        with open_client(url, key_file) as client:
            fleet = client.status()
            if as_json:
                print_json(fleet.model_dump(mode="json"))
                return
            try:
                client.ready()
                ready = "takes requests"
            except BrewError as error:
                ready = f"takes no requests now ({error})"
        show_status(console, fleet, ready)


def down() -> None:
    """Stop the service that `brew360 serve up` or `brew360 demo --keep` left running, and the Ray they started.

    brew360 serve down

    On a cluster (RAY_ADDRESS), the service's applications are deleted; the cluster and other applications keep running.
    """
    console = PlainConsole()
    with supervise(console):
        from brew_cluster.jobs.serve import stop_serve

        stop_serve(console)
