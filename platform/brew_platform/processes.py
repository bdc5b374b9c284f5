"""Measures the memory of this process and its descendants, and ends descendants."""

import ctypes
import os
import secrets
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

__all__ = ["ProcessTreeMeter", "become_subreaper", "guard_descendants", "kill_descendants", "stop_signals"]

_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
_MARK = "BREW_GUARDED_BY"  # environment variable of descendants: the marks of their guards, the outermost first
_KILL_ROUNDS = 10  # of one second each; processes that remain hang in the kernel or belong to another user


class ProcessTreeMeter:
    """Measures the peak memory of this process and all its descendants while the `with` block runs.

    A thread samples PSS (proportional set size), which divides shared pages among the processes that share them, so the
    sum is the memory that the machine uses. If the kernel does not report PSS, the thread samples RSS, which counts
    shared pages once per process.

    Args:
        interval_seconds: The time between samples. It is extended if sampling takes more than a tenth of one core.

    Attributes:
        peak_bytes: The highest sum so far.
    """

    def __init__(self, interval_seconds: float = 0.5) -> None:
        self.peak_bytes = 0
        self._interval = interval_seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="process-tree-meter", daemon=True)

    def __enter__(self) -> "ProcessTreeMeter":
        self._sample()  # a short block may end before the thread has run
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        wait = 0.0
        while not self._stop.wait(wait):
            start = time.thread_time()
            self._sample()
            wait = max(self._interval, 10 * (time.thread_time() - start))

    def _sample(self) -> None:
        me = psutil.Process()
        total = sum(_memory(process) for process in [me, *me.children(recursive=True)])
        self.peak_bytes = max(self.peak_bytes, total)


def _memory(process: psutil.Process) -> int:
    """Return the PSS in bytes, the RSS if the PSS cannot be read, or 0 if the process has ended."""
    try:
        for line in Path(f"/proc/{process.pid}/smaps_rollup").read_bytes().splitlines():
            if line.startswith(b"Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0


@contextmanager
def stop_signals(on_signal: Callable[[], None]) -> Iterator[None]:
    """Call a function when this process gets SIGINT or SIGTERM in the block, in place of any other handler.

    For a process that runs until it is stopped. Libraries install handlers of their own: Ray's ends the process. The
    earlier handlers return after the block. Only the main thread can use it.

    Args:
        on_signal: It may be called between any two instructions of the block, so it should only set a flag.
    """
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, lambda received, frame: on_signal()) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def become_subreaper() -> bool:
    """Make orphaned descendants children of this process, so that `kill_descendants` finds them.

    Returns:
        True on Linux. On other systems the function does nothing and returns False.
    """
    if sys.platform != "linux":
        return False
    return bool(ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0)


def kill_descendants(grace_seconds: float = 5.0) -> int:
    """End all descendants of this process with SIGTERM, and with SIGKILL after the grace time.

    Processes that a descendant starts meanwhile are ended too; orphans only after `become_subreaper`. Children are
    reaped, so a `Popen` of a child may not get its exit code.

    Args:
        grace_seconds: The time between SIGTERM and SIGKILL.

    Returns:
        The number of processes that got a signal. All have ended, except processes of another user and processes that
        hang in the kernel.
    """
    ended: set[int] = set()
    alive = _descendants()
    for process in alive:
        _signal(process, kill=False)
    deadline = time.monotonic() + grace_seconds
    while alive and time.monotonic() < deadline:
        ended |= {process.pid for process in alive}
        psutil.wait_procs(alive, timeout=min(0.2, max(0.0, deadline - time.monotonic())))
        alive = _descendants()
        for process in alive:
            if process.pid not in ended:
                _signal(process, kill=False)
    for _ in range(_KILL_ROUNDS):
        if not alive:
            break
        ended |= {process.pid for process in alive}
        for process in alive:
            _signal(process, kill=True)
        psutil.wait_procs(alive, timeout=1.0)
        alive = _descendants()
    return len(ended)


@contextmanager
def guard_descendants(interval_seconds: float = 1.0) -> Iterator[None]:
    """Kill this process's descendants if this process itself is killed with SIGKILL during the block.

    A guard process in its own session records the descendants at intervals, and kills them when this process is gone.
    It finds processes that started after its last record by a mark in the environment, which descendants inherit. Some
    processes lose the mark when they set their title, as Ray's workers do, so both ways are needed. When the
    block ends, normally or with an exception, the guard does nothing; call `kill_descendants` for that.

    The function forks, so call it before threads start.

    Args:
        interval_seconds: The time between two records.
    """
    reads, writes = os.pipe()
    guarded, before = os.getpid(), os.environ.get(_MARK)
    mark = secrets.token_hex(8)
    os.environ[_MARK] = mark if before is None else f"{before} {mark}"  # keeps the marks of outer guards
    guard = os.fork()
    if guard == 0:
        os.setsid()
        os.close(writes)
        _guard(guarded, mark, reads, interval_seconds)
        os._exit(0)
    os.close(reads)
    try:
        yield
    finally:
        os.write(writes, b"x")  # this process is alive, so the guard has nothing to do
        os.close(writes)
        os.waitpid(guard, 0)
        if before is None:
            del os.environ[_MARK]
        else:
            os.environ[_MARK] = before


def _guard(guarded: int, mark: str, reads: int, interval_seconds: float) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    known: set[psutil.Process] = set()
    while not select.select([reads], [], [], interval_seconds)[0]:
        with suppress(psutil.Error):
            found = {p for p in psutil.Process(guarded).children(recursive=True) if p.pid != os.getpid()}
            if not select.select([reads], [], [], 0)[0]:  # a killed process has no children
                known = found
    if os.read(reads, 1) == b"":  # the pipe is closed without a byte: the guarded process was killed
        for process in known:
            _signal(process, kill=True)  # psutil checks that the pid was not reused
        for _ in range(_KILL_ROUNDS):
            marked = _marked(mark)
            for process in marked:
                _signal(process, kill=True)
            if not marked:
                break
            time.sleep(0.1)  # one of them may have started another process


def _marked(mark: str) -> list[psutil.Process]:
    """Return the running processes that inherited `mark` and whose environment is readable."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if mark in process.environ().get(_MARK, "").split() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def _signal(process: psutil.Process, *, kill: bool) -> None:
    with suppress(psutil.Error):  # it ended first
        process.kill() if kill else process.terminate()


def _descendants() -> list[psutil.Process]:
    """Return the descendants that still run, and reap the children that have ended."""
    running = []
    for process in psutil.Process().children(recursive=True):
        try:
            if process.status() != psutil.STATUS_ZOMBIE:
                running.append(process)
            elif process.ppid() == os.getpid():
                process.wait(timeout=0)
        except (psutil.Error, psutil.TimeoutExpired):
            pass
    return running
