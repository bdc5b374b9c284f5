"""Two gateways of a service on Ray Serve count a team's quota together in a Redis."""

import asyncio
import re
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from brew_platform.identity.keys import SCOPES, create_key
from brew_platform.ports import free_port
from brew_serve.engines.config import EngineConfig
from brew_serve.http.config import MiddlewareConfig, QuotaConfig
from brew_serve.version import LoadedVersion

from ..running_ray import RAY, running_ray
from ..served_registry import write_served_registry

pytestmark = RAY

RATE = 20


@pytest.fixture
def service(version: LoadedVersion, redis_url: str, tmp_path: Path) -> Iterator[str]:
    from brew_serve.deployment.online_service import build_app, serve_http

    middleware = MiddlewareConfig(
        keys_path=str(tmp_path / "keys.yaml"),
        quotas=QuotaConfig(redis_url=redis_url, prefix=f"{tmp_path.name}:", timeout_seconds=0.5),
    )
    create_key(tmp_path / "keys.yaml", "feed", requests_per_second=RATE)
    engine = EngineConfig(kind="torch")
    config = write_served_registry(
        tmp_path, [version.folder], engine=engine, middleware=middleware, gateways=2, cpus=0.5
    )
    with running_ray():
        yield serve_http(build_app(config), port=free_port())


async def test_two_gateways_grant_one_quota(service: str, tmp_path: Path) -> None:
    key, admin = (create_key(tmp_path / "keys.yaml", team, scopes=SCOPES) for team in ("feed", "ops"))
    statuses: list[int] = []

    async def send(until: float) -> None:
        headers = {"authorization": f"Bearer {key}", "connection": "close"}
        async with httpx.AsyncClient(base_url=service, headers=headers, timeout=30, trust_env=False) as http:
            while time.monotonic() < until:
                statuses.append((await http.get("/v1/models")).status_code)

    await asyncio.gather(*(send(time.monotonic() + 1) for _ in range(6)))  # empties the buckets
    statuses.clear()
    start = time.monotonic()
    await asyncio.gather(*(send(start + 4) for _ in range(6)))
    seconds = time.monotonic() - start
    assert set(statuses) == {200, 429}
    assert 0.5 * RATE * seconds <= statuses.count(200) <= RATE * (seconds + 0.5)
    async with httpx.AsyncClient(base_url=service, timeout=30, trust_env=False) as http:
        assert "quotas" not in (await http.get("/health")).json().get("degraded", [])
        metrics = (await http.get("/metrics", headers={"authorization": f"Bearer {admin}"})).text
    served = re.findall(
        r'^brew_requests_total\{replica="([^"]+)",route="/v1/models",status="200"', metrics, re.MULTILINE
    )
    assert len(set(served)) == 2, "both gateways answered requests"
