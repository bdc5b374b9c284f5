"""Trace ids of requests."""

from brew_platform.tracing import Span
from brew_serve.http.request_context import Trace

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def test_valid_trace_ids_are_kept_and_others_replaced() -> None:
    kept = Trace.of("req-1", PARENT)
    assert (kept.request_id, kept.trace_id, kept.flags) == ("req-1", PARENT[3:35], "01")
    assert kept.traceparent.startswith(PARENT[:36])
    assert kept.traceparent != PARENT, "the span must be ours"
    for request_id, parent in [
        ("", ""),
        ("a b", PARENT[:-1]),
        ("x" * 129, "ff" + PARENT[2:]),
        ("é", PARENT.replace("4bf", "4BF")),
    ]:
        trace = Trace.of(request_id, parent)
        assert trace.request_id != request_id
        assert trace.trace_id != PARENT[3:35]
        assert len(trace.traceparent) == 55
    assert set(Trace.of("", f"00-{'0' * 32}-{'1' * 16}-01").trace_id) != {"0"}


def test_a_span_replaces_the_ids_and_a_missing_one_does_not() -> None:
    trace = Trace.of("req-1", PARENT)
    assert trace.within(Span()) is trace
    span = Span()
    span.trace_id, span.span_id, span.traceparent = "a" * 32, "b" * 16, f"00-{'a' * 32}-{'b' * 16}-00"
    inner = trace.within(span)
    assert (inner.request_id, inner.traceparent) == ("req-1", span.traceparent)
