"""The relauncher: its decisions, and a real child that is killed and restarted."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from brew_cluster.ray.relauncher import Decision, decide, relaunch


@pytest.mark.parametrize("code", [0, 2, 130])
def test_a_final_exit_code_is_not_restarted(code: int) -> None:
    assert decide(code, progressed=True, losses=1, most=3) == Decision(again=False)


def test_losses_without_progress_are_retried_with_growing_waits_up_to_a_limit() -> None:
    waits = [decide(-9, progressed=False, losses=losses, most=3) for losses in (1, 2, 3, 4)]
    assert [wait.again for wait in waits] == [True, True, True, False]
    assert [wait.wait_seconds for wait in waits[:3]] == [1.0, 2.0, 4.0]
    assert decide(-9, progressed=False, losses=30, most=99).wait_seconds == 60.0
    assert decide(1, progressed=True, losses=1, most=0) == Decision(again=True)


CHILD = """
import os, signal, sys
from pathlib import Path
count = Path(sys.argv[1])
done = int(count.read_text()) if count.exists() else 0
if done < int(sys.argv[2]):
    count.write_text(str(done + 1))
    os.kill(os.getpid(), signal.SIGKILL)
sys.exit(int(sys.argv[3]))
"""


def run(tmp_path: Path, *, deaths: int, then: int, most: int, progresses: bool) -> tuple[int, list[int]]:
    count = tmp_path / "count"
    losses: list[int] = []
    code = relaunch(
        [sys.executable, "-c", CHILD, str(count), str(deaths), str(then)],
        most=most,
        progress=lambda: int(count.read_text()) if progresses and count.exists() else 0,
        on_loss=lambda code, decision: losses.append(code),
        sleep=lambda seconds: None,
    )
    return code, losses


def test_a_killed_child_is_restarted_as_long_as_it_makes_progress(tmp_path: Path) -> None:
    assert run(tmp_path, deaths=4, then=0, most=1, progresses=True) == (0, [-signal.SIGKILL] * 4)


def test_without_progress_it_gives_up_and_says_which_signal(tmp_path: Path) -> None:
    assert run(tmp_path, deaths=9, then=0, most=2, progresses=False) == (128 + 9, [-signal.SIGKILL] * 3)


def test_invalid_input_ends_the_job_at_once(tmp_path: Path) -> None:
    assert run(tmp_path, deaths=0, then=2, most=2, progresses=False) == (2, [])


PARENT = """
import sys
from brew_cluster.ray.relauncher import relaunch
try:
    relaunch([sys.executable, *sys.argv[1:]], most=3, progress=lambda: 0)
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.mark.parametrize(
    ("answer", "interrupts", "heard"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", 1, "x."),  # as a process ends whose guard is faster
        ("time.sleep(.5); write('done'); sys.exit(130)", 1, "x.done"),  # its cleanup is not interrupted
        ("None", 2, "x."),  # ignores the first
    ],
)
def test_an_interrupt_reaches_the_child_once_and_nothing_is_started_again(
    tmp_path: Path, answer: str, interrupts: int, heard: str
) -> None:
    log = tmp_path / "log"
    child = f"""
import os, signal, sys, time
def write(text):
    with open({str(log)!r}, "a") as log:
        log.write(text)
def answer(*_):
    write(".")
    {answer}
signal.signal(signal.SIGTERM, answer)
signal.signal(signal.SIGINT, answer)
write("x")
end = time.monotonic() + 60
while time.monotonic() < end:
    time.sleep(1)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", PARENT, "-c", child],
        start_new_session=True,
    )
    while not log.exists() or not log.read_text():
        time.sleep(0.01)
    for _ in range(interrupts):
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        while "." not in log.read_text():
            time.sleep(0.01)
    assert process.wait(timeout=20) == 130
    assert log.read_text() == heard
