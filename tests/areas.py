"""The areas of the repository, in the order of `pyproject.toml`: each may import those before it."""

import tomllib
from pathlib import Path

__all__ = ["AREAS", "ROOT"]

ROOT = Path(__file__).parents[1]
_PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
AREAS = dict(path.split("/") for path in _PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"])
