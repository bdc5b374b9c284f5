"""The context of one HTTP request: arrival time, team, and trace ids (W3C Trace Context, level 1: `traceparent`)."""

import re
import secrets
import time
from dataclasses import dataclass, field, replace

from brew_platform.identity.keys import SCOPES, Team
from brew_platform.tracing import Span, parse_traceparent
from brew_serve.http.routing_hints import RoutingHints

__all__ = ["LOCAL", "RequestContext", "Trace"]

LOCAL = Team(name="local", scopes=frozenset(SCOPES))  # every caller of a service without a key file

_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")


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
        trace_id, _, flags = parse_traceparent(traceparent) or (secrets.token_hex(16), "", 0)
        return Trace(
            request_id=request_id if _REQUEST_ID.fullmatch(request_id) else secrets.token_hex(16),
            trace_id=trace_id,
            span_id=secrets.token_hex(8),
            flags=f"{flags:02x}",
        )

    def within(self, span: Span) -> "Trace":
        """Return these ids with those of a span of this service; the same ids if no spans are recorded."""
        if not span.traceparent:
            return self
        return replace(self, trace_id=span.trace_id, span_id=span.span_id, flags=span.traceparent[-2:])

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
        role: Of the version for this request: production, canary or shadow.
        received: Seconds since 1970 when it arrived; of a copy for a shadow, when the original arrived.
    """

    arrival: float
    trace: Trace
    team: Team = LOCAL
    time_limit: float | None = None
    waiting_tokens: int = 0
    hints: RoutingHints | None = None
    role: str = "production"
    received: float = field(default_factory=time.time)
