"""Calls a function again and again while a block runs."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["polled"]


@contextmanager
def polled(call: Callable[[], object], *, seconds: float, name: str) -> Iterator[None]:
    """Call a function in a thread at once, at intervals, and a last time after the block has ended.

    Args:
        call: Must not raise.
        seconds: The interval.
        name: Of the thread.
    """
    ended = threading.Event()

    def repeat() -> None:
        is_last = False
        while True:
            call()
            if is_last:
                return
            is_last = ended.wait(seconds)

    thread = threading.Thread(target=repeat, name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
