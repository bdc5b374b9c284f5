"""Loads a cluster definition: a recipe that ships or a YAML file, with overrides, and the programs that it names."""

import re
from collections.abc import Sequence
from pathlib import Path

import yaml

from brew_cluster.definition.config import ClusterConfig
from brew_cluster.jobs.recipe import find_recipe
from brew_platform.config import load_config
from brew_platform.errors import ConfigError

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
    overrides = arguments[len(names) :]
    try:
        return load_config(ClusterConfig, path, overrides=overrides)
    except ConfigError:
        _require_known_groups(path, overrides)
        raise


def _require_known_groups(path: Path, overrides: Sequence[str]) -> None:
    """Check that settings of groups name groups of the file: a misspelled name would be a new group without a role."""
    try:
        document = yaml.safe_load(path.read_text())
    except yaml.YAMLError:  # it is reported already
        return
    known = document.get("groups") if isinstance(document, dict) else None
    for override in overrides:
        match = re.match(r"groups\.([^.=]+)\.", override)
        if match and isinstance(known, dict) and match[1] not in known:
            raise ConfigError(
                f"{override!r} names the group {match[1]}, but the groups of {path.name} are {', '.join(known)}; "
                f"correct the name, or write the new group into the file."
            )
