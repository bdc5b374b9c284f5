"""The file `sweep.json`: which releases a sweep consists of."""

import json
from collections.abc import Sequence
from pathlib import Path

from brew_platform.errors import UserError
from brew_platform.files import replace_atomically

__all__ = ["SWEEP_FILE", "read_sweep_file", "write_sweep_file"]

SWEEP_FILE = "sweep.json"
FORMAT_VERSION = 1


def write_sweep_file(folder: Path, names: Sequence[str]) -> None:
    """Write the names of the releases, which are folders of the sweep's folder."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {"format_version": FORMAT_VERSION, "releases": list(names)}
    replace_atomically(folder / SWEEP_FILE, json.dumps(content) + "\n")


def read_sweep_file(folder: Path) -> list[Path]:
    """Return the folders of a sweep's releases.

    Raises:
        UserError: The file is damaged, or of another release of brew360.
    """
    try:
        content = json.loads((folder / SWEEP_FILE).read_text())
        if content["format_version"] != FORMAT_VERSION:
            raise ValueError(f"its format_version is {content['format_version']}, not {FORMAT_VERSION}")
        return [folder / str(name) for name in content["releases"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder / SWEEP_FILE} cannot be read ({error}). Run the sweep again.") from error
