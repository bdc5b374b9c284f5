"""`RankingBackend`, which answers the routes of the HTTP application, and `LocalBackend`, which does so in-process.

The other implementation is `deployment.gateway.FleetBackend`, which forwards requests to replicas.
"""

from collections.abc import Callable
from typing import Protocol

from brew_serve.http.request_context import RequestContext
from brew_serve.http.route import BackendResponse, Route, run_route
from brew_serve.metrics import Meters
from brew_serve.ranking.service import RankingService
from brew_serve.schemas.status import FleetStatus, VersionStatus

__all__ = ["LocalBackend", "RankingBackend"]


class RankingBackend(Protocol):
    """Answers requests for routes, and reports its state."""

    clock: Callable[[], float]  # seconds; `RequestContext.arrival` is on it
    meters: Meters
    request_seconds: float  # deadline of a request that names none

    async def respond(self, route: Route, body: bytes, content_type: str, context: RequestContext) -> BackendResponse:
        """Answer a request for `route`. The response includes its cost in tokens.

        Raises:
            Lost: No replica answered.
            Late: The replica that has the request did not answer in time.
        """

    def running_tokens(self) -> int:
        """Return how many predicted tokens of work this process passes on at a time; further requests wait in it."""

    def check_health(self) -> int:
        """Return the version that answers. Raises a BrewError if the service should be restarted."""

    def check_ready(self) -> int:
        """Return the version that answers. Raises a BrewError if the service should get no requests now."""

    async def metrics(self) -> bytes:
        """Return Prometheus metrics as text."""

    async def status(self) -> FleetStatus:
        """Return the versions that serve. Raises a BrewError if they are unknown now."""


class LocalBackend:
    """A `RankingBackend` around one service in this process.

    Args:
        service: Answers the requests.
        request_seconds: Deadline of a request that names none.
        running_tokens: Predicted work that the service gets at a time.
    """

    def __init__(self, service: RankingService, *, request_seconds: float = 55.0, running_tokens: int = 40_000) -> None:
        self._service = service
        self.clock, self.meters, self.request_seconds = service.clock, service.meters, request_seconds
        self._running_tokens = running_tokens

    async def respond(self, route: Route, body: bytes, content_type: str, context: RequestContext) -> BackendResponse:
        """Run the route's handler on the service."""
        return await run_route(route, self._service, body, content_type, context)

    def running_tokens(self) -> int:
        return self._running_tokens

    def check_health(self) -> int:
        return self._service.check_health()

    def check_ready(self) -> int:
        return self._service.check_ready()

    async def metrics(self) -> bytes:
        return self.meters.text()

    async def status(self) -> FleetStatus:
        """Return one version, which never changes."""
        number = self._service.number
        version = VersionStatus(version=number, role="production", share=1.0, replicas=1, state="up")
        return FleetStatus(model=self._service.name, alias=str(number), versions=[version])
