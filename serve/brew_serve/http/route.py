"""A route that a ranking service answers, and `run_route`, which answers one request for it.

A `Route` is plain data, so that the process that speaks HTTP and the process that has the engine can be different ones:
`app` builds the HTTP endpoint from it, and `backend.LocalBackend` runs its handler.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel

from brew_serve.http.error_responses import ErrorAnswer, log_error, render_error
from brew_serve.http.request_context import RequestContext
from brew_serve.http.strict_json import parse_body
from brew_serve.ranking.service import Costed, RankingService

__all__ = ["BackendResponse", "Route", "run_route"]


@dataclass(frozen=True, kw_only=True)
class Route:
    """One path of the HTTP API that needs a ranking service.

    Args:
        path: Without parameters.
        handler: An async function of (service, request, context), or of (service, context) for GET. It returns the
            response and its cost. Its docstring describes the route in the OpenAPI document.
        request: Model of the body; None for GET.
        response: Model of the response.
        tag: Group in the OpenAPI document.
        error: Model of error responses in the OpenAPI document.
    """

    path: str
    handler: Callable[..., Awaitable[Costed[Any]]]
    request: type[BaseModel] | None
    response: type[BaseModel]
    tag: str
    error: type[BaseModel] = ErrorAnswer

    @property
    def method(self) -> Literal["GET", "POST"]:
        """POST for a route with a body, else GET."""
        return "GET" if self.request is None else "POST"


@dataclass(frozen=True, kw_only=True)
class BackendResponse:
    """An HTTP response of a backend.

    Args:
        status: HTTP status.
        headers: HTTP headers, without content-length.
        body: JSON.
        tokens: Predicted work in tokens that was admitted for it; 0 for a request that was refused.
    """

    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=lambda: {"content-type": "application/json"})
    tokens: int = 0


async def run_route(
    route: Route, service: RankingService, body: bytes, content_type: str, context: RequestContext
) -> BackendResponse:
    """Parse the body, call the handler, and render the response or the error.

    Args:
        body: Of the HTTP request.
        content_type: The header of the HTTP request; empty if it is missing.
    """
    try:
        if route.request is None:
            result = await route.handler(service, context)
        else:
            result = await route.handler(service, parse_body(route.request, body, content_type), context)
        return BackendResponse(status=200, body=result.response.model_dump_json().encode(), tokens=result.tokens)
    except Exception as error:
        log_error(error, route.method, route.path)
        response = render_error(error, route.path)
        headers = {name: value for name, value in response.headers.items() if name != "content-length"}
        return BackendResponse(status=response.status_code, body=bytes(response.body), headers=headers)
