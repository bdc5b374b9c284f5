"""Executors that tie vLLM's engine process to its owner and report why a start failed.

Without them, the engine process outlives a killed owner, and a failed start reports only "initialization failed".
Importing this module requires vLLM.
"""

import json
import logging
import os
import select
import shutil
import threading
from pathlib import Path
from typing import Any

from vllm.v1.executor.multiproc_executor import MultiprocExecutor
from vllm.v1.executor.uniproc_executor import UniProcExecutor

__all__ = ["FAILURE_FILE", "OwnedExecutor", "OwnedWorkersExecutor"]

FAILURE_FILE = "failure.json"  # {"type", "message"} of the error that ended the engine process
_NAME = "VLLM::EngineCor"  # vLLM's own process name, cut to the kernel's limit of 15 characters


class OwnedExecutor(UniProcExecutor):
    """Runs the model in the engine process itself. `additional_config` has the owner's pid and a folder for notes.

    On CPU vLLM's default would start a third process, which is useful only for binding threads to cores.
    """

    def _init_executor(self) -> None:
        _own(self.vllm_config.additional_config)
        super()._init_executor()


class OwnedWorkersExecutor(MultiprocExecutor):
    """`OwnedExecutor` with one worker process per GPU. vLLM ends the workers when the engine process ends."""

    def _init_executor(self) -> None:
        _own(self.vllm_config.additional_config)
        super()._init_executor()


def _own(settings: dict[str, Any]) -> None:
    """Name this process, record its first failure, and end it with its owner."""
    # For `ps` and `top`. vLLM sets the name with setproctitle, which silently does nothing if the first variable of the
    # environment was changed.
    Path("/proc/self/comm").write_text(_NAME)
    notes = Path(settings["notes"])
    logging.getLogger("vllm").addHandler(_FailureNote(notes / FAILURE_FILE))
    _end_with(settings["owner"], notes)


class _FailureNote(logging.Handler):
    """Writes the first exception that vLLM logs to a file, which the owner reads if the start fails."""

    def __init__(self, path: Path) -> None:
        super().__init__(level=logging.ERROR)
        self._path = path

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        if error is not None and self._path.parent.exists() and not self._path.exists():
            self._path.write_text(json.dumps({"type": type(error).__name__, "message": str(error)}))


def _end_with(owner: int, notes: Path) -> None:
    """End this process as soon as the process `owner` has ended for any reason.

    PR_SET_PDEATHSIG does not work here: it fires when the *thread* that started this process ends.
    """

    def watch() -> None:
        try:
            descriptor = os.pidfd_open(owner)
        except ProcessLookupError:
            pass
        else:
            if os.getppid() == owner:
                select.select([descriptor], [], [])
        shutil.rmtree(notes, ignore_errors=True)
        os._exit(1)

    threading.Thread(target=watch, name="owner-watch", daemon=True).start()
