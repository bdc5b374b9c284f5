"""A collector of OpenTelemetry's spans in the test's process: an HTTP server that decodes OTLP."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

__all__ = ["CollectedSpan", "Collector", "collector"]


@dataclass(frozen=True, kw_only=True)
class CollectedSpan:
    """A span, as it arrived; ids are hex digits, an empty parent that of a root."""

    service: str
    name: str
    trace_id: str
    span_id: str
    parent_id: str
    attributes: Mapping[str, Any]
    failed: bool
    start_ns: int
    end_ns: int


@dataclass
class Collector:
    """What arrived; `environment` sends the spans of a process here at once."""

    url: str
    bodies: list[bytes] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        return {"OTEL_EXPORTER_OTLP_ENDPOINT": self.url, "OTEL_BSP_SCHEDULE_DELAY": "100"}

    @property
    def spans(self) -> list[CollectedSpan]:
        return [span for body in list(self.bodies) for span in _decoded(body)]

    def wait_for(self, found: Callable[[list[CollectedSpan]], Any], seconds: float = 20.0) -> list[CollectedSpan]:
        """Return the spans when `found` returns a true value for them."""
        end = time.monotonic() + seconds
        while not found(spans := self.spans):
            assert time.monotonic() < end, f"no such spans arrived, only {[span.name for span in spans]}"
            time.sleep(0.05)
        return spans


@contextmanager
def collector() -> Iterator[Collector]:
    """Run a collector on this machine during the block."""
    bodies: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield Collector(f"http://127.0.0.1:{server.server_port}", bodies)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _decoded(body: bytes) -> list[CollectedSpan]:
    request = ExportTraceServiceRequest.FromString(body)
    return [
        CollectedSpan(
            service=_values(resource.resource.attributes)["service.name"],
            name=span.name,
            trace_id=span.trace_id.hex(),
            span_id=span.span_id.hex(),
            parent_id=span.parent_span_id.hex(),
            attributes=_values(span.attributes),
            failed=span.status.code == span.status.STATUS_CODE_ERROR,
            start_ns=span.start_time_unix_nano,
            end_ns=span.end_time_unix_nano,
        )
        for resource in request.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]


def _values(attributes: Any) -> dict[str, Any]:
    return {item.key: getattr(item.value, item.value.WhichOneof("value")) for item in attributes}
