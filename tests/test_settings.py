"""Every configuration class of the product declares the range of each number, and refuses NaN and infinity."""

import ast
import dataclasses
import importlib
import math
import re
import types
import typing
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Union

import pytest

from brew_platform.errors import ConfigError
from brew_platform.settings import OneOf, Range, Settings

from .areas import AREAS, ROOT

CLASS = re.compile(r"^class \w+(?:Config|Job)\b|^class \w+\(Settings\)", re.MULTILINE)


@cache
def config_classes() -> tuple[type, ...]:
    """Return the configuration classes of all areas, sorted by module and name."""
    found = set()
    for folder in (ROOT / area / package for area, package in AREAS.items()):
        for file in folder.rglob("*.py"):
            if CLASS.search(file.read_text()):
                module = importlib.import_module(".".join(file.relative_to(folder.parent).with_suffix("").parts))
                found |= {
                    value
                    for value in vars(module).values()
                    if isinstance(value, type)
                    and dataclasses.is_dataclass(value)
                    and value.__module__ == module.__name__
                    if re.search(".(Config|Job)$", value.__name__) or issubclass(value, Settings)
                }
    return tuple(sorted(found, key=lambda cls: (cls.__module__, cls.__name__)))


def numbers_in(hint: Any, *rules: Any) -> Iterator[tuple[type, tuple[Any, ...]]]:
    """Yield each number type in a field's type, with its rules."""
    if typing.get_origin(hint) is Annotated:
        yield from numbers_in(hint.__origin__, *hint.__metadata__)
    elif hint in (int, float):
        yield hint, rules
    else:
        for argument in typing.get_args(hint):
            yield from numbers_in(argument)


def number_fields() -> list[tuple[type, str, type, tuple[Any, ...]]]:
    return [
        (cls, field.name, kind, rules)
        for cls in config_classes()
        for field in dataclasses.fields(cls)
        for kind, rules in numbers_in(typing.get_type_hints(cls, include_extras=True)[field.name])
    ]


def example(hint: Any) -> Any:
    """Return a value of a type that satisfies its rules."""
    if typing.get_origin(hint) is Annotated:
        for rule in hint.__metadata__:
            if isinstance(rule, OneOf):
                return rule.choices[0]
        rules = [rule for rule in hint.__metadata__ if isinstance(rule, Range)]
        return next((value for value in (1, 2, 4, 0.5, 262) if all(rule.accepts(value) for rule in rules)), "a")
    if typing.get_origin(hint) in (Union, types.UnionType):
        return None
    if dataclasses.is_dataclass(hint):
        return typing.cast(Any, types.SimpleNamespace())  # the number under test is refused before it is used
    return {int: 1, float: 1.0, str: "a", bool: True, Path: Path("a")}.get(hint, [])


def build(cls: type, **values: Any) -> None:
    hints = typing.get_type_hints(cls, include_extras=True)
    required = {
        field.name: example(hints[field.name])
        for field in dataclasses.fields(cls)
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    }
    cls(**{**required, **values})


def test_every_configuration_class_checks_its_fields() -> None:
    assert len(config_classes()) > 35
    for cls in config_classes():
        assert issubclass(cls, Settings), f"{cls.__module__}.{cls.__name__} does not inherit Settings"


def test_every_class_that_a_file_fills_checks_its_fields() -> None:
    """`load_config` is called with classes of `Settings` only; a plug-in's class is checked by `load_config` itself."""
    checked = {cls.__name__ for cls in config_classes()}
    for folder in (ROOT / area / package for area, package in AREAS.items()):
        for file in folder.rglob("*.py"):
            for node in ast.walk(ast.parse(text)) if "load_config(" in (text := file.read_text()) else ():
                if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "load_config":
                    target = node.args[0]
                    assert not isinstance(target, ast.Name) or target.id in {*checked, "typed"}, f"{file}: {target.id}"


def test_every_number_declares_its_range_and_is_finite() -> None:
    assert len(number_fields()) > 90
    for cls, name, kind, rules in number_fields():
        ranges = [rule for rule in rules if isinstance(rule, Range)]
        assert len(ranges) == 1, f"{cls.__name__}.{name} is an {kind.__name__} without a range"
        if typing.get_origin(typing.get_type_hints(cls)[name]) in (dict, list, tuple):
            continue  # tests/platform/test_settings.py checks elements
        outside = [value for value in (-1, 0, 1, 2**40) if not ranges[0].accepts(value)]
        for value in (math.nan, math.inf, -math.inf, *outside):
            with pytest.raises(ConfigError, match=rf"^{name.rstrip('_')} is {re.escape(repr(value))}; give "):
                build(cls, **{name: value})
