"""Runs calls together and leaves none behind: on the first error, and when the time is up, the others are cancelled."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import TypeVar

__all__ = ["together"]

T = TypeVar("T")


async def together(
    calls: Iterable[Awaitable[T]], *, seconds: float | None = None, on_done: Callable[[int], None] | None = None
) -> list[T | None]:
    """The calls' results, in their order; None for those that were not finished in time.

    Args:
        calls: one or more; those that are futures already cost no task of their own.
        seconds: to wait for; None waits for all.
        on_done: told the place of each call that has a result, as soon as it has.

    Raises:
        Exception: the first call's that failed, in their order.
    """
    tasks: list[asyncio.Future[T]] = []
    try:
        for call in calls:
            tasks.append(asyncio.ensure_future(call))
            if on_done is not None:
                tasks[-1].add_done_callback(partial(_tell, on_done, len(tasks) - 1))
        await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_EXCEPTION)
        finished = [task.done() for task in tasks]
        return [task.result() if done else None for task, done in zip(tasks, finished, strict=True)]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _tell(on_done: Callable[[int], None], place: int, task: "asyncio.Future[T]") -> None:
    if not task.cancelled() and task.exception() is None:
        on_done(place)
