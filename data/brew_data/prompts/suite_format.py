"""The serialized format of a suite: its version, and the fields that it leaves out."""

from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from types import MappingProxyType
from typing import Any

from brew_platform.errors import ConfigError

__all__ = ["ADDED", "FORMAT_VERSION", "check_format_version", "plain_data"]

FORMAT_VERSION = 3  # version 2 had other templates, version 1 had no field `format_version` and no surfaces

# The metadata of a field that suites of the same format version can lack. `TaskSuite.to_dict` leaves it out while it
# has its default, so that the digests of earlier prompts stay valid.
ADDED: Mapping[str, bool] = MappingProxyType({"added": True})


def check_format_version(suite: str, version: object) -> None:
    """Refuse a suite of another format.

    Raises:
        ConfigError: `version` is not `FORMAT_VERSION`.
    """
    if version != FORMAT_VERSION:
        found = "no format_version" if version is None else f"format_version {version!r}"
        raise ConfigError(
            f"suite {suite} has {found}, but this release reads format_version {FORMAT_VERSION} only. There, templates "
            f"are Jinja2 ({{{{ title }}}} instead of {{title}}, {{{{ skills | lines }}}} instead of {{skills:each}}), "
            f"profile and entities have `fields` and `phrases`, and history has hop_tokens instead of hop. Convert the "
            f"suite (docs/prompts.md shows how), or use the release that wrote it."
        )


def plain_data(value: Any) -> Any:
    """Return a value of a suite as maps, lists and scalars, without `ADDED` fields that have their defaults."""
    if is_dataclass(value):
        items = ((item, getattr(value, item.name)) for item in fields(value))
        return {
            item.name: plain_data(below)
            for item, below in items
            if "added" not in item.metadata
            or below != (item.default if item.default_factory is MISSING else item.default_factory())
        }
    if isinstance(value, Mapping):
        return {name: plain_data(below) for name, below in value.items()}
    return [plain_data(below) for below in value] if isinstance(value, list | tuple) else value
