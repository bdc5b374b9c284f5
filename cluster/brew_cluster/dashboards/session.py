"""What the commands of `brew360 dashboards` do: run the servers, and check files and queries."""

import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from brew_cluster.dashboards.boards import DASHBOARDS
from brew_cluster.dashboards.check import check_files, query_panels
from brew_cluster.dashboards.config import DashboardsConfig
from brew_cluster.dashboards.programs import (
    find_program,
    grafana_command,
    install_prometheus,
    prometheus_command,
    running,
)
from brew_cluster.dashboards.render import write_dashboards
from brew_platform.console.plain_console import PlainConsole
from brew_platform.errors import BrewError, UserError

__all__ = ["check_dashboards", "run_dashboards"]


def run_dashboards(config: DashboardsConfig, console: PlainConsole, *, install: bool) -> None:
    """Run Prometheus, and Grafana if it is there, until a server ends or the command is interrupted.

    Raises:
        UserError: Prometheus is not installed, or a port is in use.
        BrewError: A server did not start, or ended.
    """
    program = find_program("prometheus")
    if program is None and install:
        console.print(f"Prometheus is installed in {install_prometheus()}.")
        program = find_program("prometheus")
    if program is None:
        raise UserError(
            "Prometheus is not on the PATH; add --install, which unpacks Debian's package into ~/.cache without root, "
            "or install it."
        )
    write_dashboards(config)
    folder, url = Path(config.folder), f"http://127.0.0.1:{config.port}"
    with ExitStack() as stack:
        command = prometheus_command(program, config)
        log = folder / "prometheus.log"
        servers = [stack.enter_context(running(command, ready=f"{url}/-/ready", port=config.port, log=log))]
        console.print(f"Prometheus: {url} (all panels: {url}/consoles/overview.html; alerts: {url}/api/v1/alerts)")
        if (found := grafana_command(config)) is None:
            console.print(
                f"Grafana is not on the PATH, and is in no package of Debian or PyPI. Install it from "
                f"https://grafana.com/grafana/download, or import {folder / 'grafana' / 'dashboards'} into yours."
            )
        else:
            command, variables = found
            own = f"http://127.0.0.1:{config.grafana_port}"
            log = folder / "grafana.log"
            grafana = running(
                command, ready=f"{own}/api/health", port=config.grafana_port, log=log, variables=variables
            )
            servers.append(stack.enter_context(grafana))
            console.print(f"Grafana: {own}/dashboards (user admin, password admin; it asks for a new one)")
        console.print("Ctrl-C stops it.")
        while all(server.poll() is None for server in servers):
            time.sleep(0.5)
        raise BrewError(f"a server ended; the logs are in {folder}.")


def check_dashboards(config: DashboardsConfig, console: PlainConsole, *, prometheus: str | None) -> None:
    """Check the files, and the queries if a Prometheus is given.

    Raises:
        BrewError: promtool found a problem, Prometheus refused a query, or it does not answer.
    """
    problems = []
    with TemporaryDirectory() as folder:
        paths = write_dashboards(replace(config, folder=folder))
        promtool = find_program("promtool")
        if promtool is None:
            console.print("promtool is not installed: the rules are not checked (brew360 dashboards up --install).")
        elif problem := check_files(promtool, Path(folder)):
            problems.append(problem)
        else:
            console.print(f"{len(paths)} files: the rules and the configuration of Prometheus are valid.")
    if prometheus is not None:
        results = query_panels(prometheus, DASHBOARDS)
        problems += [f"{result.panel}: {result.problem}" for result in results if result.problem]
        empty = [result for result in results if not result.series and not result.problem]
        console.print(f"{len(results)} queries, of which {len(empty)} return no data now.")
        for result in empty:
            console.print(f"- no data: {result.panel}: {result.expression}")
    if problems:
        raise BrewError(" ".join(problems))
