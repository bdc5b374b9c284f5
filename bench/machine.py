"""What figures were measured on, and with what: the part that every result file has."""

import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

__all__ = ["machine", "now", "versions"]


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    cpu = platform.processor()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        said = dict(line.split(":", 1) for line in info.read_text().splitlines() if ":" in line)
        said = {name.strip(): value.strip() for name, value in said.items()}
        if "model name" in said:  # hosts of one name differ twofold; family and model tell them apart
            cpu = f"{said['model name']}, family {said.get('cpu family')}, model {said.get('model')}"
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {"cpu": cpu, "cores": os.cpu_count(), "memory_gib": round(pages / 2**30, 1)}


def versions(packages: Sequence[str]) -> dict[str, str]:
    """Of Python and what the figures depend on."""
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


def now() -> str:
    """UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
