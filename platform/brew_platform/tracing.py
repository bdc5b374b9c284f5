"""Spans of OpenTelemetry, sent over OTLP/HTTP. Off, at the cost of a function call, unless an endpoint is set.

OpenTelemetry's standard environment variables configure it, in each process that sends spans:

| variable | |
|---|---|
| OTEL_EXPORTER_OTLP_ENDPOINT | URL of the collector, such as http://collector:4318; without it there are no spans |
| OTEL_EXPORTER_OTLP_HEADERS | headers of the requests to the collector, such as `authorization=...` |
| OTEL_TRACES_SAMPLER, OTEL_TRACES_SAMPLER_ARG | such as `parentbased_traceidratio` and `0.01`; default: all |
| OTEL_RESOURCE_ATTRIBUTES | attributes of every span, such as `deployment.environment=production` |
| OTEL_BSP_MAX_QUEUE_SIZE | spans that wait for the collector; further spans are dropped |
| TRACEPARENT | of a command: the span that starts it |

A span that is started without `parent` belongs to the current span. Other processes get the parent as text in the form
of the header `traceparent` (W3C Trace Context, level 1). Attributes of spans name no person and repeat no content of a
request: ids of members, events and requests, texts, and the messages of exceptions are left out. The collector never
delays a request: spans are sent by a thread.
"""

import atexit
import logging
import os
import re
import threading
from collections.abc import Mapping
from contextvars import ContextVar, Token
from typing import Any, Literal

__all__ = ["Span", "configure_tracing", "current_span", "parse_traceparent", "shutdown_tracing", "start_span"]

Attributes = Mapping[str, str | int | float | bool]
Kind = Literal["internal", "server", "client", "consumer"]

_LOG = logging.getLogger("brew_platform")
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_PARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-[!-~]*)?")
_SAMPLED = 1  # bit of the flags
_SHUTDOWN_SECONDS = 3.0  # for the last spans of a process; a collector that does not answer must not delay its end


def parse_traceparent(text: str) -> tuple[str, str, int] | None:
    """Read a header `traceparent`.

    Returns:
        Trace id (32 hex digits), span id (16 hex digits) and flags; None if the text is not valid.
    """
    match = _PARENT.fullmatch(text.strip())
    if match is None:
        return None
    version, trace_id, span_id, flags, rest = match.groups()
    if version == "ff" or (version == "00" and rest) or set(trace_id) == {"0"} or set(span_id) == {"0"}:
        return None
    return trace_id, span_id, int(flags, 16)


class Span:
    """A span, ended by its `with` block; a failure of the block is recorded as the type of the exception.

    This class is the span of a process without tracing: it does nothing.

    Attributes:
        trace_id: 32 hex digits; empty without tracing.
        span_id: 16 hex digits; empty without tracing.
        traceparent: The span as the parent for other processes; empty without tracing.
    """

    trace_id = span_id = traceparent = ""
    _is_recorded = False

    def set(self, attributes: Attributes) -> None:
        """Add attributes."""

    def rename(self, name: str) -> None:
        """Replace the name."""

    def fail(self, kind: str) -> None:
        """Record that the work failed; `kind` says how, such as an HTTP status."""

    def _stand_in(self) -> "Span":
        """Return a span with the ids of this one that does nothing."""
        span = Span()
        span.trace_id, span.span_id, span.traceparent = self.trace_id, self.span_id, self.traceparent
        return span

    def __enter__(self) -> "Span":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        return


_OFF = Span()
_provider: Any = None  # opentelemetry's, of this process; None: off
_tracer: Any = None
_current: ContextVar[Span] = ContextVar("brew360_span", default=_OFF)


def current_span() -> Span:
    """Return the span of the innermost `start_span` block; its ids are empty if there is none."""
    return _current.get()


