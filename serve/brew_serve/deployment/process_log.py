"""The log files of the service's processes, beside those of Ray Serve in the logs of the Ray session."""

import os
from pathlib import Path

import ray
from ray import serve
from ray.serve.exceptions import RayServeException

from brew_platform.console.logging import ProcessLog, open_process_log
from brew_platform.tracing import configure_tracing

__all__ = ["JSON_LOGS", "open_service_log"]

# For Ray Serve's own log of a process. The middleware writes the access log: Serve's would contain the paths.
JSON_LOGS = {"encoding": "JSON", "enable_access_log": False}


def open_service_log(process: str, key: str | None) -> ProcessLog | None:
    """Write the log of this process to `serve/brew360_<process>_<replica>.log` in the logs of the Ray session.

    Its spans are sent to the collector, if one is configured (`brew_platform.tracing`).

    Args:
        process: What the process is, such as `gateway`.
        key: Key of the hashes of ids (`AppConfig.log_key`); None: a random one.

    Returns:
        The open log; None outside of a replica, where the records belong into the log of the caller.
    """
    try:
        replica = serve.get_replica_context().replica_id.unique_id
    except RayServeException:
        return None
    configure_tracing(process)
    folder = Path(ray._private.worker._global_node.get_logs_dir_path()) / "serve"
    secret = None if key is None else key.encode()[:64]
    path = folder / f"brew360_{process}_{replica}_{os.getpid()}.log"
    return open_process_log(path, process=process, key=secret, private=True)
