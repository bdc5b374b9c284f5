"""The ranker: a Ray Serve deployment whose replicas each hold one engine with one version of the registry.

Owns: the replica's life from the fetch of its version to the end of its engine, and how Serve is to run it: router,
scaling, drain. Does not own: routes (`api`), answers (`service`), scores (`scoring`).
"""

import asyncio
import logging
import os
from pathlib import Path
from typing import Any

from ray import serve
from ray.serve import Application
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy, RequestRouterConfig

from brew_platform.errors import BrewError
from brew_serve.config import AppConfig
from brew_serve.context.base import MemberContext
from brew_serve.deployment.asked import Asked, Reply, ask
from brew_serve.deployment.autoscaling import METRIC, OutstandingTokensPolicy
from brew_serve.deployment.member_router import MemberRouter
from brew_serve.http.app import create_routes
from brew_serve.ranking.service import RankService
from brew_serve.version import load_version

__all__ = ["RANKER", "ranker_app"]

RANKER = "Ranker"  # the deployment's name, in the application of each version

_LOG = logging.getLogger("brew_serve")
_WAIT_SECONDS = 1.0  # of a request for a replica: a moment's rush is waited out, a restart is not
_LOOK_BACK_SECONDS = 15.0  # over which outstanding tokens are averaged; replicas report every 10
_WARM_SECONDS = 300.0  # in which a loaded engine must answer one prompt; a large model may still compile for it
_LEAVE_SECONDS = 0.5  # in which the answers that a dead engine left are still sent


def ranker_app(config: AppConfig, number: int, replicas: int | None = None) -> Application:
    """The application of one version.

    Args:
        number: of the version.
        replicas: to begin with; None begins with the fewest. Without autoscaling it is of no account.
    """
    return serve.deployment(
        _Ranker,
        name=RANKER,
        max_ongoing_requests=config.max_ongoing_requests,
        max_constructor_retry_count=1,  # a version that does not load will not load on the second try either
        ray_actor_options={"num_cpus": config.cpus, "num_gpus": config.gpus},
        health_check_period_s=2.0,  # how long a dead engine without requests may go unnoticed
        health_check_timeout_s=60.0,
        graceful_shutdown_wait_loop_s=0.2,
        graceful_shutdown_timeout_s=config.drain_seconds,
        request_router_config=RequestRouterConfig(
            request_router_class=MemberRouter, request_router_kwargs={"wait_seconds": _WAIT_SECONDS}
        ),
        logging_config={"enable_access_log": False},  # the edge has one
        **_scaling(config, replicas),
    ).bind(config, number)


class _Ranker:
    """The replica. Its engine's process ends with it: at once on shutdown, and within a moment when it is killed."""

    def __init__(self, config: AppConfig, number: int) -> None:
        from brew_serve.engines.vllm.engine import VllmEngine

        folder = config.fetch(number)
        version = load_version(folder, config.engine)
        context = None if config.context_path is None else MemberContext(Path(config.context_path))
        engine = VllmEngine(folder, version.engine)
        self._service = RankService(number, version, engine, context, name=config.model, admission=config.admission)
        self._routes = create_routes(lambda: self._service)
        self._warm = False

    async def answer(self, asked: Asked, key: str) -> Reply:
        """The answer to a request that passed a gateway.

        Args:
            key: of the member; the router's (`member_router`).
        """
        reply = await ask(self._routes, asked, self._service.clock())
        if reply.status >= 500:
            self._leave_if_dead()
        return reply

    def describe(self) -> dict[str, Any]:
        """The task suite of the version; who can be asked for it, can answer."""
        return self._service.version.suite.to_dict()

    def metrics(self) -> tuple[str, bytes]:
        """The replica's name, and its Prometheus metrics as text."""
        return serve.get_replica_context().replica_id.unique_id, self._service.meters.text()

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Called by Serve, for `OutstandingTokensPolicy`."""
        return {METRIC: float(self._service.gate.outstanding_tokens)}

    async def check_health(self) -> None:
        """Called by Serve, the first time before the replica gets requests: then the engine must answer one prompt."""
        if not self._warm:
            try:
                await asyncio.wait_for(self._service.engine.next_token_logprobs([0], [0]), _WARM_SECONDS)
            except TimeoutError as error:
                raise BrewError(
                    f"the engine was loaded, but gave its first prompt no answer within {_WARM_SECONDS:g} s; start the "
                    f"service again, and look at the replica's log if that does not help."
                ) from error
            self._warm = True
        self._leave_if_dead()

    def _leave_if_dead(self) -> None:
        """Ends this process when its engine has ended.

        Serve would believe an unhealthy replica only after three checks, and send it requests until then. A process
        that has ended gets no more, and another is started at once.
        """
        try:
            self._service.engine.check()
        except BrewError as error:
            if not self._service.closing:
                _LOG.error("this replica ends, and is replaced: %s", error)
                asyncio.get_running_loop().call_later(_LEAVE_SECONDS, os._exit, 1)

    def __del__(self) -> None:
        if hasattr(self, "_service"):
            self._service.close()


def _scaling(config: AppConfig, replicas: int | None) -> dict[str, Any]:
    """The deployment's options that say how many replicas there are."""
    if config.max_replicas == config.min_replicas:
        return {"num_replicas": config.min_replicas}
    wanted = config.min_replicas if replicas is None else replicas
    return {
        "autoscaling_config": AutoscalingConfig(
            min_replicas=config.min_replicas,
            initial_replicas=min(max(wanted, config.min_replicas), config.max_replicas),
            max_replicas=config.max_replicas,
            look_back_period_s=_LOOK_BACK_SECONDS,
            upscale_delay_s=config.upscale_seconds,
            downscale_delay_s=config.downscale_seconds,
            policy=AutoscalingPolicy(
                policy_function=OutstandingTokensPolicy, policy_kwargs={"target_tokens": config.target_tokens}
            ),
        )
    }
