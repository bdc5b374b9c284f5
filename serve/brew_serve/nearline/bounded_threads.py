"""Threads for blocking calls of the nearline routes, with a limit on the calls that wait for one."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from brew_serve.errors import Overloaded

__all__ = ["BoundedThreads"]

T = TypeVar("T")


class BoundedThreads:
    """A thread pool that refuses calls when too many wait. Calls of one kind get a pool, so that no other kind waits.

    Args:
        name: Names the threads.
        threads: Number of calls that run at a time.
        waiting: Number of further calls that wait for a thread.
    """

    def __init__(self, name: str, *, threads: int, waiting: int) -> None:
        self._pool = ThreadPoolExecutor(threads, name)
        self._free = threading.Semaphore(threads + waiting)

    async def run(self, call: Callable[..., T], *arguments: object) -> T:
        """Run a call in a thread, and return its result.

        Raises:
            Overloaded: Too many calls wait.
        """
        if not self._free.acquire(blocking=False):
            raise Overloaded(
                "too many requests of this kind wait for the store of the nearline service. Try again.", 2.0
            )
        try:
            future: Future[T] = self._pool.submit(call, *arguments)
        except BaseException:
            self._free.release()
            raise
        future.add_done_callback(lambda _: self._free.release())  # a cancelled request still occupies its thread
        return await asyncio.wrap_future(future)

    def close(self) -> None:
        """Refuse further calls, and cancel those that wait."""
        self._pool.shutdown(wait=False, cancel_futures=True)
