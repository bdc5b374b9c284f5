"""A route that a ranking service answers, and `run_route`, which answers one request for it.

A `Route` is plain data, so that the process that speaks HTTP and the process that has the engine can be different ones:
`app` builds the HTTP endpoint from it, and `backend.LocalBackend` runs its handler.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel

from brew_serve.http.error_responses import ErrorAnswer, log_error, render_error
from brew_serve.http.request_context import RequestContext
from brew_serve.http.strict_json import parse_body
from brew_serve.ranking.service import Costed, RankingService

__all__ = ["EVENT_STREAM", "BackendResponse", "Route", "end_with_error_event", "run_route"]

EVENT_STREAM = "text/event-stream"


@dataclass(frozen=True, kw_only=True)
class Route:
    """One path of the HTTP API that needs a ranking service.

    Args:
        path: Its parameters, in braces, are the fields of `request`.
        handler: An async function of (service, request, context), or of (service, context) without `request`. It
            returns the response and its cost; the response can be a generator of events, which are sent as they come.
            Its docstring describes the route in the OpenAPI document.
        request: Model of the body of a POST, or of the parameters of the path of a GET. None for a GET without them.
        response: Model of the response.
        streams: Whether a response can be a stream of server-sent events.
        tag: Group in the OpenAPI document.
        error: Model of error responses in the OpenAPI document.
    """

    path: str
    handler: Callable[..., Awaitable[Costed[Any]]]
    request: type[BaseModel] | None
    response: type[BaseModel]
    tag: str
    error: type[BaseModel] = ErrorAnswer
    streams: bool = False

    @property
    def method(self) -> Literal["GET", "POST"]:
        """POST for a route with a body, else GET."""
        return "GET" if self.request is None or "{" in self.path else "POST"


@dataclass(frozen=True, kw_only=True)
class BackendResponse:
    """An HTTP response of a backend.

    Args:
        status: HTTP status.
        headers: HTTP headers, without content-length.
        body: JSON; empty for a stream.
        tokens: Predicted work in tokens that was admitted for it; 0 for a request that was refused.
        events: The body of a stream (server-sent events), in pieces of whole events. Closing it stops the work.
    """

    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=lambda: {"content-type": "application/json"})
    tokens: int = 0
    events: AsyncGenerator[bytes, None] | None = None

    @property
    def is_stream(self) -> bool:
        """Whether the body is a stream, also where `events` was left out to send the rest to another process."""
        return self.headers.get("content-type") == EVENT_STREAM


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
        if isinstance(result.response, AsyncGenerator):
            return BackendResponse(
                status=200,
                headers={"content-type": EVENT_STREAM, "cache-control": "no-cache"},
                body=b"",
                tokens=result.tokens,
                events=end_with_error_event(_encode_events(result.response), route.path),
            )
        return BackendResponse(status=200, body=result.response.model_dump_json().encode(), tokens=result.tokens)
    except Exception as error:
        log_error(error, route.method, route.path)
        response = render_error(error, route.path)
        headers = {name: value for name, value in response.headers.items() if name != "content-length"}
        return BackendResponse(status=response.status_code, body=bytes(response.body), headers=headers)


async def end_with_error_event(events: AsyncGenerator[bytes, None], path: str) -> AsyncGenerator[bytes, None]:
    """Yield the events. An error, for which the status can no longer be changed, becomes the last event."""
    async with aclosing(events):
        try:
            async for event in events:
                yield event
        except Exception as error:
            log_error(error, "POST", path)
            yield _event(bytes(render_error(error, path).body))


async def _encode_events(models: AsyncGenerator[BaseModel, None]) -> AsyncGenerator[bytes, None]:
    """Encode events as OpenAI does: one JSON object each, and [DONE] at the end."""
    async with aclosing(models):
        async for model in models:
            yield _event(model.model_dump_json().encode())
        yield _event(b"[DONE]")


def _event(data: bytes) -> bytes:
    return b"data: " + data + b"\n\n"
