"""Interrupts while vLLM starts. They end the start, and the engine process does not answer them with a traceback."""

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import util
from types import FrameType
from typing import Any

__all__ = ["pass_interrupts"]


class _Interrupted(BaseException):
    """A KeyboardInterrupt that vLLM does not catch."""


@contextmanager
def pass_interrupts() -> Iterator[None]:
    """Let an interrupt in the block reach its caller, and start child processes that ignore SIGINT.

    vLLM's `zmq_socket_ctx` catches KeyboardInterrupt while it waits for the engine process, and then waits for ten
    minutes more. A terminal sends SIGINT to the engine process too. Until vLLM has set a handler there, it would end
    with a traceback.

    Outside of the main thread, which gets all signals, the block runs unchanged.

    Raises:
        KeyboardInterrupt: A handler of SIGINT or SIGTERM raised it in the block.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    handlers = {number: handler for number, handler in before.items() if callable(handler)}
    spawn = util.spawnv_passfds

    def on_signal(number: int, frame: FrameType | None) -> None:
        try:
            handlers[signal.Signals(number)](number, frame)
        except KeyboardInterrupt:
            raise _Interrupted from None

    def spawn_without_interrupts(path: bytes, args: Sequence[Any], passfds: Sequence[int]) -> int:
        current = signal.signal(signal.SIGINT, signal.SIG_IGN)  # a new process inherits that it is ignored
        try:
            return spawn(path, args, passfds)
        finally:
            signal.signal(signal.SIGINT, current)

    for number in handlers:
        signal.signal(number, on_signal)
    util.spawnv_passfds = spawn_without_interrupts
    try:
        yield
    except _Interrupted:
        raise KeyboardInterrupt from None
    finally:
        util.spawnv_passfds = spawn
        for number, handler in handlers.items():
            signal.signal(number, handler)
