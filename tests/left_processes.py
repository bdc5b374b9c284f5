"""Processes that a test started and that still run."""

import time
from pathlib import Path

import psutil

__all__ = ["require_none_left"]


def require_none_left(folder: Path, *, seconds: float = 20) -> None:
    """Wait until no process works in a folder; fail after `seconds`."""
    deadline = time.monotonic() + seconds
    while left := [process for process in psutil.process_iter(["cwd", "status"]) if _is_in(process, folder)]:
        assert time.monotonic() < deadline, f"left running: {left}"
        time.sleep(0.5)


def _is_in(process: psutil.Process, folder: Path) -> bool:
    return process.info["cwd"] == str(folder) and process.info["status"] != psutil.STATUS_ZOMBIE
