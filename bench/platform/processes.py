"""Runs functions in forked processes, which can be killed, and collects what they return."""

import multiprocessing
import os
import pickle
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Outcome", "run_all", "run_forked"]

_FORK = multiprocessing.get_context("fork")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a process."""

    value: Any  # that the function returned; None if it was killed or raised
    error: str  # the exception; empty if there was none
    killed: bool


def run_forked(function: Callable[[], Any], *, kill_after: float | None = None, seconds: float = 300) -> Outcome:
    """Call a function in a forked process.

    Args:
        function: Returns something that can be pickled.
        kill_after: Seconds after which the process gets SIGKILL; None: it is left alone.
        seconds: Limit; a process that runs longer is killed, and the outcome has the error `timeout`.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        try:
            answer: tuple[Any, str] = (function(), "")
        except BaseException as error:
            answer = (None, f"{type(error).__name__}: {error}")
        with os.fdopen(writer, "wb") as pipe:
            pickle.dump(answer, pipe)
        os._exit(0)
    os.close(writer)
    deadline = time.monotonic() + (seconds if kill_after is None else min(kill_after, seconds))
    content = b""
    with os.fdopen(reader, "rb") as pipe:
        os.set_blocking(reader, False)
        while True:
            chunk = pipe.read()
            if chunk == b"":
                break
            if chunk:
                content += chunk
            if time.monotonic() > deadline:
                os.kill(child, signal.SIGKILL)
                deadline = float("inf")
            time.sleep(0.0005)
    _, status = os.waitpid(child, 0)
    killed = os.WIFSIGNALED(status)
    if killed or not content:
        timed_out = killed and kill_after is None and deadline == float("inf")
        return Outcome(value=None, error="timeout" if timed_out else "", killed=killed)
    value, error = pickle.loads(content)  # noqa: S301 - of our own process
    return Outcome(value=value, error=error, killed=False)


def run_all(functions: Sequence[Callable[[], Any]]) -> tuple[list[Outcome], float]:
    """Call functions in forked processes that start together.

    Returns:
        The outcomes in order, and the seconds from the common start to the end of the last.
    """
    barrier, queue = _FORK.Barrier(len(functions) + 1), _FORK.Queue()

    def run(index: int, function: Callable[[], Any]) -> None:
        barrier.wait()
        try:
            queue.put((index, function(), ""))
        except BaseException as error:
            queue.put((index, None, f"{type(error).__name__}: {error}"))

    processes = [_FORK.Process(target=run, args=item) for item in enumerate(functions)]
    for process in processes:
        process.start()
    barrier.wait()
    start = time.monotonic()
    answers = sorted((queue.get(timeout=600) for _ in processes), key=lambda answer: answer[0])
    seconds = time.monotonic() - start
    for process in processes:
        process.join()
    return [Outcome(value=value, error=error, killed=False) for _, value, error in answers], seconds
