"""One HTTP request as the edge saw it arrive: when, from whom, and under which ids.

Owns: `Call`, and how trace ids are read and made (W3C Trace Context, level 1: `traceparent`).
"""

import re
import secrets
from dataclasses import dataclass

from brew_serve.http.auth import Team
from brew_serve.http.quota import TeamQuota, TokenCount

__all__ = ["LOCAL", "Call", "Trace"]

LOCAL = Team(name="local", admin=True)  # whoever is on this machine, where no key file is

_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")
_PARENT = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")


@dataclass(frozen=True, kw_only=True)
class Trace:
    """The ids of a request: kept where the caller gave good ones, else new."""

    request_id: str
    trace_id: str  # 32 hex digits
    span_id: str  # 16 hex digits, ours
    flags: str  # 2 hex digits

    @staticmethod
    def of(request_id: str, traceparent: str) -> "Trace":
        """From the headers `x-request-id` and `traceparent`; empty where they are not given."""
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
        """The header that names this service's part of the trace."""
        return f"00-{self.trace_id}-{self.span_id}-{self.flags}"


@dataclass(frozen=True, kw_only=True)
class Call:
    """A request that was let in.

    Args:
        arrival: seconds, of the service's clock, when its first byte was seen; deadlines count from it.
        quota: what its team has left; None where nothing is counted.
    """

    arrival: float
    trace: Trace
    team: Team = LOCAL
    quota: TeamQuota | TokenCount | None = None
