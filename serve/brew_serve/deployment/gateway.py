"""The gateway: the Ray Serve deployment that speaks HTTP and forwards requests to the replicas of the fleet."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from fastapi import FastAPI
from ray import serve
from ray.exceptions import RayError, RayTaskError
from ray.serve import Application
from ray.serve.config import BackpressureConfig
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from brew_data.prompts.suite import TaskSuite
from brew_serve.config import AppConfig
from brew_serve.deployment.connection_guard import ConnectionGuard
from brew_serve.deployment.forwarding import ForwardedRequest, Forwarder
from brew_serve.deployment.process_log import JSON_LOGS, open_service_log
from brew_serve.deployment.replica import REPLICA
from brew_serve.deployment.version_controller import APP_NAME, version_app_name, version_controller
from brew_serve.deployment.version_reconciler import Target
from brew_serve.errors import Lost
from brew_serve.http.app import create_app
from brew_serve.http.request_context import RequestContext
from brew_serve.http.route import BackendResponse, Route
from brew_serve.http.routes.nearline import nearline_router
from brew_serve.metrics import Meters, merged
from brew_serve.nearline.metrics import NearlineCollector
from brew_serve.nearline.service import NearlineService
from brew_serve.schemas.status import FleetStatus

__all__ = ["GATEWAY", "FleetBackend", "Gateway", "gateway_app"]

GATEWAY = "Gateway"  # the deployment's name, in the application `APP_NAME`

_LOG = logging.getLogger("brew_serve")
# Of a gateway. Its own limits, which count per team, refuse requests before any team could use up all of these. Further
# requests wait in the proxies, and those beyond the second number get 503 there.
_MAX_ONGOING_REQUESTS, _MAX_QUEUED_REQUESTS, _RETRY_SECONDS = 20_000, 1_000, 5.0
_BUFFER = 1.25  # work in the replicas, as a multiple of autoscaling's target; more work waits in the gateway
_GUARD_SECONDS = 5.0  # between two looks for proxies that have started
_POLL_SECONDS = 1.0  # between two requests for the routes
_START_SECONDS = 60.0  # time limit for the first routes
_READ_SECONDS = 5.0  # time limit for calls to controller and replicas that need no engine


def gateway_app(config: AppConfig) -> Application:
    """Return the application that answers HTTP, with the version controller."""
    return serve.deployment(
        serve.ingress()(Gateway),
        name=GATEWAY,
        num_replicas=config.gateways,
        max_ongoing_requests=_MAX_ONGOING_REQUESTS,
        max_queued_requests=_MAX_QUEUED_REQUESTS,
        backpressure_config=BackpressureConfig(retry_after_s=_RETRY_SECONDS),
        # no CPUs: it waits for replicas, which have reserved theirs
        ray_actor_options={"num_cpus": 0, "label_selector": config.node_labels},
        health_check_timeout_s=_START_SECONDS + 10,
        graceful_shutdown_wait_loop_s=0.2,
        graceful_shutdown_timeout_s=config.drain_seconds,
        logging_config=JSON_LOGS,
    ).bind(config, version_controller(config))


class FleetBackend:
    """The `RankingBackend` that forwards requests to the replicas of the versions that serve.

    Args:
        controller: Handle of the version controller.
        config: Of the service.
    """

    def __init__(self, controller: DeploymentHandle, config: AppConfig) -> None:
        self.clock = time.perf_counter
        self.meters = Meters()
        self.suites: dict[int, TaskSuite] = {}  # by version
        self._controller = controller
        self.request_seconds = config.request_seconds
        self._forwarder = Forwarder(self._send, self.meters, request_seconds=self.request_seconds, clock=self.clock)
        self._tokens_per_replica = _BUFFER * config.target_tokens / config.gateways
        self._gateways = config.gateways
        self._guard = ConnectionGuard(config.middleware)
        self._handles: dict[int, DeploymentHandle] = {}
        self._first_calls: dict[int, asyncio.Task] = {}  # to versions that have not answered one yet
        self._problem = ""  # why the routes are old; logged when it changes
        self._replicas = 0  # of production
        self._has_routes = asyncio.Event()
        self._following: asyncio.Task | None = None
        self._guarding: asyncio.Task | None = None

    async def respond(self, route: Route, body: bytes, content_type: str, context: RequestContext) -> BackendResponse:
        """Forward the request to a replica."""
        return await self._forwarder.forward(route.path, body, content_type, context, streams=route.streams)

    def running_tokens(self) -> int:
        return round(self._tokens_per_replica * max(1, self._replicas))

    def check_health(self) -> int:
        if not self._forwarder.targets:
            raise Lost("no version of the model is up yet; one is being started. Try again.")
        return self._forwarder.targets[0].version

    def check_ready(self) -> int:
        number = self.check_health()
        if not self._replicas or not self._forwarder.targets[0].up:
            raise Lost(f"no replica of version {number} is up; one is being started. Try again.")
        return number

    async def metrics(self) -> bytes:
        """Return the metrics of the gateways, the version controller and all replicas that answer in time.

        A scrape reaches any one of the gateways, which therefore reads the others, too.
        """
        texts = dict([await self.own_metrics()])
        handles = list(self._handles.values())
        if self._gateways > 1:
            handles.append(serve.get_deployment_handle(GATEWAY, APP_NAME))
        for results in await asyncio.gather(*map(self._read_metrics, handles), self._read_controller_metrics()):
            texts |= results
        return await asyncio.to_thread(merged, texts)  # parses them, which takes a while with many replicas

    async def own_metrics(self) -> tuple[str, bytes]:
        """Return the name of this gateway, and its metrics as text."""
        return serve.get_replica_context().replica_id.unique_id, await asyncio.to_thread(self.meters.text)

    async def _read_controller_metrics(self) -> dict[str, bytes]:
        try:
            return {"controller": await self._call_controller("metrics")}
        except (TimeoutError, RayError, RayServeException) as error:
            _LOG.warning("the version controller has no metrics now: %s: %s", type(error).__name__, error)
            return {}

    async def _read_metrics(self, handle: DeploymentHandle) -> dict[str, bytes]:
        """Return the metrics of the replicas of a deployment that answer in time."""
        try:
            call = handle.broadcast("metrics").results_async(timeout_s=_READ_SECONDS, return_exceptions=True)
            return dict(result for result in await call if isinstance(result, tuple))
        except Exception as error:  # no replica is up, or one hangs
            _LOG.warning("%s has no metrics now: %s: %s", handle.app_name, type(error).__name__, error)
            return {}

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
            self._guarding = asyncio.create_task(self._guard_proxies())
        await asyncio.wait_for(self._has_routes.wait(), _START_SECONDS)

    async def _follow(self) -> None:
        while True:
            problem = ""
            try:
                targets, self._replicas = await self._call_controller("routes")
                await self._update_routes(targets)
            except Exception as error:  # the controller restarts: the routes stay
                problem = f"the routes stay as they are: {type(error).__name__}: {error}"
            self._warn(problem)
            await asyncio.sleep(_POLL_SECONDS)

    async def _guard_proxies(self) -> None:
        while True:
            await self._guard.check()
            await asyncio.sleep(_GUARD_SECONDS)

    async def _call_controller(self, method: str) -> Any:
        return await asyncio.wait_for(self._controller.options(method_name=method).remote(), _READ_SECONDS)

    async def _update_routes(self, targets: Sequence[Target]) -> None:
        """Use the routes; a version that has not answered this gateway yet gets no requests.

        Only production is waited for. If it does not answer, the previous production version stays; a gateway without
        one takes the new one nevertheless, so that it can answer requests with what is wrong.
        """
        if not targets:
            return
        for version in {target.version for target in targets} - self._handles.keys():
            self._handles[version] = serve.get_deployment_handle(REPLICA, version_app_name(version))
        for version in self._handles.keys() - self.suites.keys() - self._first_calls.keys():
            self._first_calls[version] = asyncio.create_task(self._describe(version))
        if production := self._first_calls.get(targets[0].version):
            await asyncio.wait([production])
        self._forwarder.targets = self._answering(targets)
        for version in self._handles.keys() - {target.version for target in (*targets, *self._forwarder.targets)}:
            del self._handles[version]
            self.suites.pop(version, None)
        self._has_routes.set()

    def _answering(self, targets: Sequence[Target]) -> tuple[Target, ...]:
        """Return the targets without canaries and shadows that are up but have not answered this gateway yet."""
        production, *others = targets
        if production.version not in self.suites:
            before = self._forwarder.targets
            production = before[0] if before else replace(production, up=False)
        known = (target for target in others if target.version in self.suites or not target.up)
        return (production, *(target for target in known if target.version != production.version))

    async def _describe(self, version: int) -> None:
        """Call a version for the first time, which also makes its replicas known to its handle."""
        try:
            suite = await asyncio.wait_for(self._handles[version].describe.remote(), _READ_SECONDS)
            if version in self._handles:
                self.suites[version] = TaskSuite.from_dict(suite)
        except Exception as error:  # it was just removed, or no replica is up: the next routes try again
            _LOG.info("version %d does not answer this gateway yet: %s", version, error)
        finally:
            del self._first_calls[version]

    def _warn(self, problem: str) -> None:
        """Log why the routes are old, when that changes."""
        if problem and problem != self._problem:
            _LOG.warning("%s", problem)
        self._problem = problem

    async def _send(self, version: int, request: ForwardedRequest, key: str) -> BackendResponse:
        """Send a request to a replica of the version.

        Raises:
            Lost: The replica ended before it answered, or there is none.
        """
        handle = self._handles.get(version)
        if handle is None:
            raise Lost(f"version {version} has just been removed. Try again.", 1.0)
        request = replace(request, waiting_tokens=self._waiting_per_replica(version, request.waiting_tokens))
        if request.streams:
            return await self._open_stream(handle, request, key)
        pending = handle.respond.remote(request, key=key)
        with _cancel_or_lose(pending):
            response: BackendResponse = await pending
        return response

    def _waiting_per_replica(self, version: int, waiting_tokens: int) -> int:
        """Return the part of the waiting work that a replica of the version adds to its load for autoscaling.

        Waiting requests are counted for production, which answers nearly all. Other gateways have as many.
        """
        if version not in [target.version for target in self._forwarder.targets[:1]]:
            return 0
        return waiting_tokens * self._gateways // max(1, self._replicas)

    async def _open_stream(self, handle: DeploymentHandle, request: ForwardedRequest, key: str) -> BackendResponse:
        """Return the first item of a replica's stream, with the others as `events`."""
        pending = handle.options(stream=True).stream.remote(request, key=key)
        with _cancel_or_lose(pending):
            response: BackendResponse = await anext(pending)
        if response.is_stream:
            return replace(response, events=_relay(pending))
        async for _ in pending:  # ends at once; the router counts the request until then
            pass
        return response


