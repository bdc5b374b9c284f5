"""An interrupt ends vLLM's start, although vLLM catches KeyboardInterrupt there, and no process prints a traceback."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from brew_serve.engines.vllm.interrupts import pass_interrupts


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(5)


def test_an_interrupt_that_is_caught_reaches_the_caller() -> None:
    before = signal.getsignal(signal.SIGINT)
    after = []

    def start() -> None:
        try:
            interrupt()
        except (Exception, KeyboardInterrupt):
            after.append("caught")
        after.append("continued")

    with pytest.raises(KeyboardInterrupt), pass_interrupts():
        start()
    assert after == []
    assert signal.getsignal(signal.SIGINT) is before
    with pytest.raises(KeyboardInterrupt):
        interrupt()


def test_a_handler_that_does_not_raise_is_called() -> None:
    calls: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: calls.append(number))
    try:
        with pass_interrupts():
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)
    finally:
        signal.signal(signal.SIGINT, before)
    assert calls == [signal.SIGINT]


def ignores_interrupts(answers: "multiprocessing.Queue[bool]") -> None:
    answers.put(signal.getsignal(signal.SIGINT) is signal.SIG_IGN)


def test_processes_that_start_in_the_block_ignore_interrupts() -> None:
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    for inside in (True, False):
        process = context.Process(target=ignores_interrupts, args=(answers,))
        if inside:
            with pass_interrupts():
                process.start()
        else:
            process.start()
        assert answers.get(timeout=60) is inside
        process.join()
    answers.close()
    answers.join_thread()


def test_another_thread_runs_the_block_unchanged() -> None:
    handlers = []

    def run() -> None:
        with pass_interrupts():
            handlers.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert handlers == [signal.getsignal(signal.SIGINT)]


LOAD = """
import sys
from pathlib import Path
from brew_serve.engines.registry import create_engine
from brew_serve.version import load_version

if __name__ == "__main__":
    version = load_version(Path(sys.argv[1]))
    try:
        create_engine(version.folder, version.engine)
    except KeyboardInterrupt:
        print("interrupted")
"""


@pytest.mark.real
def test_ctrl_c_while_the_engine_loads_ends_the_start(version_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "load.py").write_text(LOAD)
    command = [sys.executable, str(tmp_path / "load.py"), str(version_folder)]
    owner = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    try:
        deadline = time.monotonic() + 120
        while not (engines := starting_engines(owner.pid)):
            assert owner.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.2)
        time.sleep(1.0)
        os.killpg(owner.pid, signal.SIGINT)  # as a terminal does
        output, _ = owner.communicate(timeout=60)
        assert output.splitlines()[-1] == "interrupted"
        assert "Traceback" not in output
        _, alive = psutil.wait_procs(engines, timeout=30)
        assert not alive
    finally:
        owner.kill()
        owner.wait()


def starting_engines(owner: int) -> list[psutil.Process]:
    """Return the engine processes that the owner has started."""
    children = psutil.Process(owner).children(recursive=True)
    return [child for child in children if any("spawn_main" in word for word in child.cmdline())]
