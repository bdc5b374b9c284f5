"""The replica: a Ray Serve deployment whose replicas each hold one engine with one model version."""

import asyncio
import logging
import os
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from ray import serve
from ray.serve import Application
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy, RequestRouterConfig

from brew_platform.console.logging import log_fields
from brew_platform.errors import BrewError
from brew_platform.tracing import start_span
from brew_serve.config import AppConfig
from brew_serve.context.location import open_context
from brew_serve.deployment.autoscaling import METRIC, OutstandingTokensPolicy, WaitingWork
from brew_serve.deployment.forwarding import ForwardedRequest
from brew_serve.deployment.process_log import JSON_LOGS, open_service_log
from brew_serve.deployment.replica_routing import MemberRouter
from brew_serve.engines.registry import create_engine
from brew_serve.errors import BrokenVersion
from brew_serve.http.route import BackendResponse, run_route
from brew_serve.http.routes import ROUTES
from brew_serve.ranking.service import RankingService
from brew_serve.version import load_version

__all__ = ["REPLICA", "Replica", "replica_app"]

REPLICA = "Replica"  # the deployment's name, in the application of each version

_LOG = logging.getLogger("brew_serve")
_WAIT_SECONDS = 1.0  # for a replica to accept a request: enough for a short burst, less than a restart
_LOOK_BACK_SECONDS = 15.0  # over which outstanding tokens are averaged; replicas report every 10
_WARM_SECONDS = 300.0  # time limit of a loaded engine's first prompt; a large model may still compile
_PROBE_SECONDS = 60.0  # time limit of a tiny prompt, which waits for the requests before it
_EXIT_SECONDS = 0.5  # for responses to be sent before the process exits


def replica_app(config: AppConfig, number: int, replicas: int | None = None) -> Application:
    """Return the application of one version.

    Args:
        number: Of the version.
        replicas: Initial number of replicas; None starts with the minimum. Ignored without autoscaling.
    """
    return serve.deployment(
        Replica,
        name=REPLICA,
        max_ongoing_requests=config.max_ongoing_requests,
        max_constructor_retry_count=1,  # a version that fails to load fails on the second attempt too
        ray_actor_options={
            "num_cpus": config.cpus,
            "num_gpus": config.gpus,
            "label_selector": config.node_labels,
        },
        health_check_period_s=2.0,  # how long a dead engine without requests may stay undetected
        health_check_timeout_s=60.0,
        graceful_shutdown_wait_loop_s=0.2,
        graceful_shutdown_timeout_s=config.drain_seconds,
        request_router_config=RequestRouterConfig(
            request_router_class=MemberRouter, request_router_kwargs={"wait_seconds": _WAIT_SECONDS}
        ),
        logging_config=JSON_LOGS,
        **_scaling(config, replicas),
    ).bind(config, number)