async def _relay(pending: Any) -> AsyncGenerator[bytes, None]:
    with _cancel_or_lose(pending):
        async for event in pending:
            yield event


@contextmanager
def _cancel_or_lose(pending: Any) -> Iterator[None]:
    """Cancel a call to a replica if it is not awaited to its end, and raise a Lost if the replica has ended.

    Args:
        pending: What the deployment handle returned.
    """
    try:
        yield
    except (asyncio.CancelledError, GeneratorExit):  # the client disconnected, or the time is up
        pending.cancel()
        raise
    except RayTaskError:  # a bug in the replica
        raise
    except (RayError, RayServeException) as error:
        raise Lost("the replica that had this request has ended; another is being started. Try again.") from error


class Gateway:
    """The deployment class: an HTTP application on a `FleetBackend`, with the nearline routes if configured."""

    def __init__(self, config: AppConfig, controller: DeploymentHandle) -> None:
        self._config = config
        self._log = open_service_log("gateway", config.log_key)
        self._backend = FleetBackend(controller, config)
        pseudonyms = None if config.pseudonyms is None else config.pseudonyms.open()
        self._nearline = (
            None if config.nearline is None else NearlineService.open(config.nearline, self._suite, pseudonyms)
        )

        if self._nearline is not None:
            nearline = self._nearline
            self._backend.meters.add(NearlineCollector(nearline.outbox.backlog, lambda: nearline.problem))

    async def metrics(self) -> tuple[str, bytes]:
        """Called by the other gateways: return the name of this one, and its metrics as text."""
        return await self._backend.own_metrics()

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Called by Serve after the constructor."""
        routers = () if self._nearline is None else (nearline_router(lambda: self._nearline),)
        return create_app(
            self._backend,
            self._config.middleware,
            routers=routers,
            degraded=self._degraded,
            gateways=self._config.gateways,
        )

    async def check_health(self) -> None:
        """Called by Serve; the first call precedes the first request and waits for the routes."""
        await self._backend.wait_for_routes()

    def __del__(self) -> None:
        nearline = getattr(self, "_nearline", None)
        if nearline is not None:
            nearline.close()

    def _degraded(self) -> list[str]:
        return ["nearline"] if self._nearline is not None and self._nearline.problem else []

    def _suite(self) -> TaskSuite:
        """Return the suite of the production version.

        Raises:
            Lost: Production is not known yet, or has not answered this gateway.
        """
        number = self._backend.check_health()
        if number not in self._backend.suites:
            raise Lost(f"no replica of version {number} is up; one is being started. Try again.")
        return self._backend.suites[number]
