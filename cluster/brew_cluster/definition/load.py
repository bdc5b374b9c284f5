"""Loads a cluster definition: a recipe that ships or a YAML file, with overrides, and the programs that it names."""

from collections.abc import Sequence
from pathlib import Path

from brew_cluster.definition.config import ClusterConfig
from brew_cluster.jobs.recipe import find_recipe
from brew_platform.config import load_config

__all__ = ["definition_path", "load_definition"]

_DEFAULT = "laptop"


def definition_path(name: str) -> Path:
    """Return the path of a definition: of a YAML file, or of a recipe that ships.

    Raises:
        ConfigError: There is no such recipe.
    """
    return find_recipe("cluster", name)


def load_definition(arguments: Sequence[str]) -> ClusterConfig:
    """Load a definition.

    Args:
        arguments: A YAML file or the name of a recipe that ships (optional), then `key=value`.

    Raises:
        ConfigError: There is no such recipe, or a setting is unknown, has the wrong type or is out of its range.
    """
    names = [argument for argument in arguments[:1] if "=" not in argument]
    path = definition_path(names[0] if names else _DEFAULT)
    return load_config(ClusterConfig, path, overrides=arguments[len(names) :])
