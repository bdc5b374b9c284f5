"""A route that a ranking service answers, and `run_route`, which answers one request for it.

A `Route` is plain data, so that the process that speaks HTTP and the process that has the engine can be different ones:
`app` builds the HTTP endpoint from it, and `backend.LocalBackend` runs its handler.
"""

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel

from brew_platform.console.logging import PrivateId
from brew_serve.http.error_responses import ErrorAnswer, log_error, render_error
from brew_serve.http.request_context import RequestContext
from brew_serve.http.strict_json import parse_body_in_thread
from brew_serve.ranking.service import Costed, RankingService

__all__ = ["EVENT_STREAM", "BackendResponse", "Route", "end_with_error_event", "run_route"]

EVENT_STREAM = "text/event-stream"

_LOG = logging.getLogger("brew_serve.access")


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
        scope: What the key of a caller must allow (`brew_platform.identity.keys.SCOPES`).
        tag: Group in the OpenAPI document.
        error: Model of error responses in the OpenAPI document.
    """

    path: str
    handler: Callable[..., Awaitable[Costed[Any]]]
    request: type[BaseModel] | None
    response: type[BaseModel]
    scope: str
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
    start, status, tokens, member = service.clock(), 499, 0, None  # 499: cancelled, as the middleware counts it
    try:
        if route.request is None:
            result = await route.handler(service, context)
        else:
            request = await parse_body_in_thread(route.request, body, content_type, service.parsing)
            member = getattr(request, "member_id", None)
            if context.time_limit is not None and getattr(request, "deadline_ms", 0) is None:
                request = request.model_copy(update={"deadline_ms": round(context.time_limit * 1000)})
            result = await route.handler(service, request, context)
        status, tokens = 200, result.tokens
        if isinstance(result.response, AsyncGenerator):
            response = BackendResponse(
                status=200,
                headers={"content-type": EVENT_STREAM, "cache-control": "no-cache"},
                body=b"",
                tokens=tokens,
                events=end_with_error_event(_encode_events(result.response), route.path, context.trace.request_id),
            )
        else:
            response = BackendResponse(status=200, body=result.response.model_dump_json().encode(), tokens=tokens)
    except Exception as error:
        log_error(error, route.path, context.trace.request_id)
        rendered = render_error(error, route.path)
        status = rendered.status_code
        headers = {name: value for name, value in rendered.headers.items() if name != "content-length"}
        response = BackendResponse(status=status, body=bytes(rendered.body), headers=headers)
    finally:
        fields = {
            "route": route.path,
            "status": status,
            "milliseconds": round((service.clock() - start) * 1000, 1),
            "team": context.team.name,
            "version": service.number,
            "tokens": tokens,
            "member_id": None if member is None else PrivateId(member),
            "request_id": context.trace.request_id,
            "trace_id": context.trace.trace_id,
        }
        _LOG.info("answered", extra={"fields": fields})
    return response


async def end_with_error_event(
    events: AsyncGenerator[bytes, None], path: str, request_id: str
) -> AsyncGenerator[bytes, None]:
    """Yield the events. An error, for which the status can no longer be changed, becomes the last event."""
    async with aclosing(events):
        try:
            async for event in events:
                yield event
        except Exception as error:
            log_error(error, path, request_id)
            yield _event(bytes(render_error(error, path).body))


async def _encode_events(models: AsyncGenerator[BaseModel, None]) -> AsyncGenerator[bytes, None]:
    """Encode events as OpenAI does: one JSON object each, and [DONE] at the end."""
    async with aclosing(models):
        async for model in models:
            yield _event(model.model_dump_json().encode())
        yield _event(b"[DONE]")


def _event(data: bytes) -> bytes:
    return b"data: " + data + b"\n\n"
