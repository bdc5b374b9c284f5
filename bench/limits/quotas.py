"""What a request waits and computes for its team's quota: in the process, and in a Redis."""

import asyncio
import time

from brew_platform.identity.keys import Team
from brew_serve.http.config import QuotaConfig
from brew_serve.http.quota import Quotas
from brew_serve.http.shared_quota import open_quotas
from brew_serve.metrics import Meters

__all__ = ["measure_quotas"]

ROUNDS = 3_000
TEAM = Team(name="bench", requests_per_second=1e9, tokens_per_minute=10**15)  # its buckets never empty


def measure_quotas(redis_url: str | None) -> dict[str, dict[str, float]]:
    """Return median and 99th percentile of the wait, and CPU, in microseconds per request.

    Args:
        redis_url: A Redis; None measures the quotas in the process only.
    """
    figures = {"in the process": asyncio.run(_measure(None, 1))}
    if redis_url is not None:
        for concurrent in (1, 16):
            figures[f"in Redis, {concurrent} at a time"] = asyncio.run(_measure(redis_url, concurrent))
    return figures


async def _measure(redis_url: str | None, concurrent: int) -> dict[str, float]:
    config = QuotaConfig(redis_url=redis_url, prefix="brew360-bench:", timeout_seconds=1.0)
    quotas = open_quotas(config, time.perf_counter, Meters(), gateways=1)
    await _send(quotas, 100, [])
    waits: list[float] = []
    cpu = time.process_time()
    await asyncio.gather(*(_send(quotas, ROUNDS // concurrent, waits) for _ in range(concurrent)))
    cpu = time.process_time() - cpu
    assert quotas.problem == ""
    await quotas.close()
    waits.sort()
    return {
        "median_us": waits[len(waits) // 2] * 1e6,
        "p99_us": waits[len(waits) * 99 // 100] * 1e6,
        "cpu_us": cpu / len(waits) * 1e6,
    }


async def _send(quotas: Quotas, requests: int, waits: list[float]) -> None:
    for _ in range(requests):
        start = time.perf_counter()
        quotas.check(TEAM)
        settle = await quotas.charge(TEAM, 1_000)
        waits.append(time.perf_counter() - start)
        settle(900)
