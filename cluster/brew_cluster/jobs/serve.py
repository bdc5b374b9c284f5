"""Starts and stops the service on a local Ray or on a cluster."""

import os
import time
from contextlib import ExitStack, suppress
from pathlib import Path

from brew_cluster.jobs.serve_job import ServeJob
from brew_data.prompts.suite import TaskSuite
from brew_platform.console.plain_console import PlainConsole
from brew_platform.console.progress import Phases
from brew_platform.processes import stop_signals
from brew_serve.version import load_version

__all__ = ["log_of", "run_serve", "stop_serve"]


def run_serve(job: ServeJob, console: PlainConsole, *, foreground: bool) -> None:
    """Start the service and print an example request.

    Args:
        job: The settings.
        console: The output.
        foreground: Return when the service is stopped with Ctrl-C or SIGTERM; otherwise return when it is ready.

    Raises:
        BrewError: A step failed. No process is left running.
    """
    from brew_cluster.cli.views.service import show_service
    from brew_cluster.ray.local_ray import any_ray, logs_folder
    from brew_platform.ports import require_free_port
    from brew_serve.deployment.applications import delete_applications
    from brew_serve.deployment.online_service import build_app, serve_http

    if not os.environ.get("RAY_ADDRESS"):  # a cluster's Serve may listen there already, for other applications
        require_free_port(job.port, job.host)
    app = build_app(job)  # before Ray, to report errors of the version early
    phases = Phases(["ray", "service"], console=console)
    with ExitStack() as stack:
        with phases.phase("ray"):
            own = stack.enter_context(any_ray(detached=not foreground, logs=Path(job.run) / "logs" / "ray"))
        with phases.phase("service"):
            url = serve_http(app, port=job.port, host=job.host)
        try:
            logs = [str(log_of(job)), str(logs_folder() / "serve") if own else "the cluster's, of Ray Serve"]
            show_service(console, url, _suite(job), keyed=app.keyed, logs=logs, foreground=foreground)
            if foreground:
                _wait_for_stop()
                console.print("stopping: accepted requests are completed first.")
                delete_applications()
        except BaseException:
            with suppress(Exception):  # the first error is the one to report
                delete_applications(wait=False)
            raise


def stop_serve(console: PlainConsole) -> None:
    """Stop the service on the cluster of RAY_ADDRESS, or else the Rays that earlier commands left on this machine.

    The cluster, its Ray Serve and other applications keep running, and so does a Ray that brew360 did not start.

    Raises:
        BrewError: Some processes did not stop.
    """
    from brew_cluster.ray.local_ray import any_ray, stop_ray

    if address := os.environ.get("RAY_ADDRESS"):
        from brew_serve.deployment.applications import delete_applications

        with any_ray(detached=False, logs=Path()):
            names = delete_applications()
        console.print(f"stopped on {address}: {', '.join(names)}" if names else f"no service runs on {address}.")
        return
    folders = stop_ray()
    for folder in folders:
        console.print(f"stopped the service and its Ray; the logs are in {folder}")
    if not folders:
        console.print("no service that brew360 started runs on this machine. On a cluster, set RAY_ADDRESS.")


def log_of(job: ServeJob) -> Path:
    """Return the log file of the command that starts the service."""
    return Path(job.run) / "logs" / "serve.log"


def _wait_for_stop() -> None:
    """Return when this process gets SIGINT or SIGTERM."""
    stopped: list[bool] = []
    with stop_signals(lambda: stopped.append(True)):
        while not stopped:
            time.sleep(0.2)


def _suite(job: ServeJob) -> TaskSuite:
    folder = job.fetch(job.open_registry().resolve(job.alias))
    return load_version(folder, job.engine, job.history).suite
