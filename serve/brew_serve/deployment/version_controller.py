"""The version controller: one small Ray Serve deployment that starts and removes the versions that should serve.

Each version is a Serve application of its own, so that two can be up at once and one can fail alone. The nearline
consumers of a version are another application. `version_reconciler` decides; this module observes the applications,
carries out the plan, and records versions that failed in the registry.
"""

import logging
import math
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ray import serve
from ray.serve import Application, RunTarget
from ray.serve.handle import DeploymentResponse
from ray.serve.schema import ApplicationStatus, ApplicationStatusOverview

from brew_platform.errors import BrewError, first_cause
from brew_platform.registry.events import Event
from brew_serve.config import AppConfig
from brew_serve.deployment.fleet_metrics import FleetCollector
from brew_serve.deployment.process_log import JSON_LOGS, open_service_log
from brew_serve.deployment.replica import REPLICA, replica_app
from brew_serve.deployment.version_reconciler import ObservedVersion, Plan, Target, VersionReconciler
from brew_serve.nearline.consumer import CONSUMER, consumer_app
from brew_serve.schemas.status import FleetStatus, VersionStatus

__all__ = [
    "APP_NAME",
    "VersionApplications",
    "VersionController",
    "consumers_app_name",
    "start_error",
    "version_app_name",
    "version_controller",
]

APP_NAME = "brew360"

_LOG = logging.getLogger("brew_serve")
_HOLD_RETRY_SECONDS = 60.0  # after the registry could not be written, e.g. with credentials that may only read
_RETIRE_SECONDS = 5.0  # gateways fetch the routes every second
_DESCRIBE_SECONDS = 30.0  # time limit for the first answer of a version that Serve reports as healthy
_STEP_SECONDS = 0.5  # for which one step waits for it, so that a version that hangs does not delay the others


def version_app_name(number: int) -> str:
    """Return the name of the application of a version's replicas."""
    return f"{APP_NAME}-v{number}"


def consumers_app_name(number: int) -> str:
    """Return the name of the application of a version's nearline consumers."""
    return f"{APP_NAME}-nearline-v{number}"


def version_controller(config: AppConfig) -> Application:
    """Return the deployment, to be bound into the gateway's application."""
    return serve.deployment(
        VersionController,
        name="VersionController",
        num_replicas=1,  # two would start and delete the same applications
        ray_actor_options={"num_cpus": 0, "label_selector": config.node_labels},
        health_check_period_s=5.0,
        graceful_shutdown_wait_loop_s=0.2,
        logging_config=JSON_LOGS,
    ).bind(config)


