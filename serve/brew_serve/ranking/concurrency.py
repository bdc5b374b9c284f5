"""Awaits calls and iterates over generators concurrently; on the first error, the others are cancelled."""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import TypeVar

__all__ = ["gather_until", "in_slices", "merge"]

T = TypeVar("T")

_SLICE_SECONDS = 0.02


async def in_slices(items: Iterable[T]) -> AsyncGenerator[T, None]:
    """Yield the items of a long loop. Whenever it has run for 20 ms, the event loop serves other requests first."""
    start = time.perf_counter()
    for item in items:
        yield item
        if time.perf_counter() - start > _SLICE_SECONDS:
            await asyncio.sleep(0)
            start = time.perf_counter()


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
        async for call in in_slices(calls):
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


async def merge(generators: Sequence[AsyncGenerator[T, None]]) -> AsyncGenerator[T, None]:
    """Yield the items of all generators as they come. All are closed at the end, and on an error.

    Raises:
        Exception: The first error of a generator.
    """
    pending = {asyncio.ensure_future(anext(generator)): generator for generator in generators}
    try:
        while pending:
            await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for future in [future for future in pending if future.done()]:
                generator = pending.pop(future)
                try:
                    item = future.result()
                except StopAsyncIteration:
                    continue
                yield item
                pending[asyncio.ensure_future(anext(generator))] = generator
    finally:
        for future in pending:
            future.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        for generator in generators:
            await generator.aclose()


def _notify(on_done: Callable[[int], None], index: int, task: "asyncio.Future[T]") -> None:
    if not task.cancelled() and task.exception() is None:
        on_done(index)
