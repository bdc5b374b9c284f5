"""The outermost layer of the service: ids, keys, request rates and body sizes, before anything is parsed.

For each request it notes the arrival, takes or makes the trace ids, checks the key of the team and its rate, and reads
the body up to its limit; then it makes a `Call` of it, and hands on. Afterwards it counts and logs the answer.

Owns: that order, and which routes need which key. Does not own: keys (`keys`), limits (`quota`), routes (`api`).
"""

import logging
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from brew_platform.errors import BrewError, ConfigError
from brew_serve.http.auth import KeyFile, Team
from brew_serve.http.errors import refused
from brew_serve.http.quota import TeamQuota
from brew_serve.http.refusals import BodyTooLarge, Forbidden, QuotaExceeded, Unauthorized
from brew_serve.http.request_context import LOCAL, Call, Trace
from brew_serve.http.service_status import Front

__all__ = ["Edge", "EdgeConfig"]

_LOG = logging.getLogger("brew_serve.access")

# For probes, which carry no key, and for whoever writes a client; they tell nothing of members, models or load.
_OPEN = frozenset({"/health", "/healthz", "/ready", "/docs", "/openapi.json"})
_ADMIN = frozenset({"/metrics"})

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


@dataclass(frozen=True, kw_only=True)
class EdgeConfig:
    """Who may ask, and how much at once."""

    keys_path: str | None = None  # file of `keys`; None: no keys, and only this machine can be served
    max_body_bytes: int = 8_000_000  # 1,000 candidates of 8 KB

    def __post_init__(self) -> None:
        if self.max_body_bytes < 1:
            raise ConfigError(f"edge.max_body_bytes is {self.max_body_bytes}; give a number greater than 0.")


class Edge:
    """ASGI middleware.

    Args:
        app: the application behind it.
        config: of the edge.
        front: the service behind it; asked for with each request.

    Raises:
        UserError: the key file is missing or malformed.
    """

    def __init__(self, app: Any, config: EdgeConfig, front: Callable[[], Front]) -> None:
        self._app, self._config, self._front = app, config, front
        self._keys = None if config.keys_path is None else KeyFile(Path(config.keys_path))
        self._quotas: dict[str, TeamQuota] = {}

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        front = self._front()
        arrival = front.clock()
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        trace = Trace.of(headers.get("x-request-id", ""), headers.get("traceparent", ""))
        status, team = 500, ""

        async def send_with_ids(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                ids = {"x-request-id": trace.request_id, "traceparent": trace.traceparent}
                message["headers"] = [*message.get("headers", ()), *((k.encode(), v.encode()) for k, v in ids.items())]
            await send(message)

        try:
            try:
                known = self._team(scope["path"], headers.get("authorization", ""))
                team = known.name
                quota = self._quota(known, arrival)
                if quota and scope["path"] not in _OPEN:
                    quota.request(arrival)
                body = await self._body(headers.get("content-length", ""), receive)
            except BrewError as error:
                if isinstance(error, QuotaExceeded):
                    front.meters.shed.labels("rate").inc()
                await refused(error, scope["path"])(scope, receive, send_with_ids)
                return
            call = Call(arrival=arrival, trace=trace, team=known, quota=quota)
            scope["state"] = {**scope.get("state", {}), "call": call}
            await self._app(scope, _replay(body, receive), send_with_ids)
        finally:
            seconds = front.clock() - arrival
            route = getattr(scope.get("route"), "path", "other")
            front.meters.requests.labels(route, str(status), team).inc()
            front.meters.request_seconds.labels(route).observe(seconds)
            _LOG.info(
                "%s %s %d %.1f ms team=%s request_id=%s trace_id=%s",
                *(scope["method"], scope["path"], status, seconds * 1000, team, trace.request_id, trace.trace_id),
            )

    def _team(self, path: str, authorization: str) -> Team:
        """Who asks.

        Raises:
            Unauthorized, Forbidden: not with this key.
        """
        if self._keys is None:
            return LOCAL
        scheme, _, key = authorization.partition(" ")
        team = self._keys.team(key.strip()) if scheme.lower() == "bearer" else None
        if path in _OPEN:
            return team or Team(name="")
        if team is None:
            what = "is not known here" if key else "is missing"
            raise Unauthorized(f"the API key {what}; send your team's as the header `Authorization: Bearer <key>`.")
        if path in _ADMIN and not team.admin:
            raise Forbidden(f"{path} is for operators; use the key of a team that is one.")
        return team

    def _quota(self, team: Team, now: float) -> TeamQuota | None:
        if team.requests_per_second is None and team.tokens_per_minute is None:
            return None
        if (quota := self._quotas.get(team.name)) is None or quota.team != team:  # new, or its limits have changed
            quota = self._quotas[team.name] = TeamQuota(team, now)
        return quota

    async def _body(self, length: str, receive: Receive) -> bytes:
        """The whole body.

        Raises:
            BodyTooLarge: it is larger than allowed; found out before it is read where it says its length.
        """
        most = self._config.max_body_bytes
        error = BodyTooLarge(f"the body has more than {most} bytes; send fewer candidates, or less about each.")
        if length.isdecimal() and int(length[:20]) > most:
            raise error
        parts: list[bytes] = []
        size, more = 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                break
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            more = message.get("more_body", False)
            if size > most:
                raise error
        return b"".join(parts)


def _replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives a body that was read already, and then what comes after it."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again
