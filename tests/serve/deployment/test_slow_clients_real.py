"""A running service beside clients that send slowly or nothing, and the logs that its processes write."""

import asyncio
import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from brew_data.schema import Tables
from brew_platform.identity.keys import create_key
from brew_platform.ports import free_port
from brew_serve.engines.config import EngineConfig
from brew_serve.http.config import MiddlewareConfig
from brew_serve.version import LoadedVersion

from ..running_ray import RAY, running_ray
from ..served_registry import write_served_registry

pytestmark = [*RAY, pytest.mark.faults]

HEADER_SECONDS, BODY_SECONDS = 3.0, 4.0
SECRET = "ada@example.com"
RANK = {"task": "job_apply", "member_id": "ada", "candidates": ["e0", "e2", "e4"]}


class Service:
    def __init__(self, port: int, key: str, logs: Path) -> None:
        self.port, self.key, self.logs = port, key, logs
        self.http = httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}", headers={"authorization": f"Bearer {key}"}, timeout=30, trust_env=False
        )

    async def __aenter__(self) -> "Service":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.http.aclose()

    async def good(self, seconds: float) -> list[float]:
        """Send good requests and probes for a time; return the durations of the probes. Every one is answered."""
        durations, end = [], time.monotonic() + seconds
        while time.monotonic() < end:
            start = time.monotonic()
            probe = await self.http.get("/health")
            durations.append(time.monotonic() - start)
            answer = await self.http.post("/v1/rank", json=RANK)
            assert (probe.status_code, answer.status_code) == (200, 200), answer.text
            await asyncio.sleep(0.1)
        return durations

    async def open(self, text: str, count: int) -> list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        """Open connections and send the same text on each."""
        opened = []
        for _ in range(count):
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            writer.write(text.encode())
            opened.append((reader, writer))
        return opened

    def records(self, process: str) -> list[dict[str, Any]]:
        files = list(self.logs.glob(f"brew360_{process}_*.log"))
        assert files
        return [json.loads(line) for file in files for line in file.read_text().splitlines()]


@pytest.fixture(scope="module")
def address(
    version: LoadedVersion, tables: Tables, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[int, str, Path]]:
    import ray

    from brew_serve.deployment.online_service import build_app, serve_http

    root = tmp_path_factory.mktemp("slow")
    key = create_key(root / "keys.yaml", "feed")
    config = write_served_registry(
        root,
        [version.folder],
        tables,
        engine=EngineConfig(kind="torch"),
        middleware=MiddlewareConfig(
            keys_path=str(root / "keys.yaml"), header_seconds=HEADER_SECONDS, body_seconds=BODY_SECONDS
        ),
        cpus=0.5,
    )
    with running_ray():
        port = free_port()
        serve_http(build_app(config), port=port)
        yield port, key, Path(ray._private.worker._global_node.get_logs_dir_path()) / "serve"


async def test_slow_clients_hold_up_nobody(address: tuple[int, str, Path]) -> None:
    async with Service(*address) as service:
        head = "host: test\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n"
        await service.good(6)  # the proxy gets its limits
        silent = await service.open(f"POST /health HTTP/1.1\r\n{head}\r\n", 1_000)
        strangers = await service.open(f"POST /v1/rank HTTP/1.1\r\n{head}\r\n", 300)
        dripping = await service.open(
            f"POST /v1/rank HTTP/1.1\r\nauthorization: Bearer {service.key}\r\n{head}\r\n", 400
        )
        halves = await service.open(f"GET /health HTTP/1.1\r\n{head}", 500)

        answers = [asyncio.create_task(reader.readline()) for reader, _ in dripping]

        async def drip() -> None:
            while True:
                for (_, writer), answer in zip(dripping, answers, strict=True):
                    if not answer.done():
                        writer.write(b"a")
                for reader, writer in halves:
                    if not reader.at_eof() and not writer.is_closing():
                        writer.write(b"a")
                await asyncio.sleep(0.5)

        drops = asyncio.create_task(drip())
        durations = await service.good(BODY_SECONDS + HEADER_SECONDS + 4)
        drops.cancel()
        assert sorted(durations)[len(durations) * 9 // 10] < 0.5, durations
        first = [await asyncio.wait_for(reader.readline(), 5) for reader, _ in silent]
        assert {line.split()[1] for line in first} == {b"405"}
        first = [await asyncio.wait_for(reader.readline(), 5) for reader, _ in strangers]
        assert {line.split()[1] for line in first} == {b"401"}
        first = await asyncio.wait_for(asyncio.gather(*answers), 10)
        assert {line.split()[1] for line in first} == {b"408"}
        for reader, writer in [*silent, *strangers, *dripping, *halves]:
            with contextlib.suppress(ConnectionError):
                await asyncio.wait_for(reader.read(), 10)  # the server ends every connection
            writer.close()
        await service.good(1)


async def test_every_process_writes_records_without_personal_data(address: tuple[int, str, Path]) -> None:
    async with Service(*address) as service:
        answer = await service.http.post("/v1/rank", json=RANK, headers={"x-request-id": "abc-1"})
        assert answer.status_code == 200
        await service.http.get(f"/v1/nearline/rankings/job_apply/{SECRET}%0Aforged")
        unknown = await service.http.post("/v1/rank", json={**RANK, "member_id": SECRET})
        assert unknown.status_code == 404
        (request,) = [record for record in service.records("gateway") if record.get("request_id") == "abc-1"]
        (answered,) = [record for record in service.records("replica") if record.get("request_id") == "abc-1"]
        assert (request["route"], request["status"], request["team"]) == ("/v1/rank", 200, "feed")
        assert (answered["route"], answered["version"], answered["trace_id"]) == ("/v1/rank", 1, request["trace_id"])
        assert len(answered["member_id"]) == 16
        assert service.records("controller") is not None
        for file in service.logs.parent.rglob("*"):
            text = file.read_text(errors="replace") if file.is_file() and not file.is_symlink() else ""
            assert SECRET not in text, file
            assert "rankings/job_apply" not in text, file
