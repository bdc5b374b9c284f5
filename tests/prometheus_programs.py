"""Programs of Prometheus for tests."""

import os
import pwd
from pathlib import Path

import pytest

from brew_cluster.dashboards.programs import find_program

__all__ = ["installed"]


def installed(name: str, monkeypatch: pytest.MonkeyPatch) -> Path | None:
    """Return a program; from this user's cache, too, although the tests have a HOME of their own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(Path(pwd.getpwuid(os.getuid()).pw_dir) / ".cache"))
    return find_program(name)
