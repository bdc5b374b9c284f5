"""Engines by name: each is registered as an entry point, so that another package can add one."""

from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path

from brew_platform.errors import ConfigError
from brew_serve.engines.base import Engine
from brew_serve.engines.config import EngineConfig

__all__ = ["ENGINE_GROUP", "create_engine", "engine_kinds"]

ENGINE_GROUP = "brew360.engines"


def engine_kinds() -> list[str]:
    """Return the names of all installed engines, sorted."""
    return sorted(entry_points(group=ENGINE_GROUP).names)


def create_engine(folder: Path, config: EngineConfig) -> Engine:
    """Load a model with the engine that `config.kind` names.

    Args:
        folder: Model folder with config.json and *.safetensors.
        config: Settings of the engine; `kind` is the name of an entry point in the group `brew360.engines`. The entry
            point is a callable that takes `folder` and `config` and returns an `Engine`.

    Raises:
        ConfigError: No installed package registers this kind, or its module cannot be imported.
        UserError: The engine cannot load the model or does not support the settings.
        BrewError: The engine failed to start.
    """
    found = [point for point in entry_points(group=ENGINE_GROUP) if point.name == config.kind]
    if not found:
        raise ConfigError(
            f"engine.kind is {config.kind!r}, but no installed package registers an engine of this name (installed: "
            f"{', '.join(engine_kinds()) or 'none'}). Correct the name, or install the package that contains the "
            f"engine (for the engines of brew360 itself: pip install -e . again)."
        )
    try:
        factory: Callable[[Path, EngineConfig], Engine] = found[0].load()
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"engine.kind is {config.kind!r}, but {found[0].value} cannot be imported ({error}). Install what this "
            f"engine needs, or choose another kind."
        ) from error
    return factory(folder, config)