class VersionController:
    """Follows the registry in a thread. After a restart it continues with the applications that exist."""

    def __init__(self, config: AppConfig) -> None:
        self._log = open_service_log("controller", config.log_key)
        self._config = config
        self._registry = config.open_registry()
        self._hold = self._registry.holds.open(f"the service of {config.model}, {config.alias}")
        self._hold_after = -math.inf
        self._replicas = VersionApplications(
            version_app_name,
            REPLICA,
            lambda number, replicas: replica_app(config, number, replicas),
            VersionReconciler(config.alias, start_seconds=config.start_seconds, retire_seconds=_RETIRE_SECONDS),
        )
        self._consumers = None if config.nearline is None else _consumers(config)
        # The registry's log, as it was when it could last be read; a fixed version needs none.
        self._events: Sequence[Event] | None = () if config.alias.isdecimal() else None
        self._read_at = 0.0  # when that was, in seconds since 1970
        self._collector = FleetCollector(self.status, lambda: self._events, lambda: self._read_at)
        self._unrecorded: list[tuple[Target, str]] = []  # failures that the registry does not have yet
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="version-controller", daemon=True)
        self._thread.start()

    def routes(self) -> tuple[Sequence[Target], int]:
        """Return the versions that get requests, production first, and the number of production replicas."""
        routes, observed = self._replicas.routes, self._replicas.observed
        return routes, observed[routes[0].version].replicas if routes and routes[0].version in observed else 0

    def status(self) -> FleetStatus:
        """Return the versions that serve."""
        roles = {target.version: target for target in reversed(self._replicas.routes)}
        return FleetStatus(
            model=self._config.model,
            alias=self._config.alias,
            versions=[
                VersionStatus(
                    version=number,
                    role=roles[number].role if number in roles else "none",
                    share=roles[number].share if number in roles else 0.0,
                    replicas=version.replicas,
                    state=version.state,
                )
                for number, version in sorted(self._replicas.observed.items())
            ],
        )

    def metrics(self) -> bytes:
        """Return the versions and the registry's log as Prometheus metrics, in its text format."""
        return self._collector.text()

    def check_health(self) -> None:
        """Called by Serve, which replaces a replica that raises."""
        if not self._thread.is_alive():
            raise BrewError("the version controller stopped following the registry; its log says why. It is replaced.")

    def __del__(self) -> None:
        if hasattr(self, "_stop"):
            self._stop.set()

    def _follow(self) -> None:
        while not self._stop.is_set():
            self._follow_once()
            self._stop.wait(self._config.follow_seconds)

    def _follow_once(self) -> None:
        self._read_events()
        for applications in (self._replicas, self._consumers):
            try:
                if applications is not None and self._events is not None:
                    self._step(applications, self._events)
            except Exception as error:  # Serve cannot be reached now; the versions keep serving
                _LOG.warning("the versions stay as they are: %s", error)
        self._hold_versions()
        self._record_failures()

    def _hold_versions(self) -> None:
        """Keep garbage collection from the files of the versions that serve: further replicas download them."""
        groups = [self._replicas] if self._consumers is None else [self._replicas, self._consumers]
        if time.monotonic() < self._hold_after:
            return
        try:
            self._hold.update({number for group in groups for number in group.observed})
        except Exception as error:
            self._hold_after = time.monotonic() + _HOLD_RETRY_SECONDS
            _LOG.warning("the versions that serve are not recorded as in use: %s", error)

    def _read_events(self) -> None:
        """Read the registry's log. While it cannot be read, its last content counts."""
        try:
            self._events = self._registry.events()
            self._read_at = time.time()
        except Exception as error:
            _LOG.warning("the registry cannot be read, so no alias is followed now: %s", error)

    def _step(self, applications: "VersionApplications", events: Sequence[Event]) -> None:
        plan = applications.plan(events, serve.status().applications)
        if self._stop.is_set():
            return
        applications.apply(plan)
        for target, reason in plan.failed:
            role = "nearline" if applications is self._consumers else target.role
            _LOG.error("version %d cannot be served as %s: %s", target.version, role, reason)
            self._unrecorded.append((target, f"could not be served as {role}: {reason}"[:1_000]))

    def _record_failures(self) -> None:
        """Record failures in the registry's log, for the user who moved the alias."""
        while self._unrecorded:
            target, note = self._unrecorded[0]
            alias = self._config.alias if target.role == "production" else target.role
            try:
                if not alias.isdecimal():
                    self._registry.append("failed", target.version, alias=alias, author="brew360 serve", note=note)
            except Exception as error:  # the next step tries again
                _LOG.warning("the registry cannot be written: %s", error)
                return
            del self._unrecorded[0]


