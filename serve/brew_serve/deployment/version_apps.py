"""The Ray Serve applications of one kind, one for each version that is up or on its way: rankers, or consumers.

Owns: looking at them, carrying out what `follower` decides, and how a failed start reads. Does not own: those
decisions, what is in such an application (`ranker`, `nearline.consumer`), or when to look (`fleet`).
"""

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ray import serve
from ray.serve import Application, RunTarget
from ray.serve.schema import ApplicationStatus, ApplicationStatusOverview

from brew_platform.errors import BrewError, first_cause
from brew_platform.registry.events import Event
from brew_serve.deployment.version_reconciler import Follower, Plan, Seen, Target

__all__ = ["VersionApps", "start_error"]

_LOG = logging.getLogger("brew_serve")
_DESCRIBE_SECONDS = 30.0  # in which a version that Serve calls healthy must answer


def start_error(application: ApplicationStatusOverview | None, error: str = "") -> BrewError:
    """Why an application did not start: our own error, or else the last exception, in the text that Serve passes on."""
    told = "\n".join([*(one.message for one in application.deployments.values()), error] if application else [error])
    cause = first_cause(RuntimeError(told))
    if isinstance(cause, BrewError):
        return cause
    last = re.findall(r"^\w[\w.]*(?:Error|Exception): .+$", told, re.MULTILINE)
    return BrewError(f"the service did not start: {(last or told.strip().splitlines() or ['no reason is known'])[-1]}")


class VersionApps:
    """Finds the applications that there are, and goes on from there.

    Args:
        name: of an application, by the version's number, which ends it.
        deployment: in each application, that tells of its version when it is asked to `describe` it.
        make: an application, of a version's number and how many replicas the version that serves now has, if one does.
        follower: of the registry.
    """

    def __init__(
        self,
        name: Callable[[int], str],
        deployment: str,
        make: Callable[[int, int | None], Application],
        follower: Follower,
    ) -> None:
        self.seen: Mapping[int, Seen] = {}
        self.routes: Sequence[Target] = ()
        self._name, self._deployment, self._make, self._follower = name, deployment, make, follower
        self._up: set[int] = set()  # versions that have answered

    def look(self, events: Sequence[Event], applications: Mapping[str, ApplicationStatusOverview]) -> Plan:
        """What there is, and what to do about it.

        Args:
            events: the registry's log.
            applications: all of Serve's, by name.
        """
        seen = {}
        for name, application in applications.items():
            found = re.search(r"\d+$", name)
            if found and name == self._name(int(found[0])):
                seen[int(found[0])] = self._look(int(found[0]), application)
        self._up &= {number for number, one in seen.items() if one.state == "up"}
        plan = self._follower.step(events, seen)
        self.seen, self.routes = seen, plan.routes
        return plan

    def act(self, plan: Plan) -> None:
        """Starts and removes what the plan says."""
        replicas = self.seen[plan.routes[0].version].replicas if plan.routes else None
        for number in plan.start:
            _LOG.info("%s is started", self._name(number))
            target = RunTarget(target=self._make(number, replicas), name=self._name(number), route_prefix=None)
            serve.run_many([target], wait_for_applications_running=False)
        for number in plan.remove:
            _LOG.info("%s is taken away", self._name(number))
            serve.delete(self._name(number), _blocking=False)

    def _look(self, number: int, application: ApplicationStatusOverview) -> Seen:
        """The state of a version. It is up once it has answered, and stays so while Serve replaces its replicas."""
        deployment = application.deployments.get(self._deployment)
        replicas = int(dict[Any, int](deployment.replica_states).get("RUNNING", 0)) if deployment else 0
        if application.status == ApplicationStatus.DELETING:
            return Seen(state="leaving", replicas=replicas)
        if number in self._up or self._answers(number, application):
            self._up.add(number)
            return Seen(state="up", replicas=replicas)
        if application.status == ApplicationStatus.DEPLOY_FAILED:
            return Seen(state="failed", told=str(start_error(application, application.message)))
        return Seen(state="starting", replicas=replicas)

    def _answers(self, number: int, application: ApplicationStatusOverview) -> bool:
        if application.status not in (ApplicationStatus.RUNNING, ApplicationStatus.UNHEALTHY):
            return False
        try:
            handle = serve.get_deployment_handle(self._deployment, self._name(number))
            handle.describe.remote().result(timeout_s=_DESCRIBE_SECONDS)
        except Exception as error:  # asked again at the next step
            _LOG.warning("%s does not answer yet: %s", self._name(number), error)
            return False
        return True
