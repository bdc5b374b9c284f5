"""Describes the origin of figures and versions: git commit, machine, package versions, time."""

import os
import platform
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

__all__ = ["machine", "now", "source_commit", "versions"]


def source_commit(folder: Path = Path(__file__).parent) -> str | None:
    """Return the git commit of the checkout that contains `folder`.

    Returns:
        40 hex digits, with the suffix "+changes" if tracked files differ from the commit. None outside a checkout, or
        if git is not installed.
    """
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return None
    return f"{commit}+changes" if changed else commit


def machine() -> dict[str, Any]:
    """Return the processor, the number of its cores, and the memory in GiB."""
    cpu = platform.processor()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        pairs = dict(line.split(":", 1) for line in info.read_text().splitlines() if ":" in line)
        fields = {name.strip(): value.strip() for name, value in pairs.items()}
        if "model name" in fields:  # family and model, because hosts with one name can differ twofold in speed
            cpu = f"{fields['model name']}, family {fields.get('cpu family')}, model {fields.get('model')}"
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {"cpu": cpu, "cores": os.cpu_count(), "memory_gib": round(memory / 2**30, 1)}


def versions(packages: Sequence[str]) -> dict[str, str]:
    """Return the version of Python and of those of `packages` that are installed."""
    found = {"python": platform.python_version()}
    for name in packages:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def now() -> str:
    """Return the time in UTC, in ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(folder), *arguments],  # noqa: S607
        capture_output=True,
        check=True,
        text=True,
        timeout=10,
    )
    return done.stdout.strip()
