"""An HTTP proxy that damages chosen requests to an S3 server: cut connections, error responses, lost responses."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

__all__ = ["CODES", "Fault", "FaultProxy", "fault_proxy"]

CODES = {409: "ConditionalRequestConflict", 412: "PreconditionFailed", 500: "InternalError", 503: "SlowDown"}


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What happens to a request."""

    kind: str  # refuse: cut before the server sees it; lose: cut after; answer: an error response; cut: half a body
    status: int = 500
    code: str = ""  # of the error response; by default that of the status
    reaches_server: bool = False  # of an error response: the server has done the request

    @property
    def error_code(self) -> str:
        """The code of the error response."""
        return self.code or CODES.get(self.status, "Error")


@dataclass
class FaultProxy:
    """The proxy. `choose` decides for each request, by method and path with query."""

    url: str
    bucket: str = ""  # for the tests that use the proxy
    choose: Callable[[str, str], Fault | None] = lambda method, path: None
    without_header: str = ""  # this header is removed from all requests
    edit_body: Callable[[bytes], bytes] = bytes
    requests: list[tuple[str, str, str]] = field(default_factory=list)  # method, path, Range

    def inject(self, method: str, *faults: Fault | None, path: str = "") -> None:
        """Damage the next requests with this method and part of a path, in turn; None passes a request."""
        remaining, lock = list(faults), threading.Lock()

        def choose(requested: str, target: str) -> Fault | None:
            with lock:
                return remaining.pop(0) if remaining and requested == method and path in target else None

        self.choose = choose


@contextmanager
def fault_proxy(upstream: str) -> Iterator[FaultProxy]:
    """Start a proxy before the server at the URL `upstream`."""

    class Handler(_Handler):
        address = urlsplit(upstream).netloc

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    Handler.proxy = proxy = FaultProxy(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield proxy
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    address: str
    proxy: FaultProxy

    def forward(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.proxy.requests.append((self.command, self.path, self.headers.get("Range", "")))
        fault = self.proxy.choose(self.command, self.path)
        if fault is not None and fault.kind == "refuse":
            self.cut()
            return
        if fault is not None and fault.kind == "answer" and not fault.reaches_server:
            self.answer_error(fault)
            return
        headers = {name: value for name, value in self.headers.items() if name != self.proxy.without_header}
        connection = HTTPConnection(self.address, timeout=60)
        try:
            connection.request(self.command, self.path, self.proxy.edit_body(body), headers)
            response = connection.getresponse()
            content = response.read()
        finally:
            connection.close()
        if fault is not None and fault.kind == "lose":
            self.cut()
            return
        if fault is not None and fault.kind == "answer":
            self.answer_error(fault)
            return
        self.send_response_only(response.status, response.reason)
        for name, value in response.getheaders():
            if name.lower() not in ("transfer-encoding", "connection", "content-length"):
                self.send_header(name, value)
        length = response.getheader("Content-Length") if self.command == "HEAD" else str(len(content))
        self.send_header("Content-Length", length or "0")
        self.end_headers()
        if fault is not None and fault.kind == "cut":
            self.wfile.write(content[: len(content) // 2])
            self.cut()
        elif self.command != "HEAD":
            self.wfile.write(content)

    do_DELETE = do_GET = do_HEAD = do_POST = do_PUT = forward

    def answer_error(self, fault: Fault) -> None:
        body = f"<Error><Code>{fault.error_code}</Code><Message>injected</Message></Error>".encode()
        self.send_response_only(fault.status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def cut(self) -> None:
        self.close_connection = True
        self.wfile.flush()
        self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, *arguments: Any) -> None:
        pass
