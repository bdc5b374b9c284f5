"""Reads request bodies within limits of size, time, number and memory.

Bodies that arrive slowly, or never, occupy places: a team may send `max_reading_requests` bodies at a time. One more
ends the one that is being read for the longest, which is a stalled one unless all arrive equally slowly.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Protocol

from brew_serve.errors import BodyTooLarge, Expired, Overloaded

__all__ = ["BodyLimits", "BodyReader", "Disconnected"]

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


class BodyLimits(Protocol):
    """The settings that limit bodies; see `MiddlewareConfig`."""

    @property
    def max_body_bytes(self) -> int: ...
    @property
    def body_seconds(self) -> float: ...
    @property
    def max_reading_requests(self) -> int: ...
    @property
    def max_held_bytes(self) -> int: ...


class Disconnected(Exception):
    """The client disconnected before its body was complete."""


class BodyReader:
    """Reads bodies, and counts the bytes that each team's requests hold.

    Args:
        limits: Of bodies.
    """

    def __init__(self, limits: BodyLimits) -> None:
        self._limits = limits
        self._reading: dict[str, dict[asyncio.Timeout, None]] = {}  # by team, the longest first
        self._held: Counter[str] = Counter()  # bytes, by team

    async def read(self, team: str, content_length: str, receive: Receive) -> bytes:
        """Read the whole body. `release` must follow when the request is finished.

        Args:
            team: Name of the team that sends it.
            content_length: The header; empty if it is missing.
            receive: The ASGI callable.

        Raises:
            BodyTooLarge: It exceeds the limit; raised before reading if the header says so.
            Expired: It did not arrive in time, or gave its place to another one.
            Overloaded: The requests of the team hold too many bytes.
            Disconnected: The client disconnected.
        """
        most = self._limits.max_body_bytes
        error = BodyTooLarge(f"the body has more than {most} bytes; send fewer candidates, or shorter fields.")
        if content_length.isdecimal() and int(content_length[:20]) > most:
            raise error
        reading = self._reading.setdefault(team, {})
        if len(reading) >= self._limits.max_reading_requests:
            self._end_longest(reading)
        chunks: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(self._limits.body_seconds) as limit:
                reading[limit] = None
                try:
                    more = True
                    while more:
                        message = await receive()
                        if message["type"] == "http.disconnect":
                            raise Disconnected
                        chunk = message.get("body", b"")
                        chunks.append(chunk)
                        size += len(chunk)
                        self._held[team] += len(chunk)
                        more = message.get("more_body", False)
                        if size > most:
                            raise error
                        if self._held[team] > self._limits.max_held_bytes:
                            raise Overloaded(
                                f"the requests of team {team} that are not answered yet hold "
                                f"{self._limits.max_held_bytes} bytes, which is the limit; try again in 1 s.",
                                1.0,
                            )
                finally:
                    reading.pop(limit, None)
        except TimeoutError:
            self.release(team, size)
            raise Expired(
                f"the body did not arrive within {self._limits.body_seconds:g} s, or too many bodies arrive at a time "
                f"and this one took longest; send it faster, or in smaller parts."
            ) from None
        except BaseException:
            self.release(team, size)
            raise
        return b"".join(chunks)

    def release(self, team: str, size: int) -> None:
        """Count `size` bytes of a body as no longer held."""
        self._held[team] -= size

    @staticmethod
    def _end_longest(reading: dict[asyncio.Timeout, None]) -> None:
        limit = next(iter(reading))
        del reading[limit]
        if not limit.expired():
            limit.reschedule(asyncio.get_running_loop().time())
