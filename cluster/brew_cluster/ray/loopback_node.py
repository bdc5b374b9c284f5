"""`ray start` for a worker node on 127.0.0.1: `python -m brew_cluster.ray.loopback_node start --address=...`.

Ray listens on loopback only if RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER is 0, but then its command starts no worker nodes.
This process lifts that refusal, and keeps the address. The node's processes read the variable themselves. It also waits
longer than Ray's 30 seconds for the node, because several nodes start on the cores of one machine.
"""

import time
from typing import Any

from ray._private import ray_constants, services
from ray.scripts.scripts import main

__all__: list[str] = []

_PATIENCE_SECONDS = 90.0  # for the node to be registered

_get_node = services.get_node


def _loopback(*arguments: Any, **options: Any) -> str:
    return "127.0.0.1"


def _patient_get_node(*arguments: Any) -> Any:
    """Return the registered node, as Ray's function does."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            return _get_node(*arguments)
        except RuntimeError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)


if __name__ == "__main__":
    ray_constants.ENABLE_RAY_CLUSTER = True
    services.get_node_ip_address = _loopback
    services.get_node = _patient_get_node
    main()
