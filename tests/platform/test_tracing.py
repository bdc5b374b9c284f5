"""Spans: propagation, hostile headers, sampling, and a process without tracing."""

import asyncio
import json
import logging
import os
import subprocess
import sys
import timeit
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brew_platform.console.logging import log_fields, open_process_log
from brew_platform.tracing import (
    Span,
    configure_tracing,
    current_span,
    parse_traceparent,
    shutdown_tracing,
    start_span,
)

from ..otlp_collector import Collector, collector

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED, UNSAMPLED = f"00-{TRACE}-{PARENT}-01", f"00-{TRACE}-{PARENT}-00"

Configure = Callable[..., Collector]


@pytest.fixture
def configure(monkeypatch: pytest.MonkeyPatch) -> Iterator[Configure]:
    """Send this process's spans to a collector; arguments are further variables of the environment."""
    with collector() as collected:

        def start(**variables: str) -> Collector:
            for name, value in (collected.environment | variables).items():
                monkeypatch.setenv(name, value)
            configure_tracing("test")
            return collected

        yield start
        shutdown_tracing()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "garbage",
        SAMPLED.upper(),
        SAMPLED + "-extra",  # version 00 has four fields
        "ff" + SAMPLED[2:],
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE[:-1]}-{PARENT}-01",
        f"00-{TRACE}-{PARENT}-1",
        f"00-{TRACE}-{PARENT}-01, 00-{TRACE}-{PARENT}-01",
        SAMPLED.replace("4", "\N{FULLWIDTH DIGIT FOUR}"),
        SAMPLED + "\r\nx-injected: 1",
        "00-" + "a" * 60_000,
    ],
)
def test_malformed_parents_are_ignored(text: str) -> None:
    assert parse_traceparent(text) is None


def test_valid_parents_are_read_also_of_later_versions() -> None:
    assert parse_traceparent(f" {SAMPLED} ") == (TRACE, PARENT, 1)
    assert parse_traceparent(f"01-{TRACE}-{PARENT}-03-more") == (TRACE, PARENT, 3)


@given(st.text(max_size=80) | st.from_regex(r"[0-9a-f]{2}-[0-9a-f]{31,33}-[0-9a-f]{15,17}-[0-9a-f]{1,3}"))
def test_any_text_is_read_or_ignored(text: str) -> None:
    parsed = parse_traceparent(text)
    assert parsed is None or (len(parsed[0]), len(parsed[1]), parsed[2] < 256) == (32, 16, True)


def test_without_an_endpoint_nothing_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)
    configure_tracing("test")
    with start_span("work", {"n": 1}, parent=SAMPLED) as span:
        span.set({"m": 2})
        span.rename("other")
        span.fail("500")
        assert (span.traceparent, current_span().trace_id) == ("", "")
    assert type(span) is Span
    seconds = min(timeit.repeat(lambda: start_span("work", {"n": 1}).__exit__(None), number=1_000, repeat=5)) / 1_000
    assert seconds < 20e-6, "a request has eight spans; without tracing they must cost nothing"


def test_opentelemetry_is_not_imported_without_an_endpoint() -> None:
    code = (
        "import sys, brew_platform.tracing as t; t.configure_tracing('x'); "
        "t.start_span('a'); print('opentelemetry' in sys.modules)"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_spans_form_a_tree_over_processes_and_tasks(configure: Configure) -> None:
    collected = configure()

    async def child() -> None:
        with start_span("task"):
            await asyncio.sleep(0)

    async def work() -> str:
        with start_span("request", {"n": 1}, parent=SAMPLED, kind="server") as span:
            await asyncio.gather(child(), child())
            with start_span("generator", current=False):
                assert current_span() is span
            return span.traceparent

    outgoing = asyncio.run(work())
    with start_span("other process", parent=outgoing):
        pass
    with pytest.raises(ValueError), start_span("failed", parent="garbage"):
        raise ValueError("member m17 is unknown")
    shutdown_tracing()
    spans = {span.name: span for span in collected.spans}
    request = spans["request"]
    assert (request.service, request.trace_id, request.parent_id) == ("brew360-test", TRACE, PARENT)
    assert (request.attributes, request.failed) == ({"n": 1}, False)
    for name in ("task", "generator", "other process"):
        assert (spans[name].trace_id, spans[name].parent_id) == (TRACE, request.span_id)
    assert outgoing == f"00-{TRACE}-{request.span_id}-01"
    failed = spans["failed"]
    assert (failed.failed, failed.attributes, failed.parent_id) == (True, {"error.type": "ValueError"}, "")
    assert failed.trace_id != TRACE
    assert b"m17" not in b"".join(collected.bodies), "messages of exceptions may repeat what a request contains"


@pytest.mark.parametrize(
    ("variables", "parent", "recorded"),
    [
        ({}, SAMPLED, True),
        ({}, UNSAMPLED, False),
        ({}, "", True),
        ({"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0"}, "", False),
        ({"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0"}, SAMPLED, True),
        ({"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0"}, SAMPLED, False),
        ({"OTEL_SDK_DISABLED": "true"}, SAMPLED, False),
    ],
)
def test_the_sampler_decides_once_for_a_trace(
    configure: Configure, variables: dict[str, str], parent: str, recorded: bool
) -> None:
    collected = configure(**variables)
    with start_span("outer", parent=parent) as outer, start_span("inner") as inner:
        pass
    shutdown_tracing()
    assert {span.name for span in collected.spans} == ({"outer", "inner"} if recorded else set())
    assert outer.trace_id == inner.trace_id
    if outer.traceparent:
        assert outer.traceparent[-2:] == ("01" if recorded else "00")


def test_a_wrong_setting_or_a_dead_collector_does_not_end_the_process(tmp_path: Path) -> None:
    code = (
        "import time, brew_platform.tracing as t; t.configure_tracing('x')\n"
        "for _ in range(20_000):\n    t.start_span('a').__exit__(None)\n"
        "print(time.monotonic())"
    )
    for variables in [{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}, {"OTEL_EXPORTER_OTLP_ENDPOINT": ":"}]:
        done = subprocess.run(
            [sys.executable, "-c", f"import time; start = time.monotonic()\n{code}"],
            env=os.environ | variables,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr


def test_log_records_have_the_ids_of_request_and_span(configure: Configure, tmp_path: Path) -> None:
    configure()
    log = logging.getLogger("brew_serve.test")
    with open_process_log(tmp_path / "a.log", process="gateway"):
        with start_span("request", parent=SAMPLED) as span, log_fields(request_id="r1", trace_id=span.trace_id):
            log.info("inside")
            log.info("own", extra={"fields": {"request_id": "r2"}})
        log.info("outside")
    inside, own, outside = [json.loads(line) for line in (tmp_path / "a.log").read_text().splitlines()]
    assert (inside["request_id"], inside["trace_id"], inside["span_id"]) == ("r1", TRACE, span.span_id)
    assert own["request_id"] == "r2"
    assert not {"request_id", "trace_id", "span_id"} & outside.keys()
