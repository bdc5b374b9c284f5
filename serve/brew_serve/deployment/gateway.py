"""The gateway: the Ray Serve deployment that speaks HTTP and forwards requests to the replicas of the fleet."""

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
from brew_serve.deployment.forwarding import ForwardedRequest, Forwarder
from brew_serve.deployment.replica import REPLICA
from brew_serve.deployment.version_controller import version_app_name, version_controller
from brew_serve.deployment.version_reconciler import Target
from brew_serve.errors import Lost
from brew_serve.http.app import create_app
from brew_serve.http.request_context import RequestContext
from brew_serve.http.route import BackendResponse, Route
from brew_serve.http.routes.nearline import nearline_router
from brew_serve.metrics import Meters, merged
from brew_serve.nearline.service import NearlineService
from brew_serve.schemas.status import FleetStatus

__all__ = ["FleetBackend", "Gateway", "gateway_app"]

_LOG = logging.getLogger("brew_serve")
_POLL_SECONDS = 1.0  # between two requests for the routes
_START_SECONDS = 60.0  # time limit for the first routes
_READ_SECONDS = 5.0  # time limit for calls to controller and replicas that need no engine


def gateway_app(config: AppConfig) -> Application:
    """Return the application that answers HTTP, with the version controller."""
    return serve.deployment(
        serve.ingress()(Gateway),
        name="Gateway",
        num_replicas=config.gateways,
        max_ongoing_requests=config.max_ongoing_requests * config.max_replicas,  # replicas refuse, by tokens
        ray_actor_options={"num_cpus": 0},  # it waits for replicas, which have reserved theirs
        health_check_timeout_s=_START_SECONDS + 10,
        graceful_shutdown_wait_loop_s=0.2,
        graceful_shutdown_timeout_s=config.drain_seconds,
        logging_config={"enable_access_log": False},  # the middleware writes one
    ).bind(config, version_controller(config))


class FleetBackend:
    """The `RankingBackend` that forwards requests to the replicas of the versions that serve.

    Args:
        controller: Handle of the version controller.
        request_seconds: Time limit of a request without a deadline.
    """

    def __init__(self, controller: DeploymentHandle, *, request_seconds: float) -> None:
        self.clock = time.perf_counter
        self.meters = Meters()
        self.suites: dict[int, TaskSuite] = {}  # by version
        self._controller = controller
        self._forwarder = Forwarder(self._send, self.meters, request_seconds=request_seconds, clock=self.clock)
        self._handles: dict[int, DeploymentHandle] = {}
        self._replicas = 0  # of production
        self._has_routes = asyncio.Event()
        self._following: asyncio.Task | None = None

    async def respond(self, route: Route, body: bytes, content_type: str, context: RequestContext) -> BackendResponse:
        """Forward the request to a replica."""
        return await self._forwarder.forward(route.path, body, content_type, context)

    def check_health(self) -> int:
        if not self._forwarder.targets:
            raise Lost("no version of the model is up yet; one is being started. Try again.")
        return self._forwarder.targets[0].version

    def check_ready(self) -> int:
        number = self.check_health()
        if not self._replicas:
            raise Lost(f"no replica of version {number} is up; one is being started. Try again.")
        return number

    async def metrics(self) -> bytes:
        """Return the metrics of this gateway and of all replicas that answer in time."""
        texts = {serve.get_replica_context().replica_id.unique_id: self.meters.text()}
        for handle in list(self._handles.values()):
            results = handle.broadcast("metrics").results_async(timeout_s=_READ_SECONDS, return_exceptions=True)
            texts |= dict(result for result in await results if isinstance(result, tuple))
        return merged(texts)

    async def status(self) -> FleetStatus:
        try:
            status: FleetStatus = await self._call_controller("status")
        except (TimeoutError, RayError, RayServeException) as error:
            raise Lost("the serving versions are unknown now: the version controller restarts. Try again.") from error
        return status

    async def wait_for_routes(self) -> None:
        """Start following the version controller, and wait until the routes are known."""
        if self._following is None or self._following.done():
            self._following = asyncio.create_task(self._follow())
        await asyncio.wait_for(self._has_routes.wait(), _START_SECONDS)

    async def _follow(self) -> None:
        while True:
            try:
                targets, self._replicas = await self._call_controller("routes")
                await self._update_routes(targets)
            except Exception as error:  # the controller restarts, or a version was just removed: the routes stay
                _LOG.warning("the routes stay as they are: %s: %s", type(error).__name__, error)
            await asyncio.sleep(_POLL_SECONDS)

    async def _call_controller(self, method: str) -> Any:
        return await asyncio.wait_for(self._controller.options(method_name=method).remote(), _READ_SECONDS)

    async def _update_routes(self, targets: Sequence[Target]) -> None:
        """Use the routes once every new version has answered."""
        if not targets:
            return
        for version in {target.version for target in targets} - self._handles.keys():
            handle = serve.get_deployment_handle(REPLICA, version_app_name(version))
            suite = await asyncio.wait_for(handle.describe.remote(), _READ_SECONDS)
            self.suites[version] = TaskSuite.from_dict(suite)
            self._handles[version] = handle
        self._forwarder.targets = tuple(targets)
        for version in self._handles.keys() - {target.version for target in targets}:
            del self._handles[version], self.suites[version]
        self._has_routes.set()

    async def _send(self, version: int, request: ForwardedRequest, key: str) -> BackendResponse:
        """Send a request to a replica of the version.

        Raises:
            Lost: The replica ended before it answered, or there is none.
        """
        handle = self._handles.get(version)
        if handle is None:
            raise Lost(f"version {version} has just been removed. Try again.", 1.0)
        pending = handle.respond.remote(request, key=key)
        try:
            response: BackendResponse = await pending
        except asyncio.CancelledError:  # the client disconnected, or the time is up: cancel the work in the engine
            pending.cancel()
            raise
        except RayTaskError:  # a bug in the replica
            raise
        except (RayError, RayServeException) as error:
            raise Lost("the replica that had this request has ended; another is being started. Try again.") from error
        return response


class Gateway:
    """The deployment class: an HTTP application on a `FleetBackend`, with the nearline routes if configured."""

    def __init__(self, config: AppConfig, controller: DeploymentHandle) -> None:
        self._config = config
        self._backend = FleetBackend(controller, request_seconds=config.request_seconds)
        self._nearline = None if config.nearline is None else NearlineService.open(config.nearline, self._suite)

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Called by Serve after the constructor."""
        routers = () if self._nearline is None else (nearline_router(lambda: self._nearline),)
        return create_app(self._backend, self._config.middleware, routers=routers)

    async def check_health(self) -> None:
        """Called by Serve; the first call precedes the first request and waits for the routes."""
        await self._backend.wait_for_routes()

    def __del__(self) -> None:
        nearline = getattr(self, "_nearline", None)
        if nearline is not None:
            nearline.close()

    def _suite(self) -> TaskSuite:
        return self._backend.suites[self._backend.check_health()]
