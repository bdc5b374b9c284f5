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

FAILURE_FILE = "failure.json"  # {"type", "message"} of what ended the engine process
_NAME = "VLLM::EngineCor"  # vLLM's own, as far as the kernel keeps it


class OwnedExecutor(UniProcExecutor):
    """Runs the model in the engine process itself; `additional_config` names the owner's pid and a folder for notes.

    On CPU vLLM's default would start a third process, which only matters for binding threads to cores.
    """

    def _init_executor(self) -> None:
        _own(self.vllm_config.additional_config)
        super()._init_executor()


class OwnedWorkersExecutor(MultiprocExecutor):
    """The same with one worker process for each GPU; these end by themselves when the engine process does."""

    def _init_executor(self) -> None:
        _own(self.vllm_config.additional_config)
        super()._init_executor()


def _own(told: dict[str, Any]) -> None:
    # For `ps` and `top`. vLLM has tried, but setproctitle gives up silently where the environment's first variable was
    # changed, and which that is differs from machine to machine.
    Path("/proc/self/comm").write_text(_NAME)
    notes = Path(told["notes"])
    logging.getLogger("vllm").addHandler(_FailureNote(notes / FAILURE_FILE))
    _end_with(told["owner"], notes)


class _FailureNote(logging.Handler):
    """Writes down the first exception that vLLM logs; the owner reads it when the start fails."""

    def __init__(self, path: Path) -> None:
        super().__init__(level=logging.ERROR)
        self._path = path

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        if error is not None and self._path.parent.exists() and not self._path.exists():
            self._path.write_text(json.dumps({"type": type(error).__name__, "message": str(error)}))


def _end_with(owner: int, notes: Path) -> None:
    """Ends this process as soon as the process `owner` has ended, however it did.

    Not PR_SET_PDEATHSIG: that fires when the *thread* that started this process ends, while its process lives on.
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
