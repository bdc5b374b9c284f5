"""The fleet: one small Ray Serve deployment that keeps the versions up which the registry wants served.

Every version is an application of its own (`ranker`), so that two can be up at once and one can fail alone.

Owns: looking at registry and Serve, and carrying out what `follower` decides. Does not own: those decisions, or where a
request goes (`gateway` asks for the routes).
"""

import logging
import re
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from ray import serve
from ray.serve import Application, RunTarget
from ray.serve.schema import ApplicationStatus, ApplicationStatusOverview

from brew_platform.errors import BrewError, first_cause
from brew_platform.registry import Registry
from brew_platform.storage import open_store
from brew_serve.app_config import AppConfig
from brew_serve.follower import Follower, Seen, Target
from brew_serve.front import FleetStatus, VersionStatus
from brew_serve.ranker import RANKER, ranker_app

__all__ = ["APP_NAME", "fleet", "start_error", "version_app"]

APP_NAME = "brew360"

_LOG = logging.getLogger("brew_serve")
_RETIRE_SECONDS = 5.0  # gateways ask for the routes every second
_DESCRIBE_SECONDS = 30.0  # in which a version that Serve calls healthy must answer


def version_app(number: int) -> str:
    """The name of a version's application."""
    return f"{APP_NAME}-v{number}"


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


def start_error(application: ApplicationStatusOverview | None, error: str = "") -> BrewError:
    """Why an application did not start: our own error, or else the last exception, in the text that Serve passes on."""
    told = "\n".join([*(one.message for one in application.deployments.values()), error] if application else [error])
    cause = first_cause(RuntimeError(told))
    if isinstance(cause, BrewError):
        return cause
    last = re.findall(r"^\w[\w.]*(?:Error|Exception): .+$", told, re.MULTILINE)
    return BrewError(f"the service did not start: {(last or told.strip().splitlines() or ['no reason is known'])[-1]}")


class _Fleet:
    """The replica. When it is started anew it finds the applications that are up, and goes on from there."""

    def __init__(self, config: AppConfig) -> None:
        self._config = config
        self._registry = Registry(open_store(config.registry_url), config.model)
        self._follower = Follower(config.alias, start_seconds=config.start_seconds, retire_seconds=_RETIRE_SECONDS)
        self._up: set[int] = set()  # versions that have answered
        self._seen: Mapping[int, Seen] = {}
        self._routes: Sequence[Target] = ()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="fleet", daemon=True)
        self._thread.start()

    def routes(self) -> tuple[Sequence[Target], int]:
        """Who gets requests, production first, and on how many replicas production answers."""
        routes, seen = self._routes, self._seen
        return routes, seen[routes[0].version].replicas if routes and routes[0].version in seen else 0

    def status(self) -> FleetStatus:
        """As `Front.status`."""
        roles = {target.version: target for target in reversed(self._routes)}
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
                for number, one in sorted(self._seen.items())
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
            try:
                self._step()
            except Exception as error:  # the registry or Serve cannot be reached now: what serves goes on
                _LOG.warning("the versions stay as they are: %s", error)
            self._stop.wait(self._config.follow_seconds)

    def _step(self) -> None:
        seen = {
            int(found[1]): self._look(int(found[1]), application)
            for name, application in serve.status().applications.items()
            if (found := re.fullmatch(rf"{APP_NAME}-v(\d+)", name))
        }
        self._up &= {number for number, one in seen.items() if one.state == "up"}
        plan = self._follower.step(self._registry.events(), seen)
        if self._stop.is_set():
            return
        self._seen, self._routes = seen, plan.routes
        for target, told in plan.failed:
            self._record(target, told)
        replicas = seen[plan.routes[0].version].replicas if plan.routes else None
        for number in plan.start:
            _LOG.info("version %d is started", number)
            app = ranker_app(self._config, number, replicas)
            serve.run_many(
                [RunTarget(target=app, name=version_app(number), route_prefix=None)],
                wait_for_applications_running=False,
            )
        for number in plan.remove:
            _LOG.info("version %d is taken away", number)
            serve.delete(version_app(number), _blocking=False)

    def _look(self, number: int, application: ApplicationStatusOverview) -> Seen:
        """The state of a version. It is up once it has answered, and stays so while Serve replaces its replicas."""
        ranker = application.deployments.get(RANKER)
        replicas = int(dict[Any, int](ranker.replica_states).get("RUNNING", 0)) if ranker else 0
        if application.status == ApplicationStatus.DELETING:
            return Seen(state="leaving", replicas=replicas)
        if number in self._up or self._answers(number, application):
            self._up.add(number)
            return Seen(state="up", replicas=replicas)
        if application.status == ApplicationStatus.DEPLOY_FAILED:
            return Seen(state="failed", told=str(start_error(application, application.message)))
        return Seen(state="starting", replicas=replicas)

    @staticmethod
    def _answers(number: int, application: ApplicationStatusOverview) -> bool:
        if application.status not in (ApplicationStatus.RUNNING, ApplicationStatus.UNHEALTHY):
            return False
        try:
            handle = serve.get_deployment_handle(RANKER, version_app(number))
            handle.describe.remote().result(timeout_s=_DESCRIBE_SECONDS)
        except Exception as error:  # asked again at the next step
            _LOG.warning("version %d does not answer yet: %s", number, error)
            return False
        return True

    def _record(self, target: Target, told: str) -> None:
        """In the registry's log, for whoever moved the alias."""
        _LOG.error("version %d cannot be served as %s: %s", target.version, target.role, told)
        alias = self._config.alias if target.role == "production" else target.role
        if not alias.isdecimal():
            note = f"could not be served: {told}"[:1_000]
            self._registry.append("failed", target.version, alias=alias, author="brew360 serve", note=note)