class Replica:
    """One engine with one version. Its engine process ends with it, also when the replica is killed."""

    def __init__(self, config: AppConfig, number: int) -> None:
        self._log = open_service_log("replica", config.log_key)
        folder = config.fetch(number)
        version = load_version(folder, config.engine, config.history)
        pseudonyms = None if config.pseudonyms is None else config.pseudonyms.open()
        context = None if config.context_path is None else open_context(config.context_path, pseudonyms)
        if config.answer_log is not None:
            config.answer_log.key.open()  # before the engine is loaded, which may take minutes
        engine = create_engine(folder, version.engine)
        self._service = RankingService(
            number,
            version,
            engine,
            context,
            name=config.model,
            admission=config.admission,
            answer_log=config.answer_log,
        )
        self._routes = {route.path: route for route in ROUTES}
        self._waiting = WaitingWork()
        self._warm = False

    async def respond(self, request: ForwardedRequest, key: str) -> BackendResponse:
        """Answer a request from a gateway.

        Args:
            key: Of the member; read by `MemberRouter`.
        """
        self._waiting.observe(request.waiting_tokens)
        context = request.context(self._service.clock())
        route, trace = self._routes[request.path], request.trace
        with (
            start_span(
                "replica", {"brew360.version": self._service.number}, parent=trace.traceparent, kind="server"
            ) as span,
            log_fields(request_id=trace.request_id, trace_id=trace.trace_id),
        ):
            response = await run_route(route, self._service, request.body, request.content_type, context)
            span.set({"brew360.tokens": response.tokens, "http.response.status_code": response.status})
            if response.status >= 500:
                span.fail(str(response.status))
        if response.status >= 500:
            await self._recover()
        return response

    async def stream(self, request: ForwardedRequest, key: str) -> AsyncGenerator[BackendResponse | bytes, None]:
        """Answer a request whose response can be a stream; arguments are those of `respond`.

        Yields:
            The response without its events, and then the events.
        """
        response = await self.respond(request, key)
        yield replace(response, events=None)
        if response.events is not None:
            async with aclosing(response.events) as events:
                async for event in events:
                    yield event
            await self._recover()

    def describe(self) -> dict[str, Any]:
        """Return the task suite of the version; also used to test that the replica answers."""
        return self._service.version.suite.to_dict()

    def metrics(self) -> tuple[str, bytes]:
        """Return the replica's name, and its Prometheus metrics as text."""
        return serve.get_replica_context().replica_id.unique_id, self._service.meters.text()

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Called by Serve, for `OutstandingTokensPolicy`."""
        return {METRIC: float(self._service.admission.outstanding_tokens + self._waiting.tokens)}

    async def check_health(self) -> None:
        """Called by Serve; the first call precedes the first request and requires a valid answer to one prompt."""
        if not self._warm:
            try:
                await asyncio.wait_for(self._service.probe(), _WARM_SECONDS)
            except TimeoutError as error:
                raise BrewError(
                    f"the engine was loaded, but did not answer its first prompt within {_WARM_SECONDS:g} s; start the "
                    f"service again, and look at the replica's log if that does not help."
                ) from error
            except BrokenVersion as error:  # Ray passes errors on as text, in which only this class is recognized
                raise BrewError(str(error)) from error
            self._warm = True
        await self._recover()

    async def _recover(self) -> None:
        """Exit this process if its engine has ended, or computes invalid numbers for a prompt that was valid before.

        A model can compute NaN for some prompts only; the replica keeps answering the others. Serve marks a replica as
        unhealthy only after three failed checks, and sends it requests until then. A process that has exited gets no
        more requests, and Serve starts another one at once.
        """
        try:
            if self._service.fault:
                await asyncio.wait_for(self._service.probe(), _PROBE_SECONDS)
            self._service.engine.check()
        except (BrewError, TimeoutError) as error:
            if not self._service.closing:
                _LOG.error("this replica exits and is replaced: %s", error)
                asyncio.get_running_loop().call_later(_EXIT_SECONDS, os._exit, 1)

    def __del__(self) -> None:
        if hasattr(self, "_service"):
            self._service.close()


def _scaling(config: AppConfig, replicas: int | None) -> dict[str, Any]:
    """Return the deployment options for the number of replicas."""
    if config.max_replicas == config.min_replicas:
        return {"num_replicas": config.min_replicas}
    initial = config.min_replicas if replicas is None else replicas
    return {
        "autoscaling_config": AutoscalingConfig(
            min_replicas=config.min_replicas,
            initial_replicas=min(max(initial, config.min_replicas), config.max_replicas),
            max_replicas=config.max_replicas,
            look_back_period_s=_LOOK_BACK_SECONDS,
            upscale_delay_s=config.upscale_seconds,
            downscale_delay_s=config.downscale_seconds,
            policy=AutoscalingPolicy(
                policy_function=OutstandingTokensPolicy, policy_kwargs={"target_tokens": config.target_tokens}
            ),
        )
    }
