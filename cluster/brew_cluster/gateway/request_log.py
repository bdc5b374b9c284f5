"""ASGI middleware of the job gateway: the ids, the span and the log record of each request."""

import logging
import time
from collections.abc import MutableMapping
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from brew_platform.console.logging import log_fields
from brew_platform.tracing import Span, start_span
from brew_serve.http.request_context import Trace

__all__ = ["RequestLog"]

_LOG = logging.getLogger("brew_cluster.access")
_UNRECORDED = frozenset({"/health", "/ready", "/metrics"})  # probes and scrapes would be most of the spans
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class RequestLog:
    """Logs each request with the template of its path, and answers with `x-request-id` and `traceparent`.

    Args:
        app: The application behind it.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start = time.perf_counter()
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        parent, status = headers.get("traceparent", ""), 500
        recorded = scope["path"] not in _UNRECORDED

        async def send_with_ids(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                ids = {"x-request-id": trace.request_id, "traceparent": trace.traceparent}
                message["headers"] = [*message.get("headers", ()), *((k.encode(), v.encode()) for k, v in ids.items())]
            await send(message)

        with start_span("request", parent=parent, kind="server") if recorded else Span() as span:
            trace = Trace.of(headers.get("x-request-id", ""), parent).within(span)
            with log_fields(request_id=trace.request_id, trace_id=trace.trace_id):
                try:
                    await self._app(scope, receive, send_with_ids)
                finally:
                    _record(scope, status, span, time.perf_counter() - start)


def _record(scope: MutableMapping[str, Any], status: int, span: Span, seconds: float) -> None:
    method = scope["method"] if scope["method"] in _METHODS else "other"
    route = str(getattr(scope.get("route"), "path", "other"))
    fields = {"method": method, "route": route, "status": status, "milliseconds": round(seconds * 1000, 1)}
    _LOG.info("request", extra={"fields": fields})
    span.rename(f"{method} {route}")
    span.set({"http.request.method": method, "http.route": route, "http.response.status_code": status})
    if status >= 500:
        span.fail(str(status))
