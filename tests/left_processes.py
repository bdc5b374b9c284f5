"""Processes that a test started: kill them with all that they started, or require that they have ended."""

import subprocess
import time
from pathlib import Path

import psutil

__all__ = ["kill_tree", "require_none_left"]


def kill_tree(process: subprocess.Popen[str], *, seconds: float = 60) -> None:
    """Kill a process and all that it started, as a power cut does, and wait until they have ended."""
    family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
    for member in family:
        member.kill()
    process.communicate(timeout=seconds)
    psutil.wait_procs(family, timeout=seconds)


def require_none_left(folder: Path, *, seconds: float = 20) -> None:
    """Wait until no process works in a folder; fail after `seconds`."""
    deadline = time.monotonic() + seconds
    while left := [process for process in psutil.process_iter(["cwd", "status"]) if _is_in(process, folder)]:
        assert time.monotonic() < deadline, f"left running: {left}"
        time.sleep(0.5)


def _is_in(process: psutil.Process, folder: Path) -> bool:
    return process.info["cwd"] == str(folder) and process.info["status"] != psutil.STATUS_ZOMBIE
