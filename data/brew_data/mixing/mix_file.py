"""`mix.json` of a folder of bins: what a mix has of each source."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from brew_platform.errors import DataError
from brew_platform.files import replace_atomically

__all__ = ["MIX_FILE", "read_mix", "write_mix"]

MIX_FILE = "mix.json"


def write_mix(mix: Mapping[str, Any], folder: Path) -> None:
    """Write `mix.json`.

    Args:
        mix: tokens, budget, seed; sources, each with its kind, weight, available and used documents and tokens, share,
            repeats and strata; and quarantined, the rows that were left out by source and reason.
        folder: The folder of the bins.
    """
    replace_atomically(folder / MIX_FILE, json.dumps(mix, indent=1, ensure_ascii=False) + "\n")


def read_mix(folder: Path) -> dict[str, Any]:
    """Read `mix.json`.

    Raises:
        DataError: It is missing or damaged.
    """
    path = folder / MIX_FILE
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{path} cannot be read ({error}). Build the data again.") from error
