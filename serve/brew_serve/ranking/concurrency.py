"""Awaits calls concurrently, up to a time limit; on the first error and at the limit, the other calls are cancelled."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import TypeVar

__all__ = ["gather_until"]

T = TypeVar("T")


async def gather_until(
    calls: Iterable[Awaitable[T]], *, seconds: float | None = None, on_done: Callable[[int], None] | None = None
) -> list[T | None]:
    """Return the results of the calls, in their order; None for each call that did not finish in time.

    Args:
        calls: One or more awaitables. Futures need no task of their own.
        seconds: Time limit; None waits for all calls.
        on_done: Called with the index of each call that has a result, as soon as it has one.

    Raises:
        Exception: The error of the first call, in their order, that failed.
    """
    tasks: list[asyncio.Future[T]] = []
    try:
        for call in calls:
            tasks.append(asyncio.ensure_future(call))
            if on_done is not None:
                tasks[-1].add_done_callback(partial(_notify, on_done, len(tasks) - 1))
        await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_EXCEPTION)
        finished = [task.done() for task in tasks]
        return [task.result() if done else None for task, done in zip(tasks, finished, strict=True)]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _notify(on_done: Callable[[int], None], index: int, task: "asyncio.Future[T]") -> None:
    if not task.cancelled() and task.exception() is None:
        on_done(index)
