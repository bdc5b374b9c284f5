"""The context of one HTTP request: arrival time, team, and trace ids (W3C Trace Context, level 1: `traceparent`)."""

import re
import secrets
from dataclasses import dataclass

from brew_platform.identity.keys import Team
from brew_serve.http.routing_hints import RoutingHints

__all__ = ["LOCAL", "RequestContext", "Trace"]

LOCAL = Team(name="local", admin=True)  # every caller of a service without a key file

_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")
_PARENT = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")


@dataclass(frozen=True, kw_only=True)
class Trace:
    """The ids of a request: the caller's if they are valid, else new ones."""

    request_id: str
    trace_id: str  # 32 hex digits
    span_id: str  # 16 hex digits, of this service
    flags: str  # 2 hex digits

    @staticmethod
    def of(request_id: str, traceparent: str) -> "Trace":
        """Make the ids from the headers `x-request-id` and `traceparent`; an empty string stands for no header."""
        parent = _PARENT.fullmatch(traceparent.strip())
        if parent and (set(parent[1]) == {"0"} or set(parent[2]) == {"0"}):
            parent = None
        return Trace(
            request_id=request_id if _REQUEST_ID.fullmatch(request_id) else secrets.token_hex(16),
            trace_id=parent[1] if parent else secrets.token_hex(16),
            span_id=secrets.token_hex(8),
            flags=parent[3] if parent else "00",
        )

    @property
    def traceparent(self) -> str:
        """The header that names this service's span of the trace."""
        return f"00-{self.trace_id}-{self.span_id}-{self.flags}"


@dataclass(frozen=True, kw_only=True)
class RequestContext:
    """A request that the middleware accepted.

    Args:
        arrival: Seconds on the backend's clock when the first byte arrived; deadlines count from it.
        trace: The ids of the request.
        team: The team of the API key.
        time_limit: Seconds from the arrival: the deadline of a request that names none. None for no limit.
        waiting_tokens: Predicted tokens of the requests that wait in the gateway when this one starts.
        hints: What the gateway has read in the body; None if it has not read it.
    """

    arrival: float
    trace: Trace
    team: Team = LOCAL
    time_limit: float | None = None
    waiting_tokens: int = 0
    hints: RoutingHints | None = None
