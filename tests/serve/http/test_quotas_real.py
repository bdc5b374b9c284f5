"""Two gateway processes count a team's quota together, also while their Redis is killed and restarted under load."""

import asyncio
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from brew_platform.identity.keys import create_key
from brew_platform.ports import free_port

from ...redis_server import RedisServer
from .. import gateway_process

pytestmark = pytest.mark.real

RATE = 40


class Load:
    """Clients of all gateways that send as fast as these answer."""

    def __init__(self, urls: list[str], key: str) -> None:
        self._urls, self._headers = urls, {"authorization": f"Bearer {key}", "content-type": "application/json"}
        self.statuses: list[int] = []
        self.longest = 0.0

    async def run(self, until: Callable[[], bool]) -> float:
        """Send until the condition holds; return the seconds."""
        self.statuses, self.longest = [], 0.0
        start = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for url in self._urls:
                for _ in range(2):
                    group.create_task(self._send(url, until))
        return time.monotonic() - start

    async def _send(self, url: str, until: Callable[[], bool]) -> None:
        async with httpx.AsyncClient(base_url=url, headers=self._headers, timeout=10, trust_env=False) as http:
            while not until():
                start = time.monotonic()
                answer = await http.post("/v1/rank", content=b"{}")
                self.longest = max(self.longest, time.monotonic() - start)
                self.statuses.append(answer.status_code)
                await asyncio.sleep(0.01)

    def accepted(self) -> int:
        assert set(self.statuses) == {200, 429}
        return self.statuses.count(200)


def after(seconds: float) -> Callable[[], bool]:
    end = time.monotonic() + seconds
    return lambda: time.monotonic() >= end


async def degraded(urls: list[str]) -> list[bool]:
    async with httpx.AsyncClient(trust_env=False, timeout=10) as http:
        answers = [(await http.get(f"{url}/health")).json() for url in urls]
    return ["quotas" in answer.get("degraded", []) for answer in answers]


async def wait_for(urls: list[str], expected: list[bool]) -> None:
    for _ in range(200):
        if await degraded(urls) == expected:
            return
        await asyncio.sleep(0.05)
    raise AssertionError(await degraded(urls))


async def test_two_gateways_grant_one_quota_and_survive_their_redis(new_redis: RedisServer, tmp_path: Path) -> None:
    key = create_key(tmp_path / "keys.yaml", "feed", requests_per_second=RATE)
    ports = [free_port(), free_port()]
    command = [sys.executable, gateway_process.__file__]
    processes = [subprocess.Popen([*command, str(port), str(tmp_path / "keys.yaml"), new_redis.url]) for port in ports]
    urls = [f"http://127.0.0.1:{port}" for port in ports]
    load = Load(urls, key)
    try:
        for url in urls:
            for _ in range(600):
                try:
                    if httpx.get(f"{url}/health", trust_env=False).status_code == 200:
                        break
                except httpx.TransportError:
                    await asyncio.sleep(0.1)
        await load.run(after(1))  # connects, and empties the buckets

        seconds = await load.run(after(3))
        assert await degraded(urls) == [False, False]
        assert 0.6 * RATE * seconds <= load.accepted() <= RATE * (seconds + 0.5)

        new_redis.kill()
        seconds = await load.run(after(3))
        assert await degraded(urls) == [True, True]
        assert 0.6 * RATE * seconds <= load.accepted() <= RATE * (seconds + 1.5)
        assert load.longest < 1.0

        new_redis.start()
        await wait_for(urls, [False, False])
        seconds = await load.run(after(2))
        assert load.accepted() <= RATE * (seconds + 1.5)
        assert await degraded(urls) == [False, False]
    finally:
        for process in processes:
            process.terminate()
        codes = [process.wait(20) for process in processes]
    assert codes == [0, 0] or set(codes) == {-15}
