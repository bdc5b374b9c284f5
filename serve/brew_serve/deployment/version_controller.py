"""The fleet: one small Ray Serve deployment that keeps the versions up which the registry wants served.

Every version is an application of its own (`ranker`), so that two can be up at once and one can fail alone; so are the
nearline consumers of every version (`nearline.consumer`), where there are any.

Owns: when to look, and telling the registry what did not come up. Does not own: what is done about the versions
(`follower` decides, `version_apps` does it), or where a request goes (`gateway` asks for the routes).
"""

import logging
import threading
from collections.abc import Sequence

from ray import serve
from ray.serve import Application

from brew_platform.errors import BrewError
from brew_serve.config import AppConfig
from brew_serve.deployment.replica import RANKER, ranker_app
from brew_serve.deployment.version_apps import VersionApps
from brew_serve.deployment.version_reconciler import Follower, Target
from brew_serve.http.service_status import FleetStatus, VersionStatus
from brew_serve.nearline.consumer import CONSUMER, consumer_app

__all__ = ["APP_NAME", "consumers_name", "fleet", "version_app"]

APP_NAME = "brew360"

_LOG = logging.getLogger("brew_serve")
_RETIRE_SECONDS = 5.0  # gateways ask for the routes every second


def version_app(number: int) -> str:
    """The name of the application of a version's rankers."""
    return f"{APP_NAME}-v{number}"


def consumers_name(number: int) -> str:
    """The name of the application of a version's nearline consumers."""
    return f"{APP_NAME}-nearline-v{number}"


def fleet(config: AppConfig) -> Application:
    """The deployment, to be bound into the gateway's application."""
    return serve.deployment(
        _Fleet,
        name="Fleet",
        num_replicas=1,  # two would start and delete the same applications
        ray_actor_options={"num_cpus": 0},
        health_check_period_s=5.0,
        graceful_shutdown_wait_loop_s=0.2,
        logging_config={"enable_access_log": False},
    ).bind(config)


class _Fleet:
    """The replica. When it is started anew it finds the applications that are up, and goes on from there."""

    def __init__(self, config: AppConfig) -> None:
        self._config = config
        self._registry = config.open_registry()
        self._rankers = VersionApps(
            version_app,
            RANKER,
            lambda number, replicas: ranker_app(config, number, replicas),
            Follower(config.alias, start_seconds=config.start_seconds, retire_seconds=_RETIRE_SECONDS),
        )
        self._consumers = None if config.nearline is None else _consumers(config)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="fleet", daemon=True)
        self._thread.start()

    def routes(self) -> tuple[Sequence[Target], int]:
        """Who gets requests, production first, and on how many replicas production answers."""
        routes, seen = self._rankers.routes, self._rankers.seen
        return routes, seen[routes[0].version].replicas if routes and routes[0].version in seen else 0

    def status(self) -> FleetStatus:
        """As `Front.status`."""
        roles = {target.version: target for target in reversed(self._rankers.routes)}
        return FleetStatus(
            model=self._config.model,
            alias=self._config.alias,
            versions=[
                VersionStatus(
                    version=number,
                    role=roles[number].role if number in roles else "none",
                    share=roles[number].share if number in roles else 0.0,
                    replicas=one.replicas,
                    state=one.state,
                )
                for number, one in sorted(self._rankers.seen.items())
            ],
        )

    def check_health(self) -> None:
        """Called by Serve, which replaces a replica that raises."""
        if not self._thread.is_alive():
            raise BrewError("the fleet no longer follows the registry; its log says why. The replica is replaced.")

    def __del__(self) -> None:
        if hasattr(self, "_stop"):
            self._stop.set()

    def _follow(self) -> None:
        while not self._stop.is_set():
            for apps in (self._rankers, self._consumers):
                try:
                    if apps is not None:
                        self._step(apps)
                except Exception as error:  # the registry or Serve cannot be reached now: what serves goes on
                    _LOG.warning("the versions stay as they are: %s", error)
            self._stop.wait(self._config.follow_seconds)

    def _step(self, apps: VersionApps) -> None:
        plan = apps.look(self._registry.events(), serve.status().applications)
        if self._stop.is_set():
            return
        for target, told in plan.failed:
            self._record(target, told, what="nearline" if apps is self._consumers else target.role)
        apps.act(plan)

    def _record(self, target: Target, told: str, *, what: str) -> None:
        """In the registry's log, for whoever moved the alias."""
        _LOG.error("version %d cannot be served as %s: %s", target.version, what, told)
        alias = self._config.alias if target.role == "production" else target.role
        if not alias.isdecimal():
            note = f"could not be served as {what}: {told}"[:1_000]
            self._registry.append("failed", target.version, alias=alias, author="brew360 serve", note=note)


def _consumers(config: AppConfig) -> VersionApps:
    """Those of production alone. The old ones go at once when the new ones are up: nobody has to be told."""
    return VersionApps(
        consumers_name,
        CONSUMER,
        lambda number, _: consumer_app(config, number),
        Follower(config.alias, roles=["production"], start_seconds=config.start_seconds, retire_seconds=0.0),
    )
