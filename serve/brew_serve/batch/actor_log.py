"""The log file of an actor that scores a batch, in the logs of the Ray session."""

import os
from pathlib import Path

import ray

from brew_platform.console.logging import ProcessLog, open_process_log

__all__ = ["open_actor_log"]


def open_actor_log() -> ProcessLog | None:
    """Write the log of this process to `brew360_batch_<pid>.log`.

    Returns:
        The open log; None outside of a Ray actor, where the records belong into the log of the caller.
    """
    if not ray.is_initialized() or ray.get_runtime_context().get_actor_id() is None:
        return None
    folder = Path(ray._private.worker._global_node.get_logs_dir_path())
    return open_process_log(folder / f"brew360_batch_{os.getpid()}.log", process="batch", private=True)