def start_span(
    name: str,
    attributes: Attributes | None = None,
    *,
    parent: str | None = None,
    kind: Kind = "internal",
    current: bool = True,
) -> Span:
    """Start a span: `with start_span("score", {"brew360.candidates": 20}) as span: ...`.

    Args:
        name: Of the kind of work; names no person and no id.
        attributes: See `Span.set`.
        parent: A `traceparent` of another process; one that is not valid starts a new trace. None: the current span.
        kind: The role of this process in a call between processes.
        current: Spans that are started inside the block belong to this one. False in an asynchronous generator, whose
            block may end in another context than it began in.
    """
    if _tracer is None:
        return _OFF
    outer = _current.get()
    if parent is None and outer.traceparent and not outer._is_recorded:
        return outer._stand_in()  # the sampler decided against this trace
    return _RecordedSpan(name, attributes, parent, kind, current)


def configure_tracing(process: str) -> None:
    """Start sending the spans of this process if an endpoint is set. A second call does nothing.

    Args:
        process: What the process is, such as `gateway`; `brew360-<process>` is the service's name without
            OTEL_SERVICE_NAME.
    """
    global _provider, _tracer
    if _tracer is not None or not any(os.environ.get(name) for name in _ENDPOINTS):
        return
    if os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        names: dict[str, Any] = {
            "service.name": os.environ.get("OTEL_SERVICE_NAME") or f"brew360-{process}",
            "process.pid": os.getpid(),
        }
        provider = TracerProvider(resource=Resource.create(names), shutdown_on_exit=False)
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    except Exception as error:  # a wrong endpoint or sampler must not end the service
        _LOG.warning("no spans are sent: %s: %s. Check the variables OTEL_*.", type(error).__name__, error)
        return
    logging.getLogger("opentelemetry").setLevel(logging.ERROR)  # its warnings repeat every second without a collector
    _provider, _tracer = provider, provider.get_tracer("brew360")
    atexit.register(shutdown_tracing)


def shutdown_tracing() -> None:
    """Send the spans that wait, for at most 3 s, and end tracing. The end of the process does the same."""
    global _provider, _tracer
    provider, _provider, _tracer = _provider, None, None
    if provider is not None:
        atexit.unregister(shutdown_tracing)
        sending = threading.Thread(target=provider.shutdown, name="tracing", daemon=True)
        sending.start()
        sending.join(_SHUTDOWN_SECONDS)


class _RecordedSpan(Span):
    def __init__(self, name: str, attributes: Attributes | None, parent: str | None, kind: Kind, current: bool) -> None:
        from opentelemetry.trace import SpanKind

        self._span = _tracer.start_span(
            name,
            context=_parent_context(_current.get() if parent is None else parent),
            kind=SpanKind[kind.upper()],
            attributes=attributes,
        )
        context = self._span.get_span_context()
        self.trace_id, self.span_id = f"{context.trace_id:032x}", f"{context.span_id:016x}"
        self.traceparent = f"00-{self.trace_id}-{self.span_id}-{context.trace_flags & _SAMPLED:02x}"
        self._is_recorded = self._span.is_recording()
        self._makes_current = current
        self._token: Token[Span] | None = None

    def set(self, attributes: Attributes) -> None:
        self._span.set_attributes(attributes)

    def rename(self, name: str) -> None:
        self._span.update_name(name)

    def fail(self, kind: str) -> None:
        from opentelemetry.trace import StatusCode

        self._span.set_status(StatusCode.ERROR)
        self._span.set_attribute("error.type", kind)

    def __enter__(self) -> "Span":
        if self._makes_current:
            self._token = _current.set(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._token is not None:
            _current.reset(self._token)
        if kind is not None and kind is not GeneratorExit:
            self.fail(kind.__qualname__)
        self._span.end()


def _parent_context(parent: Span | str) -> Any:
    """Return OpenTelemetry's context with the parent; an empty one for a new trace."""
    from opentelemetry.context import Context
    from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context

    if isinstance(parent, _RecordedSpan):
        return set_span_in_context(parent._span, Context())
    parsed = parse_traceparent(parent) if isinstance(parent, str) else None
    if parsed is None:
        return Context()
    trace_id, span_id, flags = parsed
    context = SpanContext(int(trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=TraceFlags(flags & _SAMPLED))
    return set_span_in_context(NonRecordingSpan(context), Context())
