"""Parses YAML, and refuses what is ambiguous or dangerous: repeated keys, deep nesting, aliases that multiply.

The numbers and truth values of settings keep the characters that were written, until the types of their fields are
known: a label `yes` stays "yes", and an id `010` does not become 8.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import yaml
from omegaconf._yaml import get_yaml_loader
from yaml.constructor import ConstructorError

from brew_platform.errors import ConfigError

__all__ = ["YAML_ERRORS", "Scalar", "override_text", "parse_scalars", "parse_yaml", "read_yaml"]

_PLAIN_TEXT = re.compile(r"[A-Za-z0-9_./-]+")  # needs no quotes in YAML, unless it reads as a number or the like
_MOST_NODES = 1_000_000  # of a YAML file, whose aliases may repeat parts of it
_MOST_LEVELS = 500  # of maps and lists in a YAML file
# ValueError: a number of thousands of digits. RecursionError: thousands of nested brackets.
YAML_ERRORS = (yaml.YAMLError, ValueError, RecursionError)


def parse_yaml(text: str) -> Any:
    """Parse YAML as `yaml.safe_load` does, but refuse repeated keys.

    Raises:
        ValueError: The text is malformed, repeats a key, or is nested too deeply.
    """
    try:
        _refuse_deep_nesting(text)
        return yaml.load(text, Loader=_PlainLoader)  # noqa: S506  (a SafeLoader)
    except YAML_ERRORS as error:
        raise ValueError(" ".join(str(error).split())) from error


@dataclass(frozen=True)
class Scalar:
    """A YAML scalar that is not text: its value, and the characters that were written."""

    value: Any
    text: str


class _PlainLoader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """The loader of `yaml.safe_load` that refuses repeated keys."""

    def construct_document(self, node: yaml.Node) -> Any:
        _refuse_repeated_keys(node, set())
        return super().construct_document(node)


class _Loader(get_yaml_loader(max_yaml_expanded_nodes=_MOST_NODES)):  # type: ignore[misc]
    """OmegaConf's YAML loader that keeps the characters of numbers and truth values, and refuses repeated keys."""

    def construct_document(self, node: yaml.Node) -> Any:
        _refuse_repeated_keys(node, set())
        return super().construct_document(node)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        value = super().construct_object(node, deep=deep)
        return Scalar(value, node.value) if isinstance(value, bool | int | float) else value


def _refuse_deep_nesting(text: str) -> None:
    """Raise a ValueError for maps and lists that are nested too deeply.

    The loaders recurse in C, where a deeper text would end the process with a segmentation fault. Events are flat.
    """
    if len(text) <= _MOST_LEVELS:
        return
    levels = 0
    for event in yaml.parse(text, Loader=_PlainLoader):
        levels += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if levels > _MOST_LEVELS:
            raise ValueError(f"it has more than {_MOST_LEVELS} maps and lists inside each other")


def _refuse_repeated_keys(node: yaml.Node, checked: set[int]) -> None:
    """Raise a ConstructorError for the first map that has a key twice, as text: `5` and `"5"` are the same key."""
    if isinstance(node, yaml.ScalarNode) or id(node) in checked:
        return
    checked.add(id(node))
    keys: set[str] = set()
    for entry in node.value:
        key, below = entry if isinstance(node, yaml.MappingNode) else (None, entry)
        if isinstance(key, yaml.ScalarNode):
            if key.value in keys:
                raise ConstructorError(
                    "while reading a map", node.start_mark, f"the key {key.value} occurs twice", key.start_mark
                )
            keys.add(key.value)
        _refuse_repeated_keys(below, checked)


def parse_scalars(text: str) -> Any:
    """Parse YAML; numbers and truth values are `Scalar`. Raises one of `YAML_ERRORS`."""
    _refuse_deep_nesting(text)
    return yaml.load(text, Loader=_Loader)  # noqa: S506  (a SafeLoader)


def read_yaml(path: Path) -> Mapping[Any, Any]:
    """Read a recipe without checking its keys, so that `load_config` can be called with one of its sections.

    Numbers and truth values are opaque: they keep their characters until `load_config` knows the types of their fields.

    Raises:
        ConfigError: The file cannot be read, or it is not a mapping in valid YAML.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")  # some editors write a byte-order mark
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text ({error}). Save it as UTF-8.") from error
    except OSError as error:
        raise ConfigError(
            f"cannot read the recipe {path}: {error.strerror}. Pass the path of a readable YAML file of `key: value` "
            f"lines."
        ) from error
    try:
        loaded = parse_scalars(text)
    except YAML_ERRORS as error:
        where = " ".join(str(error).split())
        raise ConfigError(f"{path} is not valid YAML ({where}). Correct it there and run again.") from error
    if loaded is None:
        return {}
    if isinstance(loaded, str | Scalar):
        raise ConfigError(
            f"cannot read the recipe {path}: it contains no settings. Pass the path of a readable YAML file of "
            f"`key: value` lines."
        )
    if not isinstance(loaded, dict):
        raise ConfigError(
            f"{path} contains a list, but settings are `key: value` lines. Write a key before each value."
        )
    return cast(Mapping[Any, Any], loaded)


def override_text(value: Any) -> str:
    """Return a value of `read_yaml` as one line of YAML, for the right side of an override."""
    if isinstance(value, Scalar):
        return value.text
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{override_text(name)}: {override_text(below)}' for name, below in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(override_text(below) for below in value)}]"
    if isinstance(value, str) and _PLAIN_TEXT.fullmatch(value) and parse_scalars(value) == value:
        return value
    return json.dumps(value, default=str)  # JSON is YAML
