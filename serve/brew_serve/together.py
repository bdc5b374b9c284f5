"""Runs calls together and leaves none behind: on the first error, and when the time is up, the others are cancelled."""

import asyncio
from collections.abc import Awaitable, Iterable
from typing import TypeVar

__all__ = ["together"]

T = TypeVar("T")


async def together(calls: Iterable[Awaitable[T]], *, seconds: float | None = None) -> list[T | None]:
    """The calls' results, in their order; None for those that were not finished in time.

    Args:
        calls: one or more.
        seconds: to wait for; None waits for all.

    Raises:
        Exception: the first call's that failed, in their order.
    """
    tasks = [asyncio.ensure_future(call) for call in calls]
    try:
        await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_EXCEPTION)
        finished = [task.done() for task in tasks]
        return [task.result() if done else None for task, done in zip(tasks, finished, strict=True)]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
