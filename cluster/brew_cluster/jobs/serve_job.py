"""The settings of `brew360 serve`."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from brew_cluster.jobs.recipe import RECIPES, find_recipe
from brew_platform.config import load_config
from brew_platform.errors import ConfigError
from brew_platform.settings import Range
from brew_serve.config import AppConfig

__all__ = ["ServeJob", "load_serve"]


@dataclass(frozen=True, kw_only=True)
class ServeJob(AppConfig):
    """The settings of the service (`AppConfig`), and its address. Paths are relative to the working directory.

    Raises:
        ConfigError: The port is out of range, or a replica reserves a different number of GPUs than its engine uses.
    """

    registry_url: str = "${oc.env:BREW360_REGISTRY,runs/registry}"  # store of the model registry
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
        middleware=replace(
            job.middleware, keys_path=_if_any(job.middleware.keys_path), quotas=job.middleware.quotas.absolute()
        ),
        nearline=nearline,
        answer_log=job.answer_log and job.answer_log.absolute(),
    )


def _absolute(path: str) -> str:
    return path if "://" in path else str(Path(path).absolute())


def _if_any(path: str | None) -> str | None:
    return None if path is None else _absolute(path)
