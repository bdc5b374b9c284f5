"""Loads typed configuration: merges YAML recipes and `key=value` overrides into a dataclass.

Each dataclass is defined beside the code that it configures. It inherits `brew_platform.settings.Settings`, which
checks the ranges of its fields. Errors name the full key, such as `train.stages[0].steps`.
"""

import dataclasses
import difflib
import hashlib
import json
import re
import types
import typing
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar, Union, cast

from omegaconf import DictConfig, ListConfig, OmegaConf, TupleConfig
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from brew_platform.errors import ConfigError
from brew_platform.settings import Settings, check_fields
from brew_platform.yaml_files import YAML_ERRORS, Scalar, parse_scalars, read_yaml

__all__ = ["config_digest", "load_config"]

T = TypeVar("T")
_COMMENT = re.compile(r"""\s*(?!["'])(?:.*\s)?#""")  # in a value that is not in quotes


def load_config(
    cls: type[T], *sources: Mapping[str, Any] | Path | str, overrides: Sequence[str] = (), key: str = ""
) -> T:
    """Create an instance of `cls` from its defaults, `sources` and `overrides`. Later values replace earlier ones.

    If a key is a Python keyword, the name of its field ends with an underscore: the key `from` sets the field `from_`.

    Args:
        cls: A keyword-only dataclass. Fields can be dataclasses, lists or dicts of them, or Optional.
        sources: Mappings, sections of `read_yaml`, or paths of YAML files. Mappings are merged key by key; lists are
            replaced.
        overrides: Strings `key=value` with a dotted key (`model.layers=2`, `tasks[0].weight=3`) and a YAML value.
        key: The key of the section that `cls` describes, for messages; empty for a whole recipe.

    Returns:
        The instance.

    Raises:
        ConfigError: A key is unknown (the message suggests the nearest known one), a value has the wrong type, is out
            of its range or missing, an override or a YAML file is malformed, or a file cannot be read.
    """
    config = OmegaConf.structured(cls)
    for source in sources:
        if isinstance(source, Mapping):
            config = _merge(cls, config, source, "the settings", key)
        else:
            config = _merge(cls, config, read_yaml(Path(source)), str(source), key)
    for override in overrides:
        config = _merge(cls, config, _nested(cls, override, config), f"the override {override!r}", key)
    try:
        return cast(T, _build(config, key))
    except MissingMandatoryValue as error:
        missing = ".".join(filter(None, [key, error.full_key]))
        raise ConfigError(
            f"{missing} has no value and no default. Set it in the recipe, or as {missing}=VALUE."
        ) from error
    except OmegaConfBaseException as error:  # an interpolation of an unknown key, or of a value of another type
        raise ConfigError(
            f"{error.full_key}: {str(error.msg).splitlines()[0]}. Write the value itself there."
        ) from error


def _build(node: Any, key: str) -> Any:
    """Return the objects that a merged configuration describes; `key` is its own full key."""
    if isinstance(node, ListConfig | TupleConfig):
        elements = [_build(below, f"{key}[{index}]") for index, below in enumerate(node)]
        return elements if isinstance(node, ListConfig) else tuple(elements)
    if not isinstance(node, DictConfig):
        return node
    kind = OmegaConf.get_type(node)
    prefix = f"{key}." if key else ""
    values = {name: _build(below, prefix + str(name).rstrip("_")) for name, below in node.items()}
    if not dataclasses.is_dataclass(kind):
        return values
    try:
        built = kind(**cast(dict[str, Any], values))
        if not isinstance(built, Settings):  # of a plug-in
            check_fields(built)
    except ConfigError as error:
        raise ConfigError(_located(str(error), kind, key)) from error
    return built


def _located(message: str, kind: Any, key: str) -> str:
    """Begin the message of an error with the full key; it may begin with the key of a field of the class `kind`."""
    if not key:
        return message
    field = re.match(r"\w+", message)
    return f"{key}.{message}" if field and field[0] in _hints_by_key(kind) else f"{key}: {message}"


