"""The processes below this one: how much memory they hold together, and that none of them outlives it.

Holds measuring and ending descendants. Does not start any.
"""

import ctypes
import os
import secrets
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

__all__ = ["ProcessTreeMeter", "become_subreaper", "guard_descendants", "kill_descendants"]

_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
_MARK = "BREW_GUARDED_BY"  # environment of descendants: the marks of the guards around them, the outermost first
_KILL_ROUNDS = 10  # of a second each; what is left then hangs in the kernel or belongs to another user


class ProcessTreeMeter:
    """Samples, in a thread, the memory of this process and all its descendants while the `with` block runs.

    Counts PSS, where pages that processes share are divided among them, so that the sum is what the machine really
    holds; RSS where the kernel does not tell PSS (then shared pages count once per process).

    Args:
        interval_seconds: between samples. It is stretched so that sampling never takes over a tenth of one core.
    """

    def __init__(self, interval_seconds: float = 0.5) -> None:
        self.peak_bytes = 0
        self._interval = interval_seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="process-tree-meter", daemon=True)

    def __enter__(self) -> "ProcessTreeMeter":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        wait = 0.0
        while not self._stop.wait(wait):
            start = time.thread_time()
            me = psutil.Process()
            total = sum(_memory(process) for process in [me, *me.children(recursive=True)])
            self.peak_bytes = max(self.peak_bytes, total)
            wait = max(self._interval, 10 * (time.thread_time() - start))


def _memory(process: psutil.Process) -> int:
    """PSS in bytes, or RSS where that cannot be read; 0 when the process is gone."""
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


def become_subreaper() -> bool:
    """Makes every orphan among this process's descendants its child, so that `kill_descendants` still finds it.

    Returns:
        Whether the system can do that (Linux); elsewhere nothing happens.
    """
    if sys.platform != "linux":
        return False
    return bool(ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0)


def kill_descendants(grace_seconds: float = 5.0) -> int:
    """Ends all descendants of this process: SIGTERM, and after the grace time SIGKILL for those that remain.

    Those that a descendant leaves behind, or starts meanwhile, are ended too; orphans only after `become_subreaper`.
    Children are reaped, so a `Popen` that still stands for one may not learn its exit code.

    Returns:
        How many processes were signalled; all have ended, but for those of another user or stuck in the kernel.
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
    """Ends this process's descendants also when it is killed with SIGKILL, which it cannot see coming.

    A guard process in a session of its own notes who descends from us, and kills them when we are gone. Those that were
    started after its last look it knows by a mark in the environment, which descendants inherit; some lose it later,
    when they give themselves a title (Ray's workers do). It does nothing where the block ends, well or badly:
    `kill_descendants` is for that. It forks: call it before threads start.

    Args:
        interval_seconds: between notes.
    """
    reads, writes = os.pipe()
    guarded, before = os.getpid(), os.environ.get(_MARK)
    mark = secrets.token_hex(8)
    os.environ[_MARK] = mark if before is None else f"{before} {mark}"  # a guard around ours may have to end them, too
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
        os.write(writes, b"x")  # we are still here: nothing is to be done
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
            if not select.select([reads], [], [], 0)[0]:  # one that was killed meanwhile has no children any more
                known = found
    if os.read(reads, 1) == b"":  # the pipe broke: the guarded process was killed
        for process in known:
            _signal(process, kill=True)  # psutil refuses where the number now belongs to another process
        for _ in range(_KILL_ROUNDS):
            marked = _marked(mark)
            for process in marked:
                _signal(process, kill=True)
            if not marked:
                break
            time.sleep(0.1)  # one of them may just have started another


def _marked(mark: str) -> list[psutil.Process]:
    """Running processes that inherited `mark`, as far as we may know; this one did not."""
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
    """Descendants that still run; children of ours that have ended are reaped on the way."""
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
