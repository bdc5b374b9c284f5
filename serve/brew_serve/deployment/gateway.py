"""The gateway: the Ray Serve deployment that speaks HTTP, and hands what needs an engine on to the rankers.

Owns: its replica's life, the handles to the versions that serve, and how Ray's failures read. Does not own: routes and
edge (`api`, `edge`), which version gets a request (`forwarding`), which versions there are (`fleet`), or which replica
of one (`member_router`).
"""

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI
from ray import serve
from ray.exceptions import RayError, RayTaskError
from ray.serve import Application
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from brew_data.prompts.suite import TaskSuite
from brew_serve.config import AppConfig
from brew_serve.deployment.asked import Asked, Reply
from brew_serve.deployment.forwarding import Forwarder
from brew_serve.deployment.replica import RANKER
from brew_serve.deployment.version_controller import fleet, version_app
from brew_serve.deployment.version_reconciler import Target
from brew_serve.http.app import create_gateway
from brew_serve.http.refusals import Lost
from brew_serve.http.routes.nearline import nearline_router
from brew_serve.http.service_status import FleetStatus
from brew_serve.metrics import Meters, merged
from brew_serve.nearline.service import NearlineService

__all__ = ["gateway_app"]

_LOG = logging.getLogger("brew_serve")
_POLL_SECONDS = 1.0  # between two questions for the routes
_START_SECONDS = 60.0  # in which the first routes must be known
_READ_SECONDS = 5.0  # for questions to fleet and rankers that need no engine; one that hangs must not stop us


def gateway_app(config: AppConfig) -> Application:
    """The application that answers HTTP, with the fleet behind it."""
    return serve.deployment(
        serve.ingress()(_Gateway),
        name="Gateway",
        num_replicas=config.gateways,
        max_ongoing_requests=config.max_ongoing_requests * config.max_replicas,  # rankers refuse, by tokens
        ray_actor_options={"num_cpus": 0},  # it waits for rankers, who have reserved theirs
        health_check_timeout_s=_START_SECONDS + 10,
        graceful_shutdown_wait_loop_s=0.2,
        graceful_shutdown_timeout_s=config.drain_seconds,
        logging_config={"enable_access_log": False},  # the edge has one
    ).bind(config, fleet(config))


class _Gateway:
    """The replica; a `Front`."""

    def __init__(self, config: AppConfig, fleet: DeploymentHandle) -> None:
        self.clock = time.perf_counter
        self.meters = Meters()
        self._config, self._fleet = config, fleet
        self._forwarder = Forwarder(self._send, self.meters, request_seconds=config.request_seconds, clock=self.clock)
        self._handles: dict[int, DeploymentHandle] = {}
        self._suites: dict[int, TaskSuite] = {}
        self._replicas = 0  # of production
        self._routed = asyncio.Event()
        self._following: asyncio.Task | None = None
        self._nearline = None if config.nearline is None else NearlineService.open(config.nearline, self._suite)

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Called by Serve after the constructor."""
        routers = () if self._nearline is None else (nearline_router(lambda: self._nearline),)
        return create_gateway(self, self._forwarder, self._config.edge, routers=routers)

    def health(self) -> int:
        """As `Front.health`."""
        if not self._forwarder.targets:
            raise Lost("no version of the model is up yet; one is being started. Try again.")
        return self._forwarder.targets[0].version

    def ready(self) -> int:
        """As `Front.ready`: no replica of production is as good as no service."""
        number = self.health()
        if not self._replicas:
            raise Lost(f"no replica of version {number} is up; one is being started. Try again.")
        return number

    async def metrics(self) -> bytes:
        """As `Front.metrics`: this gateway's and those of all rankers that answer in time."""
        texts = {serve.get_replica_context().replica_id.unique_id: self.meters.text()}
        for handle in list(self._handles.values()):
            told = handle.broadcast("metrics").results_async(timeout_s=_READ_SECONDS, return_exceptions=True)
            texts |= dict(one for one in await told if isinstance(one, tuple))
        return merged(texts)

    async def status(self) -> FleetStatus:
        """As `Front.status`."""
        try:
            status: FleetStatus = await self._ask_fleet("status")
        except (TimeoutError, RayError, RayServeException) as error:
            raise Lost("which versions serve is not known now, as the fleet is started anew. Try again.") from error
        return status

    async def check_health(self) -> None:
        """Called by Serve, the first time before the replica gets requests: then it must know where to send them."""
        if self._following is None or self._following.done():
            self._following = asyncio.create_task(self._follow())
        await asyncio.wait_for(self._routed.wait(), _START_SECONDS)

    def __del__(self) -> None:
        nearline = getattr(self, "_nearline", None)
        if nearline is not None:
            nearline.close()

    async def _follow(self) -> None:
        while True:
            try:
                targets, self._replicas = await self._ask_fleet("routes")
                await self._take(targets)
            except Exception as error:  # the fleet is started anew, or a version has just gone: the routes stay
                _LOG.warning("the routes stay as they are: %s: %s", type(error).__name__, error)
            await asyncio.sleep(_POLL_SECONDS)

    async def _ask_fleet(self, method: str) -> Any:
        return await asyncio.wait_for(self._fleet.options(method_name=method).remote(), _READ_SECONDS)

    async def _take(self, targets: Sequence[Target]) -> None:
        """Follows the fleet's routes, once every new version has answered us."""
        if not targets:
            return
        for version in {one.version for one in targets} - self._handles.keys():
            handle = serve.get_deployment_handle(RANKER, version_app(version))
            suite = await asyncio.wait_for(handle.describe.remote(), _READ_SECONDS)
            self._suites[version] = TaskSuite.from_dict(suite)
            self._handles[version] = handle
        self._forwarder.targets = tuple(targets)
        for version in self._handles.keys() - {one.version for one in targets}:
            del self._handles[version], self._suites[version]
        self._routed.set()

    async def _send(self, version: int, asked: Asked, key: str) -> Reply:
        """To a replica of the version.

        Raises:
            Lost: it ended before it answered, or there is none.
        """
        handle = self._handles.get(version)
        if handle is None:
            raise Lost(f"version {version} has just been taken away. Try again.", 1.0)
        response = handle.answer.remote(asked, key=key)
        try:
            reply: Reply = await response
        except asyncio.CancelledError:  # the caller has left, or the time is up: the engine should know
            response.cancel()
            raise
        except RayTaskError:  # a fault of ours, in the replica
            raise
        except (RayError, RayServeException) as error:
            raise Lost("the replica that had this request has ended; another is being started. Try again.") from error
        return reply

    def _suite(self) -> TaskSuite:
        return self._suites[self.health()]
