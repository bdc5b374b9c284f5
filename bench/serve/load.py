"""Sends requests to an HTTP service, sequentially, concurrently or at random times, and measures latencies."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

__all__ = ["Timing", "at_once", "at_random", "items_per_second", "percentile"]

T = TypeVar("T")
Send = Callable[[T], Awaitable[bool]]  # sends one request; returns whether the service answered


@dataclass(frozen=True, kw_only=True)
class Timing:
    """The times of one request, in seconds on this process's clock."""

    due: float  # when the request should have been sent; a late start counts as waiting
    end: float
    ok: bool

    @property
    def seconds(self) -> float:
        """The latency for the caller, in seconds."""
        return self.end - self.due


async def at_once(send: Send[T], requests: Sequence[T], *, clients: int) -> list[Timing]:
    """Send requests with concurrent callers. Each caller sends its next request after the previous response.

    Args:
        send: Sends one request.
        requests: The requests, in order.
        clients: The number of callers.

    Returns:
        The timings, in the order of completion.
    """
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
    """Send requests as Poisson arrivals, independently of the responses.

    Args:
        send: Sends one request.
        requests: The requests, in order.
        rate: The mean number of requests per second.
        seed: The seed of the arrival times.

    Returns:
        The timings, in the order of the requests.
    """
    gaps = np.random.default_rng(seed).exponential(1 / rate, size=len(requests))
    start = time.perf_counter()

    async def send_at(request: T, due: float) -> Timing:
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        ok = await send(request)
        return Timing(due=due, end=time.perf_counter(), ok=ok)

    times = start + np.cumsum(gaps)
    return list(await asyncio.gather(*(send_at(r, float(due)) for r, due in zip(requests, times, strict=True))))


def items_per_second(timings: Sequence[Timing], items: int) -> float:
    """Return the candidates scored per second, from the first request to the last response.

    Args:
        timings: The timings of all requests.
        items: The number of candidates per request.
    """
    seconds = max(t.end for t in timings) - min(t.due for t in timings)
    return sum(t.ok for t in timings) * items / seconds


def percentile(timings: Sequence[Timing], share: float) -> float:
    """Return the quantile `share` (0 to 1) of the latency of successful requests, in milliseconds."""
    return float(np.quantile([t.seconds for t in timings if t.ok], share)) * 1000
