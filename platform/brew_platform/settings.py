"""Rules of the fields of configuration dataclasses: ranges of numbers, choices and names.

A rule is part of a field's type, as in `steps: Annotated[int, Range(ge=1)] = 100`. A dataclass that inherits `Settings`
checks its fields on construction. Numbers are finite: no field accepts NaN or infinity.
"""

import dataclasses
import math
import numbers
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Protocol, Union

from brew_platform.errors import ConfigError, UserError

__all__ = [
    "Name",
    "NonNegativeFloat",
    "NonNegativeInt",
    "NonNegativeSeconds",
    "OneOf",
    "PlainName",
    "PositiveFloat",
    "PositiveInt",
    "Range",
    "Seconds",
    "Settings",
    "Share",
    "check_fields",
    "describe_type",
    "require_name",
]

_LARGEST_INT = 2**63 - 1  # what stores, tensors and schedulers can hold
_LONGEST_SECONDS = 1_000_000_000  # about 32 years; the operating system's timers overflow at larger numbers
_LONGEST_NAME = 100  # characters; names become parts of file names, which have at most 255 bytes
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_NAME_TEXT = f"letters, digits and ._-, starting with a letter or a digit, at most {_LONGEST_NAME} characters"


class Rule(Protocol):
    """A condition on the value of a field, in the metadata of `Annotated`."""

    def accepts(self, value: Any) -> bool:
        """Return whether a value satisfies the rule."""

    def __str__(self) -> str:
        """Return the condition in words, as in `at least 1`."""


@dataclass(frozen=True, kw_only=True)
class Range:
    """The range of a number; without bounds, any finite number.

    Args:
        ge: The smallest value.
        gt: The value that all values exceed.
        le: The largest value.
        lt: The value that exceeds all values.
    """

    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None

    def accepts(self, value: Any) -> bool:
        return (
            (self.ge is None or value >= self.ge)
            and (self.gt is None or value > self.gt)
            and (self.le is None or value <= self.le)
            and (self.lt is None or value < self.lt)
        )

    def __str__(self) -> str:
        bounds = (("at least", self.ge), ("more than", self.gt), ("at most", self.le), ("less than", self.lt))
        return " and ".join(f"{words} {bound:,}" for words, bound in bounds if bound is not None)


@dataclass(frozen=True)
class OneOf:
    """The known values of a text."""

    choices: tuple[str, ...]

    def accepts(self, value: Any) -> bool:
        return value in self.choices

    def __str__(self) -> str:
        return f"one of {', '.join(self.choices)}"


@dataclass(frozen=True)
class PlainName:
    """The rule of names that become parts of paths, keys and metrics: of stages, models, versions and aliases."""

    def accepts(self, value: Any) -> bool:
        return isinstance(value, str) and len(value) <= _LONGEST_NAME and _NAME.fullmatch(value) is not None

    def __str__(self) -> str:
        return _NAME_TEXT


PositiveInt = Annotated[int, Range(ge=1)]
NonNegativeInt = Annotated[int, Range(ge=0)]
PositiveFloat = Annotated[float, Range(gt=0)]
NonNegativeFloat = Annotated[float, Range(ge=0)]
Share = Annotated[float, Range(ge=0, le=1)]
Seconds = Annotated[float, Range(gt=0, le=_LONGEST_SECONDS)]
NonNegativeSeconds = Annotated[float, Range(ge=0, le=_LONGEST_SECONDS)]
Name = Annotated[str, PlainName()]


class Settings:
    """Base of configuration dataclasses: checks the rules of all fields on construction.

    A subclass with a `__post_init__` of its own calls this one first.

    Raises:
        ConfigError: A value breaks the rule of its field. The message begins with the key of the field.
    """

    def __post_init__(self) -> None:
        check_fields(self)


def check_fields(settings: Any) -> None:
    """Check the rules of a dataclass's fields, of the elements of lists and of the values of maps.

    A nested dataclass is left to its own check.

    Raises:
        ConfigError: A value breaks the rule of its field, or a number is not finite or not of the field's type.
    """
    cls: Any = type(settings)
    for name, hint in _hints(cls).items():
        _check(name.rstrip("_"), hint, getattr(settings, name))


def require_name(kind: str, name: str) -> str:
    """Return a name that consists of letters, digits and `._-`, so that it can be part of a path.

    Args:
        kind: What it names, for the message, as in `model`.
        name: The name.

    Raises:
        UserError: It has other characters, starts with one of `._-`, or is too long.
    """
    if not PlainName().accepts(name):
        raise UserError(f"{name!r} is not a valid {kind} name. Use {_NAME_TEXT}.")
    return name


def describe_type(hint: Any) -> str:
    """Describe the type of a field and its rules in words, as in `int or null, at least 1`."""
    kind, rules, optional = _parts(hint)
    if arguments := typing.get_args(kind):
        origin = typing.get_origin(kind)
        words = f"{origin.__name__}[{', '.join('...' if item is ... else describe_type(item) for item in arguments)}]"
    else:
        words = getattr(kind, "__name__", str(kind))
    return ", ".join([f"{words} or null" if optional else words, *filter(None, map(str, rules))])


@cache
def _hints(cls: type) -> Mapping[str, Any]:
    """Return the types of a dataclass's fields, with their rules."""
    hints = typing.get_type_hints(cls, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def _parts(hint: Any) -> tuple[Any, tuple[Rule, ...], bool]:
    """Split a type into its bare type, its rules, and whether it includes None."""
    optional = False
    if typing.get_origin(hint) in (Union, types.UnionType):
        rest = [argument for argument in typing.get_args(hint) if argument is not type(None)]
        if len(rest) > 1:
            return hint, (), False
        hint, optional = rest[0], True
    if typing.get_origin(hint) is Annotated:
        return hint.__origin__, hint.__metadata__, optional
    return hint, (), optional


def _check(key: str, hint: Any, value: Any) -> None:
    kind, rules, optional = _parts(hint)
    if value is None and optional:
        return
    arguments = typing.get_args(kind)
    if isinstance(value, list | tuple) and arguments:
        for index, element in enumerate(value):
            _check(f"{key}[{index}]", arguments[0], element)
    elif isinstance(value, Mapping) and len(arguments) == 2:
        for name, below in value.items():
            _check(f"{key}.{name}", arguments[1], below)
    elif not (_is_number(value, kind) and all(rule.accepts(value) for rule in rules)):
        raise ConfigError(f"{key} is {value!r}; give {_noun(kind, rules)}.")
    elif kind is int and abs(value) > _LARGEST_INT:
        raise ConfigError(f"{key} is {value!r}; give an integer that fits into 64 bits.")


def _is_number(value: Any, kind: Any) -> bool:
    """Return whether a value is a finite number of type `kind`; integers are also floats, truth values are neither.

    Values of other types than int and float are not checked.
    """
    if kind not in (int, float):
        return True
    if isinstance(value, bool) or not isinstance(value, numbers.Integral if kind is int else numbers.Real):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer that no float can hold
        return kind is int


def _noun(kind: Any, rules: tuple[Rule, ...]) -> str:
    nouns = {int: "an integer", float: "a finite number"}
    return ", ".join(filter(None, [nouns.get(kind, ""), *map(str, rules)]))