def config_digest(obj: Any) -> str:
    """Return the SHA-256 digest of `obj` as canonical JSON. Equal settings have equal digests on all machines.

    Args:
        obj: A dataclass instance, or a value that JSON can represent. A path is represented by its text, an enum member
            by its name.

    Returns:
        64 hex digits.

    Raises:
        ConfigError: `obj` contains a value of another type, or a number that is not finite.
    """
    try:
        text = json.dumps(obj, sort_keys=True, separators=(",", ":"), allow_nan=False, default=_plain)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"this configuration has no digest: {error}. Use numbers, strings, lists and maps."
        ) from error
    return hashlib.sha256(text.encode()).hexdigest()


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name.rstrip("_"): getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Path):
        return value.as_posix()
    if isinstance(value, Enum):
        return value.name
    raise TypeError(f"a {type(value).__name__} has no canonical form")


def _resolve(hint: Any, value: Any) -> Any:
    """Replace each `Scalar`: by its characters where `hint` is str or Path, else by its value.

    A label `yes` stays "yes", and an id `010` does not become "8".
    """
    inner = _bare(hint)
    arguments = typing.get_args(inner)
    if isinstance(value, Scalar):
        return value.text if inner in (str, Path) else value.value
    if isinstance(value, Mapping):
        if dataclasses.is_dataclass(inner):
            hints = _hints_by_key(inner)
            plain = {_resolve(str, name): below for name, below in value.items()}
            return {name: _resolve(hints.get(name, Any), below) for name, below in plain.items()}
        key, below_hint = arguments if typing.get_origin(inner) is dict else (Any, Any)
        return {_resolve(key, name): _resolve(below_hint, below) for name, below in value.items()}
    if isinstance(value, list | tuple):
        element = arguments[0] if typing.get_origin(inner) in (list, tuple) and arguments else Any
        return [_resolve(element, below) for below in value]
    return value


def _nested(cls: type, override: str, config: DictConfig) -> Mapping[str, Any]:
    """Return the override `a.b[1].c=3` as nested mappings. Other elements of a list are copied from `config`."""
    key, equals, text = override.partition("=")
    parts = key.strip().replace("[", ".").replace("]", "").split(".")
    if not equals or not all(parts):
        raise ConfigError(f"the override {override!r} is not of the form key=value. Write for example model.layers=2.")
    try:
        value = parse_scalars(text)
    except YAML_ERRORS as error:
        problem = getattr(error, "problem", None) or str(error)
        raise ConfigError(
            f"the value of the override {override!r} is not valid YAML ({problem}). Close its brackets and quotes, or "
            f"put plain text in quotes."
        ) from error
    if (value is None or isinstance(value, str)) and _COMMENT.match(text):
        raise ConfigError(
            f"the value of the override {override!r} has a #, which begins a comment in YAML. Put the value in quotes."
        )
    current = _with_names(cls, OmegaConf.to_container(config, resolve=False), keys=True)
    return cast(Mapping[str, Any], _placed(parts, value, current, override))


def _placed(parts: list[str], value: Any, current: Any, override: str) -> Any:
    if not parts:
        return value
    head, rest = parts[0], parts[1:]
    if isinstance(current, list):
        if not re.fullmatch("[0-9]{1,9}", head) or int(head) >= len(current):
            raise ConfigError(
                f"the override {override!r} names element {head!r} of a list of {len(current)} elements (0 is the "
                f"first). Use an index that exists, or set the whole list."
            )
        return [_placed(rest, value, item, override) if i == int(head) else item for i, item in enumerate(current)]
    known = current if isinstance(current, Mapping) else {}
    return {**known, head: _placed(rest, value, known.get(head), override)}


def _merge(cls: type, config: DictConfig, values: Any, origin: str, key: str) -> DictConfig:
    values = _resolve(cls, values)
    _check(cls, values, key, origin)
    try:
        return cast(DictConfig, OmegaConf.merge(config, _with_names(cls, values)))
    except (OmegaConfBaseException, TypeError, ValueError, OverflowError) as error:
        raise ConfigError(f"{origin}: {str(error).splitlines()[0]}. Correct it there.") from error


