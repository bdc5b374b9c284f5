"""The job of `brew360 serve`: its settings, and the start and stop of the service on a local Ray or on a cluster."""

import os
import threading
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from brew_cluster.jobs.recipe import RECIPES, find_recipe
from brew_data.prompts.suite import TaskSuite
from brew_platform.config import load_config
from brew_platform.console.plain_console import PlainConsole
from brew_platform.console.progress import Phases
from brew_platform.errors import ConfigError
from brew_platform.registry.registry import Registry
from brew_platform.settings import Range
from brew_platform.storage.base import open_store
from brew_serve.config import AppConfig
from brew_serve.version import load_version

__all__ = ["ServeJob", "load_serve", "log_of", "run_serve", "stop_serve"]


@dataclass(frozen=True, kw_only=True)
class ServeJob(AppConfig):
    """The settings of the service (`AppConfig`), and its address. Paths are relative to the working directory.

    Raises:
        ConfigError: The port is out of range, or a replica reserves a different number of GPUs than its engine uses.
    """

    registry_url: str = "runs/registry"  # store of the model registry
    run: str = "runs/serve"  # folder of the command's log and of downloaded versions
    cache_folder: str = "${run}/versions"  # downloaded versions
    host: str = "127.0.0.1"  # address to listen on; an address other than this machine needs middleware.keys_path
    port: Annotated[int, Range(ge=1, le=65_535)] = 8000  # port to listen on

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.gpus and self.gpus != self.engine.tensor_parallel_size:
            raise ConfigError(
                f"gpus is {self.gpus:g}, but the engine splits the model over {self.engine.tensor_parallel_size} "
                f"(engine.tensor_parallel_size). Set both to the same number."
            )


def load_serve(arguments: Sequence[str]) -> ServeJob:
    """Load the settings of a service.

    Args:
        arguments: A recipe (optional), then `key=value`.

    Returns:
        The settings, with absolute paths.

    Raises:
        ConfigError: The recipe does not exist, or a setting is unknown or has the wrong type.
    """
    names = [argument for argument in arguments[:1] if "=" not in argument]
    recipe = find_recipe("serve", names[0]) if names else RECIPES / "serve.yaml"
    job = load_config(ServeJob, recipe, overrides=arguments[len(names) :])
    nearline = job.nearline and replace(
        job.nearline, folder=_absolute(job.nearline.folder), context_path=_if_any(job.nearline.context_path)
    )
    return replace(
        job,
        registry_url=_absolute(job.registry_url),
        run=_absolute(job.run),
        cache_folder=_absolute(job.cache_folder),
        context_path=_if_any(job.context_path),
        pseudonyms=job.pseudonyms and job.pseudonyms.absolute(),
        middleware=replace(job.middleware, keys_path=_if_any(job.middleware.keys_path)),
        nearline=nearline,
    )


def run_serve(job: ServeJob, console: PlainConsole, *, foreground: bool) -> None:
    """Start the service and print an example request.

    Args:
        job: The settings.
        console: The output.
        foreground: Return when the service is stopped with Ctrl-C; otherwise return when it is ready.

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
                with suppress(KeyboardInterrupt):
                    threading.Event().wait()
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


def _suite(job: ServeJob) -> TaskSuite:
    registry = Registry(open_store(job.registry_url), job.model)
    folder = registry.fetch(registry.resolve(job.alias), Path(job.cache_folder))
    return load_version(folder, job.engine, job.history).suite


def _absolute(path: str) -> str:
    return path if "://" in path else str(Path(path).absolute())


def _if_any(path: str | None) -> str | None:
    return None if path is None else _absolute(path)
