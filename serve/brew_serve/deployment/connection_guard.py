"""Gives the connections of Ray Serve's HTTP proxies the limits of `GuardedProtocol`.

The proxies belong to the cluster's Ray Serve, so the limits hold for the connections of all its applications.
Connections that exist already keep the class that they have.
"""

import asyncio
import logging
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayError
from ray.serve._private.constants import SERVE_NAMESPACE, SERVE_PROXY_NAME

from brew_serve.http.config import MiddlewareConfig
from brew_serve.http.guarded_protocol import guarded_protocol

__all__ = ["ConnectionGuard"]

_LOG = logging.getLogger("brew_serve")
_CALL_SECONDS = 5.0  # time limit for a proxy to answer


class ConnectionGuard:
    """Guards the proxies of the cluster, also those that start later; `check` is called from time to time.

    Args:
        limits: Of the connections.
    """

    def __init__(self, limits: MiddlewareConfig) -> None:
        self._limits = limits
        self._guarded: set[str] = set()  # ids of actors

    async def check(self) -> None:
        """Guard the proxies that are not guarded yet. A failure is logged: requests are served without the limits."""
        try:
            proxies = {proxy._actor_id.hex(): proxy for proxy in await asyncio.to_thread(_find_proxies)}
            self._guarded &= proxies.keys()
            for id_ in proxies.keys() - self._guarded:
                if await asyncio.wait_for(proxies[id_].__ray_call__.remote(_guard, self._limits), _CALL_SECONDS):
                    self._guarded.add(id_)
        except (RayError, TimeoutError) as error:
            _LOG.warning("a proxy has no limits for connections yet: %s: %s", type(error).__name__, error)


def _find_proxies() -> list[ActorHandle]:
    found = []
    for actor in ray.util.list_named_actors(all_namespaces=True):
        if actor["namespace"] == SERVE_NAMESPACE and actor["name"].startswith(SERVE_PROXY_NAME):
            try:
                found.append(ray.get_actor(actor["name"], namespace=SERVE_NAMESPACE))
            except ValueError:  # it has just ended
                continue
    return found


def _guard(proxy: Any, limits: MiddlewareConfig) -> bool:
    """Run in a proxy's process: make new connections instances of `GuardedProtocol`.

    Returns:
        Whether the proxy's server has started.
    """
    started: asyncio.Task = proxy._start_http_server_task
    if not started.done():
        return False
    _, server = started.result()
    server.config.http_protocol_class = guarded_protocol(limits)
    return True
