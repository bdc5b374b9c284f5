"""YAML text of rendered documents: keys in their order, and texts of several lines as blocks."""

from collections.abc import Mapping
from typing import Any

import yaml

__all__ = ["manifest_text"]


class _Dumper(yaml.SafeDumper):
    """The dumper of `yaml.safe_dump`, without anchors, and with blocks for texts of several lines."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)


_Dumper.add_representer(str, _text)


def manifest_text(document: Mapping[str, Any]) -> str:
    """Return a document as YAML."""
    return yaml.dump(dict(document), Dumper=_Dumper, sort_keys=False, width=120)
