"""what a phase shows, with a clock that the test moves, on a terminal, in a pipe, and on a pipe that broke."""

import io
import logging
import subprocess
import sys
import time

import pytest

from brew_platform.console.plain_console import PlainConsole
from brew_platform.console.progress import PhaseProgress, Phases, duration


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (9.94, "9.9 s"), (12.4, "12 s"), (59.6, "1 min 00 s"), (90, "1 min 30 s"), (7501, "2 h 05 min")],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_status_shows_count_rate_and_time_left_without_counting_the_start_up() -> None:
    clock = Clock()
    progress = PhaseProgress(total=400, unit="steps", clock=clock)
    clock.now += 30  # start-up: workers import, kernels compile
    assert progress.status() == "0/400 steps, 30 s"
    progress.update(20)
    clock.now += 32
    progress.update(120, loss=2.31234, note="warm")
    assert progress.status() == "120/400 steps, 3.12 steps/s, 1 min 30 s left, loss 2.31, note warm"
    clock.now += 1
    progress.update(400, tps=14_000)
    assert progress.status() == "400/400 steps, 11.5 steps/s, 1 min 03 s, loss 2.31, note warm, tps 14,000"
    assert progress.summary() == "400 steps in 1 min 03 s, loss 2.31, note warm, tps 14,000"


def test_a_phase_of_unknown_length_shows_count_and_rate() -> None:
    clock = Clock()
    progress = PhaseProgress(total=None, unit="rows", clock=clock)
    clock.now += 2
    assert progress.status() == "2.0 s"
    progress.update(1000)
    clock.now += 1
    progress.update(3000)
    assert progress.status() == "3,000 rows, 2,000 rows/s, 3.0 s"
    progress.update(3500, total=7000)
    assert progress.status() == "3,500/7,000 rows, 2,500 rows/s, 1.4 s left"


def test_without_a_terminal_there_are_plain_lines_which_the_log_has_too(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    clock, out = Clock(), io.StringIO()
    phases = Phases(["data", "train"], console=PlainConsole(file=out, width=20), clock=clock, every_seconds=0.05)
    with phases.phase("data"):
        clock.now += 3
    with phases.phase("train", total=400) as progress:
        progress.update(10)
        clock.now += 10
        progress.update(110, loss=2.5)
        time.sleep(0.3)
    lines = out.getvalue().splitlines()
    assert lines[:3] == ["[1/2] data ...", "[1/2] data: 3.0 s", "[2/2] train ..."]
    assert set(lines[3:-1]) == {"[2/2] train ... 110/400 steps, 10 steps/s, 29 s left, loss 2.5"}
    assert lines[-1] == "[2/2] train: 110 steps in 10 s, loss 2.5"
    assert caplog.messages == lines
    assert phases.seconds == {"data": 3.0, "train": 10.0}


def test_a_phase_that_fails_says_so_and_keeps_its_seconds() -> None:
    clock, out = Clock(), io.StringIO()
    phases = Phases(["data"], console=PlainConsole(file=out), clock=clock)
    with pytest.raises(KeyboardInterrupt), phases.phase("data"):  # noqa: PT012
        clock.now += 4
        raise KeyboardInterrupt
    assert out.getvalue().splitlines()[-1] == "[1/1] data: failed after 4.0 s"
    assert phases.seconds == {"data": 4.0}


@pytest.mark.parametrize("width", [4, 30, 120])
def test_a_terminal_of_any_width_shows_a_bar(width: int, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    out = io.StringIO()
    phases = Phases(["train"], console=PlainConsole(file=out, width=width, force_terminal=True), every_seconds=0.1)
    with phases.phase("train", total=4) as progress:
        for step in range(5):
            progress.update(step, loss=1.5)
            time.sleep(0.08)
    assert caplog.messages[0] == "[1/1] train ..."
    assert caplog.messages[-1].startswith("[1/1] train: 4 steps in 0.")
    assert len(caplog.messages) >= 4
    if width == 120:
        assert "4/4 steps" in out.getvalue()
        assert "[1/1] train" in out.getvalue()


def test_facts_are_not_markup() -> None:
    out = io.StringIO()
    phases = Phases(["a"], console=PlainConsole(file=out))
    with phases.phase("a") as progress:
        progress.update(1, path="[/red]")
    assert out.getvalue().splitlines()[-1].endswith("path [/red]")


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_the_work_continues_when_the_pipe_closes(encoding: str) -> None:
    code = (
        "import sys, time; from brew_platform.console.progress import Phases\n"
        "phases = Phases([f's{i}' for i in range(50)], every_seconds=0.01)\n"
        "for name in phases.names:\n"
        "    with phases.phase(name, total=2) as p: p.update(1, title='caf\\xe9'); time.sleep(0.02)\n"
        "print('finished', file=sys.stderr)"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={"PYTHONIOENCODING": encoding},
        text=True,
    )
    assert child.stdout
    assert child.stderr
    assert child.stdout.readline() == "[1/50] s0 ...\n"
    child.stdout.close()
    assert child.stderr.read() == "finished\n"
    child.stderr.close()
    assert child.wait(timeout=30) == 0
