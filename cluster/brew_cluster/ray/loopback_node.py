"""`ray start` for a worker node on 127.0.0.1: `python -m brew_cluster.ray.loopback_node start --address=...`.

Ray listens on loopback only if RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER is 0, but then its command starts no worker nodes.
This process lifts that refusal, and keeps the address. The node's processes read the variable themselves.
"""

from typing import Any

from ray._private import ray_constants, services
from ray.scripts.scripts import main

__all__: list[str] = []


def _loopback(*arguments: Any, **options: Any) -> str:
    return "127.0.0.1"


if __name__ == "__main__":
    ray_constants.ENABLE_RAY_CLUSTER = True
    services.get_node_ip_address = _loopback
    main()
