"""ASGI middleware: trace ids, API keys, request rates and body sizes, checked before anything is parsed.

For each request it records the arrival time, reads or creates the trace ids, checks the team's key and request rate,
and reads the body up to the size limit. It puts a `RequestContext` into the scope's state. It counts and logs the
response.
"""

import logging
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from brew_platform.errors import BrewError
from brew_platform.settings import PositiveInt, Settings
from brew_serve.errors import BodyTooLarge, Forbidden, QuotaExceeded, Unauthorized
from brew_serve.http.auth import KeyFile, Team
from brew_serve.http.backend import RankingBackend
from brew_serve.http.error_responses import render_error
from brew_serve.http.quota import TeamQuota
from brew_serve.http.request_context import LOCAL, RequestContext, Trace

__all__ = ["MiddlewareConfig", "RequestMiddleware"]

_LOG = logging.getLogger("brew_serve.access")

# For probes, which send no key, and for developers of clients; they reveal nothing about members, models or load.
_OPEN = frozenset({"/health", "/healthz", "/ready", "/docs", "/openapi.json"})
_ADMIN = frozenset({"/metrics"})

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


@dataclass(frozen=True, kw_only=True)
class MiddlewareConfig(Settings):
    """Which callers are accepted, and how large a request may be."""

    keys_path: str | None = None  # the key file; None: no keys, and the service listens on this machine only
    max_body_bytes: PositiveInt = 8_000_000  # 1,000 candidates of 8 KB


class RequestMiddleware:
    """ASGI middleware.

    Args:
        app: The application behind it.
        config: Key file and limits.
        backend: Its clock and meters are used.

    Raises:
        UserError: The key file is missing or malformed.
    """

    def __init__(self, app: Any, config: MiddlewareConfig, backend: RankingBackend) -> None:
        self._app, self._config, self._clock, self._meters = app, config, backend.clock, backend.meters
        self._keys = None if config.keys_path is None else KeyFile(Path(config.keys_path))
        self._quotas: dict[str, TeamQuota] = {}

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        arrival = self._clock()
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        trace = Trace.of(headers.get("x-request-id", ""), headers.get("traceparent", ""))
        status, team_name = 500, ""

        async def send_with_ids(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                ids = {"x-request-id": trace.request_id, "traceparent": trace.traceparent}
                message["headers"] = [*message.get("headers", ()), *((k.encode(), v.encode()) for k, v in ids.items())]
            await send(message)

        try:
            try:
                team = self._authenticate(scope["path"], headers.get("authorization", ""))
                team_name = team.name
                quota = self._quota(team, arrival)
                if quota and scope["path"] not in _OPEN:
                    quota.count_request(arrival)
                body = await self._body(headers.get("content-length", ""), receive)
            except BrewError as error:
                if isinstance(error, QuotaExceeded):
                    self._meters.shed.labels("rate").inc()
                await render_error(error, scope["path"])(scope, receive, send_with_ids)
                return
            context = RequestContext(arrival=arrival, trace=trace, team=team)
            scope["state"] = {**scope.get("state", {}), "context": context, "quota": quota}
            await self._app(scope, _replay(body, receive), send_with_ids)
        finally:
            seconds = self._clock() - arrival
            route = getattr(scope.get("route"), "path", "other")
            self._meters.requests.labels(route, str(status), team_name).inc()
            self._meters.request_seconds.labels(route).observe(seconds)
            _LOG.info(
                "%s %s %d %.1f ms team=%s request_id=%s trace_id=%s",
                *(scope["method"], scope["path"], status, seconds * 1000, team_name, trace.request_id, trace.trace_id),
            )

    def _authenticate(self, path: str, authorization: str) -> Team:
        """Return the team of the key.

        Raises:
            Unauthorized: The key is missing or unknown.
            Forbidden: The team may not use this route.
        """
        if self._keys is None:
            return LOCAL
        scheme, _, key = authorization.partition(" ")
        team = self._keys.team(key.strip()) if scheme.lower() == "bearer" else None
        if path in _OPEN:
            return team or Team(name="")
        if team is None:
            problem = "is not known here" if key else "is missing"
            raise Unauthorized(f"the API key {problem}; send your team's as the header `Authorization: Bearer <key>`.")
        if path in _ADMIN and not team.admin:
            raise Forbidden(f"{path} is for operators; use the key of an admin team.")
        return team

    def _quota(self, team: Team, now: float) -> TeamQuota | None:
        if team.requests_per_second is None and team.tokens_per_minute is None:
            return None
        if (quota := self._quotas.get(team.name)) is None or quota.team != team:  # new, or its limits have changed
            quota = self._quotas[team.name] = TeamQuota(team, now)
        return quota

    async def _body(self, length: str, receive: Receive) -> bytes:
        """Read the whole body.

        Raises:
            BodyTooLarge: It exceeds the limit; raised before reading if the content-length header says so.
        """
        limit = self._config.max_body_bytes
        error = BodyTooLarge(f"the body has more than {limit} bytes; send fewer candidates, or shorter fields.")
        if length.isdecimal() and int(length[:20]) > limit:
            raise error
        chunks: list[bytes] = []
        size, more = 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                break
            chunks.append(message.get("body", b""))
            size += len(chunks[-1])
            more = message.get("more_body", False)
            if size > limit:
                raise error
        return b"".join(chunks)


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
