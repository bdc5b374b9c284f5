"""A connection of uvicorn with limits of time and size.

uvicorn waits without a limit for the headers of a connection's first request and for a client that does not read its
response, and headers may have any length.
"""

import asyncio
from typing import ClassVar

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from brew_serve.http.config import MiddlewareConfig

__all__ = ["GuardedProtocol", "guarded_protocol"]

_WRITE_SECONDS = 60.0  # time limit for a client to read what is already sent
_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


class GuardedProtocol(HttpToolsProtocol):
    """One connection of uvicorn, with limits.

    A timer runs while the client sends headers (from the connection, or from the first byte of a later request), while
    it still sends a body after the response, and while it does not read the response. The application limits the time
    of a body before the response, and uvicorn that of an idle connection. A connection too many ends the oldest one
    that has no request.
    """

    limits: ClassVar = MiddlewareConfig()
    without_request: ClassVar[dict["GuardedProtocol", None]] = {}  # the oldest first

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._begin_headers()
        self.without_request[self] = None
        if len(self.connections) > self.limits.max_connections:
            oldest = next(iter(self.without_request))
            del self.without_request[oldest]
            oldest.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self.without_request.pop(self, None)
        self._stop_timer()
        self._stop_write_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._sends == "nothing":
            self._begin_headers()
        self._header_bytes += len(data) if self._sends == "headers" else 0
        super().data_received(data)
        too_large = self._sends == "headers" and self._header_bytes > self.limits.max_header_bytes
        if too_large and not self.transport.is_closing():
            self.transport.write(_TOO_LARGE)
            self.transport.close()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if self._sends == "nothing":  # a request that came in one piece with the one before
            self._begin_headers()

    def on_headers_complete(self) -> None:
        self.without_request.pop(self, None)
        self._sends = "body"
        self._stop_timer()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._sends = "nothing"
        self._stop_timer()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        self.without_request[self] = None
        if self._sends == "body":
            self._start_timer(self.limits.body_seconds)
        super().on_response_complete()

    def handle_websocket_upgrade(self) -> None:
        self._stop_timer()
        super().handle_websocket_upgrade()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._write_timer is None:
            self._write_timer = self.loop.call_later(_WRITE_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_write_timer()

    def _begin_headers(self) -> None:
        self._sends, self._header_bytes = "headers", 0
        self._start_timer(self.limits.header_seconds)

    def _start_timer(self, seconds: float) -> None:
        self._stop_timer()
        self._timer = self.loop.call_later(seconds, self.transport.abort)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _stop_write_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None


def guarded_protocol(limits: MiddlewareConfig) -> type[GuardedProtocol]:
    """Return the connection class of a server with these limits, for `uvicorn.Config(http=...)`."""
    return type("GuardedProtocol", (GuardedProtocol,), {"limits": limits, "without_request": {}})
