"""Sends requests to an HTTP service, sequentially, concurrently or at random times, and measures latencies."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

__all__ = ["Timing", "at_once", "at_random", "items_per_second", "percentile"]

T = TypeVar("T")
Send = Callable[[T], Awaitable[bool]]  # sends one request; whether it was answered


@dataclass(frozen=True, kw_only=True)
class Timing:
    """One request's times, in seconds on this process's clock."""

    due: float  # when it should have been sent: a late start counts as waiting
    end: float
    ok: bool

    @property
    def seconds(self) -> float:
        """As the caller waited."""
        return self.end - self.due


async def at_once(send: Send[T], requests: Sequence[T], *, clients: int) -> list[Timing]:
    """`clients` callers, each sending its next request when the last one is answered."""
    waiting = iter(requests)
    timings: list[Timing] = []

    async def client() -> None:
        for request in waiting:
            due = time.perf_counter()
            ok = await send(request)
            timings.append(Timing(due=due, end=time.perf_counter(), ok=ok))

    await asyncio.gather(*(client() for _ in range(clients)))
    return timings


async def at_random(send: Send[T], requests: Sequence[T], *, rate: float, seed: int) -> list[Timing]:
    """Poisson arrivals, whatever the service does with them.

    Args:
        rate: requests per second, on average.
        seed: of the moments.
    """
    gaps = np.random.default_rng(seed).exponential(1 / rate, size=len(requests))
    start = time.perf_counter()

    async def one(request: T, due: float) -> Timing:
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        ok = await send(request)
        return Timing(due=due, end=time.perf_counter(), ok=ok)

    moments = start + np.cumsum(gaps)
    return list(await asyncio.gather(*(one(r, float(due)) for r, due in zip(requests, moments, strict=True))))


def items_per_second(timings: Sequence[Timing], items: int) -> float:
    """Candidates scored per second, from the first request to the last answer.

    Args:
        items: candidates of each request.
    """
    seconds = max(t.end for t in timings) - min(t.due for t in timings)
    return sum(t.ok for t in timings) * items / seconds


def percentile(timings: Sequence[Timing], share: float) -> float:
    """Milliseconds within which `share` of the answered requests were answered."""
    return float(np.quantile([t.seconds for t in timings if t.ok], share)) * 1000
