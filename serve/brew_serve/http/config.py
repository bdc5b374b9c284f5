"""Settings of the HTTP middleware."""

from dataclasses import dataclass

from brew_platform.settings import PositiveInt, Seconds, Settings

__all__ = ["MiddlewareConfig"]


@dataclass(frozen=True, kw_only=True)
class MiddlewareConfig(Settings):
    """Which callers are accepted, and the limits of their connections, bodies and queues."""

    keys_path: str | None = None  # the key file; None: no keys, and the service listens on this machine only
    header_seconds: Seconds = 10.0  # time limit for a connection to send the headers of a request
    max_header_bytes: PositiveInt = 65_536  # of a request
    max_body_bytes: PositiveInt = 8_000_000  # 1,000 candidates of 8 KB
    body_seconds: Seconds = 20.0  # time limit for a body to arrive
    max_reading_requests: PositiveInt = 256  # bodies of a team that arrive at a time; one more ends the longest
    max_held_bytes: PositiveInt = 500_000_000  # bodies of a team's requests that are not answered yet
    max_waiting_requests: PositiveInt = 256  # requests of a team that wait for their turn
    max_connections: PositiveInt = 8_000  # of each proxy; one more ends the oldest that has no request