def _check(hint: Any, value: Any, key: str, origin: str) -> None:
    """Raise a ConfigError for the first value in `value` that does not fit the type `hint`.

    OmegaConf checks types too, but its errors do not name the key of a section, and name a wrong key inside a list.
    """
    inner = _bare(hint)
    kind = typing.get_origin(inner)
    if isinstance(value, str) and value.startswith("${"):  # an interpolation; its value is known after merging
        return
    if dataclasses.is_dataclass(inner) and isinstance(value, Mapping):
        hints = _hints_by_key(inner)
        for name, below in value.items():
            path = f"{key}.{name}" if key else str(name)
            renamed: Mapping[str, str] = getattr(inner, "RENAMED", {})  # earlier keys -> the keys that replace them
            if name in renamed:
                prefix = path.removesuffix(str(name))
                raise ConfigError(f"{path} in {origin} was renamed: write {prefix}{renamed[name]} instead.")
            if name not in hints:
                near = difflib.get_close_matches(str(name), hints, n=1, cutoff=0.0)
                hint_text = f" Did you mean {path.removesuffix(str(name))}{near[0]}?" if near else ""
                raise ConfigError(f"unknown key {path} in {origin}.{hint_text} Known keys: {', '.join(hints)}.")
            _check(hints[name], below, path, origin)
    elif kind is dict and isinstance(value, Mapping):
        for name, below in value.items():
            _check(typing.get_args(inner)[1], below, f"{key}.{name}", origin)
    elif kind in (list, tuple) and isinstance(value, list | tuple):
        for index, below in enumerate(value):
            _check(typing.get_args(inner)[0], below, f"{key}[{index}]", origin)
    elif (inner is str and isinstance(value, bool | int | float)) or not _holds(hint, value):
        remedy = "Put the text in quotes." if inner is str else "Set a value of that type."
        raise ConfigError(
            f"{key}={value!r} in {origin} has the wrong type: {key} must be {_type_text(hint)}, but is a "
            f"{type(value).__name__}. {remedy}"
        )


def _hints_by_key(cls: Any) -> dict[str, Any]:
    """Return the types of a dataclass's fields by their keys."""
    hints = typing.get_type_hints(cls)
    return {field.name.rstrip("_"): hints[field.name] for field in dataclasses.fields(cls)}


def _with_names(hint: Any, value: Any, *, keys: bool = False) -> Any:
    """Replace the keys in `value`, which `_check` accepted, by field names; or field names by keys with `keys`."""
    inner = _bare(hint)
    kind = typing.get_origin(inner)
    if dataclasses.is_dataclass(inner) and isinstance(value, Mapping):
        types_ = typing.get_type_hints(inner)
        renamed = {}
        for field in dataclasses.fields(inner):
            before, after = field.name.rstrip("_"), field.name
            if keys:
                before, after = after, before
            if before in value:
                renamed[after] = _with_names(types_[field.name], value[before], keys=keys)
        return renamed
    if kind is dict and isinstance(value, Mapping):
        return {name: _with_names(typing.get_args(inner)[1], below, keys=keys) for name, below in value.items()}
    if kind in (list, tuple) and isinstance(value, list | tuple):
        return [_with_names(typing.get_args(inner)[0], below, keys=keys) for below in value]
    return value


def _holds(hint: Any, value: Any) -> bool:
    """Return whether OmegaConf accepts `value` for a field of type `hint`; it converts, for example, "3" to an int."""
    if type(value) is _bare(hint) and type(value) in (bool, int, float, str):  # the general way takes a millisecond
        return True
    field = dataclasses.make_dataclass("Field", [("value", hint)])
    try:
        OmegaConf.merge(OmegaConf.structured(field), {"value": value})
    except (OmegaConfBaseException, TypeError, ValueError, OverflowError):
        return False
    return True


def _bare(hint: Any) -> Any:
    """Return `hint` without `| None`."""
    if typing.get_origin(hint) in (Union, types.UnionType):
        rest = [arg for arg in typing.get_args(hint) if arg is not type(None)]
        return rest[0] if len(rest) == 1 else hint
    return hint


def _type_text(hint: Any) -> str:
    """Describe a type in words."""
    bare = _bare(hint)
    if dataclasses.is_dataclass(bare):
        text = f"settings ({', '.join(_hints_by_key(bare))})"
    elif isinstance(bare, type) and issubclass(bare, Enum):
        text = f"one of {', '.join(bare.__members__)}"
    elif typing.get_origin(bare) in (list, tuple):
        text = f"a list of {getattr(typing.get_args(bare)[0], '__name__', typing.get_args(bare)[0])}"
    else:
        text = bare.__name__ if isinstance(bare, type) and not typing.get_args(bare) else str(bare)
    return text if bare is hint else f"{text} or null"
