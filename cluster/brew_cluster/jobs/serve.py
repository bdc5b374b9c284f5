"""The service as a user describes it, and its start on this machine's Ray or a given cluster, top to bottom.

Holds the settings with their defaults for one machine, the order of a start, and how it is stopped.
"""

import os
import threading
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from brew_cluster.jobs.recipe import RECIPES, find_recipe
from brew_data.prompts.suite import TaskSuite
from brew_platform.config import load_config
from brew_platform.console.progress import Phases
from brew_platform.errors import ConfigError
from brew_platform.registry.registry import Registry
from brew_platform.storage.base import open_store
from brew_serve.config import AppConfig
from brew_serve.version import load_version

__all__ = ["ServeJob", "load_serve", "log_of", "run_serve", "stop_serve"]


@dataclass(frozen=True, kw_only=True)
class ServeJob(AppConfig):
    """What is served (`AppConfig`), and where it listens. Paths are relative to the folder that the command runs in.

    Raises:
        ConfigError: a replica reserves another number of GPUs than its engine uses.
    """

    registry_url: str = "runs/registry"
    run: str = "runs/serve"  # folder of the command's log and of what the service fetches
    cache_folder: str = "${run}/versions"
    host: str = "127.0.0.1"  # address to listen on; others than this machine need middleware.keys_path
    port: int = 8000

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.port < 65_536:
            raise ConfigError(f"port is {self.port}; give one from 1 to 65535.")
        if self.gpus and self.gpus != self.engine.tensor_parallel_size:
            raise ConfigError(
                f"gpus is {self.gpus:g}, but the engine splits the model over {self.engine.tensor_parallel_size} "
                f"(engine.tensor_parallel_size); give both the same number."
            )


def load_serve(arguments: Sequence[str]) -> ServeJob:
    """The job that a user typed: a recipe or none, then `key=value`; its paths are absolute.

    Raises:
        ConfigError: there is no such recipe, or a setting is unknown or of the wrong type.
    """
    named = [word for word in arguments[:1] if "=" not in word]
    recipe = find_recipe("serve", named[0]) if named else RECIPES / "serve.yaml"
    job = load_config(ServeJob, recipe, overrides=arguments[len(named) :])
    nearline = job.nearline and replace(
        job.nearline, folder=_absolute(job.nearline.folder), context_path=_if_any(job.nearline.context_path)
    )
    return replace(
        job,
        registry_url=_absolute(job.registry_url),
        run=_absolute(job.run),
        cache_folder=_absolute(job.cache_folder),
        context_path=_if_any(job.context_path),
        middleware=replace(job.middleware, keys_path=_if_any(job.middleware.keys_path)),
        nearline=nearline,
    )


def run_serve(job: ServeJob, console: Console, *, foreground: bool) -> None:
    """Starts the service and says how to ask it; returns when it answers, or, in the foreground, once it is stopped.

    Raises:
        BrewError: one clear sentence about what failed; then nothing is left running.
    """
    from ray import serve

    from brew_cluster.cli.views.service import show_service
    from brew_cluster.ray.local_ray import any_ray, logs_folder
    from brew_platform.ports import require_free_port
    from brew_serve.deployment.online_service import build_app, serve_http

    require_free_port(job.port, job.host)
    app = build_app(job)  # first, so that what is wrong with the version needs no Ray to be found
    phases = Phases(["ray", "service"], console=console)
    with ExitStack() as stack:
        with phases.phase("ray"):
            own = stack.enter_context(any_ray(detached=not foreground, logs=Path(job.run) / "logs" / "ray"))
        with phases.phase("service"):
            url = serve_http(app, port=job.port, host=job.host)
        logs = [str(log_of(job)), str(logs_folder() / "serve") if own else "the cluster's, of Ray Serve"]
        show_service(console, url, _suite(job), keyed=app.keyed, logs=logs, foreground=foreground)
        if foreground:
            with suppress(KeyboardInterrupt):
                threading.Event().wait()
            console.print("stopping: what was accepted is answered first.")
            serve.shutdown()


def stop_serve() -> None:
    """Stops the service of the cluster that RAY_ADDRESS names; or else every Ray of this user on this machine.

    Raises:
        BrewError: some processes did not stop.
    """
    from brew_cluster.ray.local_ray import any_ray, stop_ray

    if not os.environ.get("RAY_ADDRESS"):
        stop_ray()
        return
    from ray import serve

    with any_ray(detached=False, logs=Path()):
        serve.shutdown()


def log_of(job: ServeJob) -> Path:
    """The log of the command that starts the service."""
    return Path(job.run) / "logs" / "serve.log"


def _suite(job: ServeJob) -> TaskSuite:
    registry = Registry(open_store(job.registry_url), job.model)
    folder = registry.fetch(registry.resolve(job.alias), Path(job.cache_folder))
    return load_version(folder, job.engine).suite


def _absolute(path: str) -> str:
    return path if "://" in path else str(Path(path).absolute())


def _if_any(path: str | None) -> str | None:
    return None if path is None else _absolute(path)
