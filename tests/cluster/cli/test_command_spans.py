"""The spans of a command: they belong to the trace of the process that started it, and name no file."""

import json
from pathlib import Path

import pytest

from brew_cluster.cli.runner import log_to
from brew_platform.console.plain_console import PlainConsole
from brew_platform.console.progress import Phases
from brew_platform.tracing import shutdown_tracing

from ...otlp_collector import collector

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


def test_a_command_and_its_phases_belong_to_the_trace_of_the_caller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "secret" / "train.log"
    with collector() as collected:
        for name, value in collected.environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("TRACEPARENT", f"00-{TRACE}-00f067aa0ba902b7-01")
        phases = Phases(["bins", "train"], console=PlainConsole())

        def run() -> None:
            with log_to(log):
                with phases.phase("bins"):
                    pass
                with phases.phase("train"):
                    raise ValueError("bins of member m17")

        with pytest.raises(ValueError):
            run()
        shutdown_tracing()
    spans = {span.name: span for span in collected.spans}
    command = spans["brew360 train"]
    assert (command.service, command.trace_id, command.failed) == ("brew360-command", TRACE, True)
    assert [(spans[name].parent_id, spans[name].failed) for name in ("bins", "train")] == [
        (command.span_id, False),
        (command.span_id, True),
    ]
    assert not any(text in b"".join(collected.bodies) for text in (b"secret", b"m17"))
    [failed] = [json.loads(line) for line in log.read_text().splitlines() if "m17" in line]
    assert (failed["trace_id"], failed["span_id"]) == (TRACE, command.span_id)


def test_a_malformed_parent_starts_a_trace_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with collector() as collected:
        for name, value in collected.environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("TRACEPARENT", "00-xyz")
        with log_to(tmp_path / "serve.log"):
            pass
        shutdown_tracing()
    [span] = collected.spans
    assert (span.name, span.parent_id) == ("brew360 serve", "")