class VersionApplications:
    """The Ray Serve applications of one kind, replicas or consumers, one per version.

    Args:
        name: Application name of a version; it ends with the version's number.
        deployment: Name of the deployment in each application; its method `describe` answers once the version is up.
        make: Creates an application from the version's number and the number of replicas of the version that serves
            now, None if no version serves.
        reconciler: Decides which applications to start and remove.
    """

    def __init__(
        self,
        name: Callable[[int], str],
        deployment: str,
        make: Callable[[int, int | None], Application],
        reconciler: VersionReconciler,
    ) -> None:
        self.observed: Mapping[int, ObservedVersion] = {}
        self.routes: Sequence[Target] = ()
        self._name, self._deployment, self._make, self._reconciler = name, deployment, make, reconciler
        self._up: set[int] = set()  # versions that have answered
        self._calls: dict[int, tuple[float, DeploymentResponse]] = {}  # to versions that have not, with their time

    def plan(self, events: Sequence[Event], applications: Mapping[str, ApplicationStatusOverview]) -> Plan:
        """Observe the applications, and return what to do.

        Args:
            events: The registry's log.
            applications: All applications of Serve, by name.
        """
        observed = {}
        for name, application in applications.items():
            found = re.search(r"\d+$", name)
            if found and name == self._name(int(found[0])):
                observed[int(found[0])] = self._observe(int(found[0]), application)
        self._up &= {number for number, version in observed.items() if version.state in ("up", "down")}
        self._calls = {number: call for number, call in self._calls.items() if number in observed.keys() - self._up}
        plan = self._reconciler.reconcile(events, observed)
        self.observed, self.routes = observed, plan.routes
        return plan

    def apply(self, plan: Plan) -> None:
        """Start and remove applications as the plan says. A failure of one version does not affect the others."""
        replicas = self.observed[plan.routes[0].version].replicas if plan.routes else None
        for number in plan.start:
            _LOG.info("%s is started", self._name(number))
            try:
                target = RunTarget(target=self._make(number, replicas), name=self._name(number), route_prefix=None)
                serve.run_many([target], wait_for_applications_running=False)
            except Exception as error:  # the next step tries again
                _LOG.warning("%s is not started: %s", self._name(number), error)
        for number in plan.remove:
            _LOG.info("%s is removed", self._name(number))
            try:
                serve.delete(self._name(number), _blocking=False)
            except Exception as error:
                _LOG.warning("%s is not removed: %s", self._name(number), error)

    def _observe(self, number: int, application: ApplicationStatusOverview) -> ObservedVersion:
        """Return the state of a version. Once it has answered, it is up while a replica runs, and else down."""
        deployment = application.deployments.get(self._deployment)
        replicas = int(dict[Any, int](deployment.replica_states).get("RUNNING", 0)) if deployment else 0
        if application.status == ApplicationStatus.DELETING:
            return ObservedVersion(state="leaving", replicas=replicas)
        if number in self._up:
            return ObservedVersion(state="up" if replicas else "down", replicas=replicas)
        if replicas and self._answers(number):
            self._up.add(number)
            return ObservedVersion(state="up", replicas=replicas)
        if application.status == ApplicationStatus.DEPLOY_FAILED:
            return ObservedVersion(state="failed", error=str(start_error(application, application.message)))
        return ObservedVersion(state="starting", replicas=replicas)

    def _answers(self, number: int) -> bool:
        """Return whether a version has answered its first call, which is sent again after `_DESCRIBE_SECONDS`."""
        now = time.monotonic()
        sent_at, call = self._calls.get(number, (-math.inf, None))
        try:
            if call is None or now - sent_at > _DESCRIBE_SECONDS:
                handle = serve.get_deployment_handle(self._deployment, self._name(number))
                call = handle.describe.remote()
                self._calls[number] = (now, call)
            call.result(timeout_s=_STEP_SECONDS)
        except TimeoutError:
            return False
        except Exception as error:  # the next step tries again
            _LOG.warning("%s does not answer yet: %s", self._name(number), error)
            self._calls.pop(number, None)
            return False
        return True


def start_error(application: ApplicationStatusOverview | None, error: str = "") -> BrewError:
    """Return why an application did not start: our own error, or else the last exception in the text from Serve."""
    message = "\n".join([*(d.message for d in application.deployments.values()), error] if application else [error])
    cause = first_cause(RuntimeError(message))
    if isinstance(cause, BrewError):
        return cause
    last = re.findall(r"^\w[\w.]*(?:Error|Exception): .+$", message, re.MULTILINE)
    reason = (last or message.strip().splitlines() or ["no reason is known"])[-1]
    return BrewError(f"the service did not start: {reason}")


def _consumers(config: AppConfig) -> VersionApplications:
    """Return the applications of production's consumers. Old ones are removed at once: no gateway routes to them."""
    return VersionApplications(
        consumers_app_name,
        CONSUMER,
        lambda number, _: consumer_app(config, number),
        VersionReconciler(config.alias, roles=["production"], start_seconds=config.start_seconds, retire_seconds=0.0),
    )
