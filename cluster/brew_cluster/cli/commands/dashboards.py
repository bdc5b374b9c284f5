"""`brew360 dashboards`: rules and alerts for Prometheus, and dashboards for Grafana."""

from typing import Annotated

import typer

from brew_cluster.cli.runner import report_errors, supervise
from brew_platform.console.plain_console import PlainConsole

__all__ = ["register"]

Settings = Annotated[
    list[str] | None,
    typer.Argument(
        help="A YAML file; then settings, e.g. service=http://127.0.0.1:8000 key_file=keys/admin ray=[10.0.0.4:8080]",
        metavar="[FILE] [KEY=VALUE]...",
    ),
]


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    group = typer.Typer(help="Start, render and check Prometheus rules and Grafana dashboards.", no_args_is_help=True)
    for command in (up, render, check):
        group.command()(command)
    app.add_typer(group, name="dashboards")


def up(
    settings: Settings = None,
    install: Annotated[
        bool, typer.Option("--install", help="Unpack Debian's package of Prometheus into ~/.cache if it is missing.")
    ] = False,
) -> None:
    """Run Prometheus, and Grafana if it is on the PATH, on this machine until Ctrl-C.

        brew360 dashboards up --install

        brew360 dashboards up service=https://brew360.example.com key_file=keys/admin

    Without Grafana, Prometheus shows all panels on one page. cluster/brew_cluster/recipes/dashboards.yaml lists the
    settings.
    """
    console = PlainConsole()
    with supervise(console):
        from brew_cluster.dashboards.config import load_dashboards
        from brew_cluster.dashboards.session import run_dashboards

        run_dashboards(load_dashboards(settings or []), console, install=install)


def render(settings: Settings = None) -> None:
    """Write the files of Prometheus and Grafana, for a Prometheus and a Grafana that you run.

    brew360 dashboards render folder=deploy/dashboards service=https://brew360.example.com
    """
    console = PlainConsole()
    with report_errors(console):
        from brew_cluster.dashboards.config import load_dashboards
        from brew_cluster.dashboards.render import write_dashboards

        for path in write_dashboards(load_dashboards(settings or [])):
            console.print(str(path))


def check(
    settings: Settings = None,
    prometheus: Annotated[
        str | None, typer.Option(help="URL of a Prometheus: run every query of the dashboards there.")
    ] = None,
) -> None:
    """Check the files with promtool, and list the panels that have no data.

    brew360 dashboards check

    brew360 dashboards check --prometheus http://127.0.0.1:9090
    """
    console = PlainConsole()
    with report_errors(console):
        from brew_cluster.dashboards.config import load_dashboards
        from brew_cluster.dashboards.session import check_dashboards

        check_dashboards(load_dashboards(settings or []), console, prometheus=prometheus)
