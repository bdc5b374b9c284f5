"""ASGI middleware: trace ids, API keys and their scopes, request rates and bodies, checked before anything is parsed.

For each request it records the arrival time, reads or creates the trace ids, checks the key, its scope and the team's
request rate, and reads the body within its limits. It puts a `RequestContext` into the scope's state. It counts and
logs the response: the log has the route's template, never the path, which may contain a member's id.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from pathlib import Path
from typing import Any

from fastapi.routing import APIRoute
from starlette.routing import BaseRoute

from brew_platform.console.logging import log_fields
from brew_platform.errors import BrewError, UserError
from brew_platform.identity.keys import KeyFile, Team, missing_scope
from brew_platform.tracing import Span, start_span
from brew_serve.errors import Forbidden, QuotaExceeded, Unauthorized
from brew_serve.http.backend import RankingBackend
from brew_serve.http.body_reader import BodyReader, Disconnected
from brew_serve.http.config import MiddlewareConfig
from brew_serve.http.error_responses import log_error, render_error
from brew_serve.http.quota import Quotas
from brew_serve.http.request_context import LOCAL, RequestContext, Trace
from brew_serve.http.scopes import OPEN, find_route, scope_of

__all__ = ["RequestMiddleware"]

_LOG = logging.getLogger("brew_serve.access")

_UNRECORDED = OPEN | {"/metrics"}
_NOBODY = Team(name="", scopes=frozenset())  # sends no key, or an unknown one, to an open route
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_DISCONNECTED = 499  # in the log and the metrics: the client left before its request was complete

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class RequestMiddleware:
    """ASGI middleware.

    Args:
        app: The application behind it.
        config: Key file and limits.
        backend: Its clock, meters and time limit are used.
        routes: Of the application; each declares the scope that it needs.
        quotas: Of all teams.
        scheduled: Paths of the routes whose requests the scheduler charges; those of others are charged here.

    Raises:
        UserError: The key file is missing or malformed.
    """

    def __init__(
        self,
        app: Any,
        config: MiddlewareConfig,
        backend: RankingBackend,
        routes: Sequence[BaseRoute],
        quotas: Quotas,
        scheduled: frozenset[str],
    ) -> None:
        self._routes, self._quotas, self._scheduled = routes, quotas, scheduled
        self._paths = {route.path for route in routes if isinstance(route, APIRoute) and "{" not in route.path}
        self._app, self._config, self._clock, self._meters = app, config, backend.clock, backend.meters
        self._keys = None if config.keys_path is None else KeyFile(Path(config.keys_path))
        self._bodies = BodyReader(config)
        self._request_seconds = backend.request_seconds

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        parent = headers.get("traceparent", "")
        recorded = scope["path"] not in _UNRECORDED  # probes and scrapes would be most of the spans
        with start_span("request", parent=parent, kind="server") if recorded else Span() as span:
            trace = Trace.of(headers.get("x-request-id", ""), parent).within(span)
            with log_fields(request_id=trace.request_id, trace_id=trace.trace_id):
                await self._respond(scope, headers, trace, span, receive, send)

    async def _respond(
        self,
        scope: MutableMapping[str, Any],
        headers: dict[str, str],
        trace: Trace,
        span: Span,
        receive: Receive,
        send: Send,
    ) -> None:
        arrival = self._clock()
        status, started, team_name, body = 500, False, "", b""

        async def send_with_ids(message: Message) -> None:
            nonlocal status, started
            if message["type"] == "http.response.start":
                status, started = message["status"], True
                ids = {"x-request-id": trace.request_id, "traceparent": trace.traceparent}
                message["headers"] = [*message.get("headers", ()), *((k.encode(), v.encode()) for k, v in ids.items())]
            await send(message)

        try:
            try:
                route = find_route(self._routes, scope)
                team = self._authenticate(scope, route, headers.get("authorization", ""))
                team_name = team.name
                if scope["path"] not in OPEN:
                    self._quotas.check(team)
                    _require_plain_body(headers.get("content-encoding", ""))
                    body = await self._bodies.read(team_name, headers.get("content-length", ""), receive)
                    if getattr(route, "path", None) not in self._scheduled:
                        await self._quotas.charge(team, 0)
            except BrewError as error:
                if isinstance(error, QuotaExceeded):
                    self._meters.shed.labels(error.limit).inc()
                await render_error(error, scope["path"])(scope, receive, send_with_ids)
                return
            except Disconnected:
                status = _DISCONNECTED
                return
            context = RequestContext(arrival=arrival, trace=trace, team=team, time_limit=self._request_seconds)
            scope["state"] = {**scope.get("state", {}), "context": context}
            await self._app(scope, _replay(body, receive), send_with_ids)
        except asyncio.CancelledError:
            status = _DISCONNECTED
            raise
        except Exception as error:  # a bug; not raised, because servers log the text of exceptions
            log_error(error, self._route(scope), trace.request_id)
            if not started:
                await render_error(error, scope["path"])(scope, receive, send_with_ids)
        finally:
            self._bodies.release(team_name, len(body))
            self._record(scope, status, team_name, trace, span, self._clock() - arrival)

    def _record(
        self, scope: MutableMapping[str, Any], status: int, team: str, trace: Trace, span: Span, seconds: float
    ) -> None:
        """Count and log a request that has ended, and describe its span."""
        route = self._route(scope)
        self._meters.requests.labels(route, str(status), team).inc()
        self._meters.request_seconds.labels(route).observe(seconds)
        fields = {
            "method": scope["method"] if scope["method"] in _METHODS else "other",
            "route": route,
            "status": status,
            "milliseconds": round(seconds * 1000, 1),
            "team": team,
            "request_id": trace.request_id,
            "trace_id": trace.trace_id,
        }
        _LOG.info("request", extra={"fields": fields})
        span.rename(f"{fields['method']} {route}")
        span.set(
            {
                "http.request.method": str(fields["method"]),
                "http.route": route,
                "http.response.status_code": status,
                "brew360.team": team,
            }
        )
        if status >= 500:
            span.fail(str(status))

    def _route(self, scope: MutableMapping[str, Any]) -> str:
        """Return the template of the request's path; `other` where no route has it."""
        path = scope["path"] if scope["path"] in self._paths else "other"
        return str(getattr(scope.get("route"), "path", path))

    def _authenticate(self, scope: MutableMapping[str, Any], route: BaseRoute | None, authorization: str) -> Team:
        """Return the team of the key.

        Raises:
            Unauthorized: The key is missing or unknown.
            Forbidden: The key does not have the scope of the route.
        """
        if self._keys is None:
            return LOCAL
        scheme, _, key = authorization.partition(" ")
        team = self._keys.team(key.strip()) if scheme.lower() == "bearer" else None
        if scope["path"] in OPEN:
            return team or _NOBODY
        if team is None:
            problem = "is not known here" if key else "is missing"
            raise Unauthorized(f"the API key {problem}; send your team's as the header `Authorization: Bearer <key>`.")
        needed = scope_of(route)
        if needed and (reason := missing_scope(team, needed, f"{scope['method']} {getattr(route, 'path', '')}")):
            raise Forbidden(reason)
        return team


def _require_plain_body(content_encoding: str) -> None:
    """Raise a UserError for a compressed body, which would be reported as one that is not JSON."""
    if content_encoding.strip().lower() not in ("", "identity"):
        raise UserError(
            f"the header content-encoding is {content_encoding[:100]!r}, but bodies are not decompressed here; send "
            f"the body as it is, without this header."
        )


def _replay(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that first yields the body, which was read already, and then the messages after it."""
    replayed = False

    async def replay() -> Message:
        nonlocal replayed
        if replayed:
            return await receive()
        replayed = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay
