"""Process trees: memory is measured, and no descendant survives."""

import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from brew_platform import processes
from brew_platform.processes import become_subreaper, stop_signals

# A child whose grandchild ignores SIGTERM, and a daemon that was forked twice, so that init would adopt it.
FAMILY = """
import json, os, signal, subprocess, sys, time
from brew_platform.processes import become_subreaper
from brew_platform.processes import kill_descendants

stubborn = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
parent = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {stubborn!r}]); time.sleep(60)"
orphaner = "import os, time; os.fork() == 0 and (print(os.getpid(), flush=True), time.sleep(60))"

assert become_subreaper()
child = subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE)
child.stdout.readline()
dead = subprocess.Popen([sys.executable, "-c", orphaner], stdout=subprocess.PIPE)
orphan = int(dead.stdout.readline())
dead.wait()
start = time.monotonic()
ended = kill_descendants(grace_seconds=float(sys.argv[1]))
print(json.dumps({"ended": ended, "orphan": orphan, "seconds": time.monotonic() - start}))
"""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux can adopt orphans")


def test_a_stubborn_grandchild_and_an_orphan_are_ended_and_counted() -> None:
    done = subprocess.run([sys.executable, "-c", FAMILY, "1"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    outcome = json.loads(done.stdout)
    assert outcome["ended"] == 3  # child, grandchild, orphan
    assert 1.0 <= outcome["seconds"] < 5.0
    assert not psutil.pid_exists(outcome["orphan"])


def test_without_stubborn_ones_there_is_no_waiting_and_without_any_there_is_nothing() -> None:
    code = (
        "import subprocess, sys, time; from brew_platform.processes import kill_descendants\n"
        "quick = [subprocess.Popen(['sleep', '60']) for _ in range(3)]\n"
        "start = time.monotonic(); print(kill_descendants(), kill_descendants(), time.monotonic() - start < 2)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["3", "0", "True"], done.stderr


# In a process of its own: pytest's shares libraries with what runs beside it, and its part of them changes with that.
METERED = """
import json, subprocess, sys, time
from brew_platform.processes import ProcessTreeMeter

held = "block = bytearray(b'x') * 100_000_000; print('up', flush=True); input()"
with ProcessTreeMeter(interval_seconds=0.02) as meter:
    time.sleep(0.1)
    before = meter.peak_bytes
    child = subprocess.Popen([sys.executable, "-c", held], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    child.stdout.readline()
    time.sleep(0.5)
    child.communicate(b"\\n")
print(json.dumps([before, meter.peak_bytes]))
"""


def test_the_meter_sees_memory_that_a_child_held_for_a_moment() -> None:
    done = subprocess.run([sys.executable, "-c", METERED], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    before, peak = json.loads(done.stdout)
    assert 5_000_000 < before < 100_000_000
    assert 95_000_000 <= peak - before < 200_000_000


def test_become_subreaper_returns_false_on_systems_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not become_subreaper()


GUARDED = """
import os, subprocess, sys, time
from brew_platform.processes import guard_descendants
with guard_descendants(interval_seconds=0.1):
    child = subprocess.Popen(["sleep", "60"], start_new_session=True)
    print(child.pid, flush=True)
    time.sleep(60 if sys.argv[1] == "killed" else 1)
"""


@pytest.mark.parametrize("how", ["killed", "ended"])
def test_the_guard_ends_descendants_of_a_killed_process_and_leaves_those_of_one_that_ended(how: str) -> None:
    guarded = subprocess.Popen([sys.executable, "-c", GUARDED, how], stdout=subprocess.PIPE, text=True)
    assert guarded.stdout is not None
    with guarded.stdout as output:
        child = psutil.Process(int(output.readline()))
    if how == "killed":
        time.sleep(0.5)
        guarded.kill()
    guarded.wait(timeout=30)
    if how == "killed":
        child.wait(timeout=10)
    else:
        time.sleep(0.5)
        assert child.is_running()
        child.kill()


NESTED = """
import os, subprocess, sys, time
from brew_platform.processes import guard_descendants
with guard_descendants(interval_seconds=60), guard_descendants(interval_seconds=60):
    orphan = subprocess.run(["sh", "-c", "sleep 60 >/dev/null & echo $!"], stdout=subprocess.PIPE, text=True).stdout
    print(orphan, flush=True)
    time.sleep(60)
"""


def test_the_guard_ends_also_an_orphan_that_came_after_its_last_look() -> None:
    guarded = subprocess.Popen([sys.executable, "-c", NESTED], stdout=subprocess.PIPE, text=True)
    assert guarded.stdout is not None
    with guarded.stdout as output:
        orphan = psutil.Process(int(output.readline()))
    assert orphan.ppid() != guarded.pid
    guarded.kill()
    guarded.wait(timeout=30)
    orphan.wait(timeout=10)


def test_the_guard_remembers_the_descendants_of_one_that_is_killed_while_it_looks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sleeper = subprocess.Popen(["sleep", "60"])
    reads, writes = os.pipe()
    looks = iter([[psutil.Process(sleeper.pid)], []])  # the second time its children are already another's

    def children(process: psutil.Process, recursive: bool) -> list[psutil.Process]:
        found = next(looks)
        if not found:
            os.close(writes)  # as the kernel does before it gives the children away
        return found

    monkeypatch.setattr(psutil.Process, "children", children)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    processes._guard(os.getpid(), "no process has this mark", reads, 0.01)
    os.close(reads)
    assert sleeper.wait(5) == -signal.SIGKILL


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_the_block_ends_it_in_place_of_the_handler_of_a_library(number: signal.Signals) -> None:
    def end(received: int, frame: object) -> None:
        raise SystemExit(received)

    before = signal.signal(number, end)
    seen: list[str] = []
    try:
        with stop_signals(lambda: seen.append("stop")):
            os.kill(os.getpid(), number)
        assert seen == ["stop"]
        with pytest.raises(SystemExit):
            os.kill(os.getpid(), number)
    finally:
        signal.signal(number, before)
