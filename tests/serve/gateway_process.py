"""A gateway in a process of its own, with a backend that answers at once. Arguments: port, key file, URL of Redis."""

import sys
import time

import uvicorn

from brew_serve.http.app import create_app
from brew_serve.http.config import MiddlewareConfig, QuotaConfig
from brew_serve.http.request_context import RequestContext
from brew_serve.http.route import BackendResponse, Route
from brew_serve.metrics import Meters
from brew_serve.schemas.status import FleetStatus

__all__ = ["main"]


class InstantBackend:
    """A `RankingBackend` without a model, whose responses cost 100 tokens."""

    request_seconds = 10.0

    def __init__(self) -> None:
        self.clock, self.meters = time.perf_counter, Meters()

    async def respond(self, route: Route, body: bytes, content_type: str, context: RequestContext) -> BackendResponse:
        return BackendResponse(status=200, body=b"{}", tokens=100)

    def running_tokens(self) -> int:
        return 1_000_000

    def check_health(self) -> int:
        return 1

    def check_ready(self) -> int:
        return 1

    async def metrics(self) -> bytes:
        return self.meters.text()

    async def status(self) -> FleetStatus:
        raise NotImplementedError


def main() -> None:
    """Serve until the process is ended."""
    port, keys_path, url = int(sys.argv[1]), sys.argv[2], sys.argv[3]
    config = MiddlewareConfig(keys_path=keys_path, quotas=QuotaConfig(redis_url=url))
    uvicorn.run(create_app(InstantBackend(), config, gateways=2), port=port, log_level="warning")


if __name__ == "__main__":
    main()
