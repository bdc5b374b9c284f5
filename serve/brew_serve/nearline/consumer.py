"""The nearline consumer on Ray Serve's task API: replicas that take messages from the queue, each with an engine."""

import asyncio
import logging
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ray import serve
from ray.serve import Application
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy
from ray.serve.task_consumer import task_consumer, task_handler

from brew_data.prompts.history import HistoryPolicy
from brew_platform.console.logging import PrivateId
from brew_platform.errors import BrewError
from brew_serve.config import AppConfig
from brew_serve.deployment.process_log import JSON_LOGS, open_service_log
from brew_serve.engines.base import Engine
from brew_serve.engines.config import EngineConfig
from brew_serve.engines.logprobs import InvalidOutput, require_logprobs
from brew_serve.engines.registry import create_engine
from brew_serve.nearline.autoscaling import OutboxDepthPolicy
from brew_serve.nearline.celery_queue import TASK, celery_config, message_of
from brew_serve.nearline.config import NearlineConfig
from brew_serve.nearline.job_holds import JobHolds
from brew_serve.nearline.message_handler import NearlineWorker
from brew_serve.ranking.scoring import Scorer
from brew_serve.version import load_version

__all__ = ["CONSUMER", "EngineFactory", "build_consumer", "consumer_app", "scaling"]

CONSUMER = "NearlineConsumer"  # the deployment's name, in the application of each version

_LOG = logging.getLogger("brew_serve")

EngineFactory = Callable[[Path, EngineConfig], Engine]


def consumer_app(config: AppConfig, number: int) -> Application:
    """Build the application of one version's consumers from the settings of the service.

    Args:
        config: Settings with `nearline` set.
        number: Version number in the registry.
    """
    assert config.nearline is not None
    return build_consumer(
        config.nearline,
        number,
        lambda: config.fetch(number),
        config.engine,
        history=config.history,
        log_key=config.log_key,
    )


def build_consumer(
    config: NearlineConfig,
    number: int,
    fetch: Callable[[], Path],
    engine: EngineConfig | None = None,
    *,
    history: Mapping[str, HistoryPolicy] = MappingProxyType({}),
    engine_factory: EngineFactory = create_engine,
    log_key: str | None = None,
) -> Application:
    """Build the consumers of one version as an application for `serve.run(app, name=..., route_prefix=None)`.

    Args:
        config: Settings of the nearline service.
        number: Version number in the registry.
        fetch: Returns the version's folder on the node; called in each replica.
        engine: Settings of the engine.
        history: As `AppConfig.history`.
        engine_factory: Creates the engine from the folder and the settings.
        log_key: As `AppConfig.log_key`.
    """
    consumer = task_consumer(task_processor_config=celery_config(config, send=False))(_Consumer)
    return serve.deployment(
        consumer,
        name=CONSUMER,
        max_ongoing_requests=config.threads,  # the size of Celery's thread pool
        max_constructor_retry_count=1,
        ray_actor_options={
            "num_cpus": config.cpus,
            "num_gpus": config.gpus,
            "label_selector": config.node_labels,
        },
        health_check_period_s=5.0,
        graceful_shutdown_wait_loop_s=0.2,
        graceful_shutdown_timeout_s=20.0,
        logging_config=JSON_LOGS,
        **scaling(config),
    ).bind(config, number, fetch, engine, dict(history), engine_factory, log_key)


class _Consumer:
    """The deployment class: one engine, and the worker thread of Celery."""

    _adapter: Any = None  # set by Serve's task_consumer after the constructor

    def __init__(
        self,
        config: NearlineConfig,
        number: int,
        fetch: Callable[[], Path],
        engine: EngineConfig | None,
        history: Mapping[str, HistoryPolicy],
        engine_factory: EngineFactory,
        log_key: str | None,
    ) -> None:
        self._log = open_service_log("consumer", log_key)
        folder = fetch()
        self._number, version = number, load_version(folder, engine, history)
        self._loop = asyncio.new_event_loop()  # handlers run in threads; the engine runs on one loop
        threading.Thread(target=self._loop.run_forever, name="nearline-engine", daemon=True).start()
        self._context, self._store = config.open_context(), config.open_store()
        seconds = config.dispatch.lost_seconds
        self._holds = JobHolds(self._store, seconds=seconds, job_seconds=config.job_seconds)
        self._holds.start()

        async def load() -> Engine:
            loaded = engine_factory(folder, version.engine)
            try:
                require_logprobs(await loaded.next_token_logprobs([0], [0]))
            except InvalidOutput as error:  # the previous version's consumers continue
                loaded.close()
                raise BrewError(f"version {number} cannot be used: {error}") from error
            return loaded

        # vLLM receives answers on the loop on which it was created, so it is not created on Serve's loop.
        self._engine = asyncio.run_coroutine_threadsafe(load(), self._loop).result()
        self._worker = NearlineWorker(
            number,
            Scorer(self._engine, version.compiler),
            self._context,
            self._store,
            lambda work: asyncio.run_coroutine_threadsafe(work, self._loop).result(),
            holds=self._holds,
            calibration=version.calibration,
            most_attempts=config.most_attempts,
        )

    @task_handler(name=TASK)
    def handle(self, member_id: str, jobs: list[dict[str, Any]]) -> None:
        """Called by Celery in one of its threads, with the content of a message of `CeleryQueue.send`."""
        message = message_of(member_id, jobs)
        try:
            self._engine.check()  # before the attempt is counted: a replica with a dead engine is replaced
            self._worker.handle(message.member_id, message.jobs)
        except BrewError as error:  # the outbox sends it again
            _LOG.warning("nearline work for %s is delayed: %s", PrivateId(member_id), error)

    def describe(self) -> int:
        """Return the version number; a replica that answers is ready."""
        return self._number

    def check_health(self) -> None:
        """Called by Serve, which replaces a replica that raises.

        Raises:
            BrewError: The engine failed, or Celery's worker ended, for example at a message that it cannot read.
        """
        self._engine.check()
        worker = getattr(self._adapter, "_worker_thread", None)  # Serve has no public attribute for it
        if self._adapter is not None and (worker is None or not worker.is_alive()):
            raise BrewError("Celery's worker has ended; its log says why. Serve replaces the replica.")

    def __del__(self) -> None:
        if hasattr(self, "_worker"):
            self._engine.close()
            self._holds.close()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._context.close()
            self._store.close()


def scaling(config: NearlineConfig) -> dict[str, Any]:
    """Return the deployment options for the number of replicas."""
    if config.max_consumers == config.min_consumers:
        return {"num_replicas": config.min_consumers}
    policy: Any = OutboxDepthPolicy
    values: dict[str, Any] = {"outbox_path": str(config.outbox_path), "jobs_per_consumer": config.jobs_per_consumer}
    if config.redis_url is not None:  # Serve's own policy, which does not block the controller
        policy = "ray.serve.async_inference_autoscaling_policy:AsyncInferenceAutoscalingPolicy"
        values = {"broker_url": config.redis_url, "queue_name": config.queue_name, "poll_interval_s": 2.0}
    return {
        "autoscaling_config": AutoscalingConfig(
            min_replicas=config.min_consumers,
            max_replicas=config.max_consumers,
            target_ongoing_requests=config.jobs_per_consumer,
            policy=AutoscalingPolicy(policy_function=policy, policy_kwargs=values),
        )
    }
