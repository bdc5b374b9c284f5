"""The middleware over HTTP: keys, quotas, sizes, ids, deadlines and load, with status and message of every error."""

import asyncio
import logging
import math
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from brew_platform.errors import UserError
from brew_serve.client import RankClient
from brew_serve.engines.base import EngineUsage, GeneratedToken, Sampling, Shared
from brew_serve.engines.torch import TorchEngine
from brew_serve.http.app import create_app
from brew_serve.http.auth import create_key
from brew_serve.http.backend import LocalBackend
from brew_serve.http.middleware import MiddlewareConfig
from brew_serve.ranking.admission import AdmissionConfig
from brew_serve.ranking.service import RankingService
from brew_serve.version import LoadedVersion


@asynccontextmanager
async def client(
    service: RankingService, config: MiddlewareConfig | None = None, key: str = ""
) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(create_app(LocalBackend(service), config), raise_app_exceptions=False)
    headers = {"authorization": f"Bearer {key}"} if key else {}
    async with httpx.AsyncClient(transport=transport, base_url="http://test", headers=headers) as http:
        yield http


def sentence(answer: httpx.Response) -> str:
    """Return the message of an error in our form or in OpenAI's."""
    error = answer.json()["error"]
    return str(error["message"] if isinstance(error, dict) else error)


def metric(service: RankingService, line: str) -> float:
    found = [text for text in service.meters.text().decode().splitlines() if text.startswith(line + " ")]
    return float(found[0].split()[-1]) if found else 0.0


class StuckEngine:
    """An engine that answers its first `free` calls, and holds the others until `release`."""

    def __init__(self, inner: Any, free: int) -> None:
        self.inner, self.free = inner, free
        self.usage = EngineUsage()
        self.cancelled = 0
        self.release = asyncio.Event()

    async def next_token_logprobs(
        self, prompt: Sequence[int], token_ids: Sequence[int], shared: Shared | None = None
    ) -> list[float]:
        self.free -= 1
        if self.free < 0:
            try:
                await self.release.wait()
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
        answer: list[float] = await self.inner.next_token_logprobs(prompt, token_ids)
        return answer

    def stream(self, prompt: Sequence[int], sampling: Sampling) -> AsyncGenerator[GeneratedToken, None]:
        raise NotImplementedError

    def check(self) -> None: ...

    def close(self) -> None: ...


# --- Deadlines ---


async def test_at_the_deadline_scored_candidates_are_returned_and_others_cancelled(
    version: LoadedVersion, table_engine: Any, body: dict[str, Any]
) -> None:
    engine = StuckEngine(table_engine, free=3)
    service = RankingService(1, version, engine, None)
    async with client(service) as http:
        whole = (await http.post("/v1/rank", json={**body, "candidates": body["candidates"][:3]})).json()
        engine.free = 3
        answer = await http.post("/v1/rank", json={**body, "deadline_ms": 200})
    assert answer.status_code == 200
    part = answer.json()
    assert part["partial"] is True
    assert part["ranking"] == whole["ranking"]
    assert part["unscored"] == ["c3", "c4", "c5", "c6", "c7"]
    assert part["usage"]["candidates"] == 3
    assert engine.cancelled == 5
    assert service.admission.outstanding_tokens == 0
    assert metric(service, 'brew_unscored_total{task="job_apply"}') == 5
    assert (whole["partial"], whole["unscored"]) == (False, [])


async def test_a_real_engine_stops_at_the_deadline(service: RankingService, body: dict[str, Any]) -> None:
    body["candidates"] = [{"id": f"c{i}", "fields": {"title": f"nurse {i}"}} for i in range(1000)]
    async with client(service) as http:
        part = (await http.post("/v1/rank", json={**body, "deadline_ms": 400})).json()
        computed = service.engine.usage.prompts
        await asyncio.sleep(0.1)
        assert service.engine.usage.prompts == computed, "cancelled candidates must not be computed"
        scored = {item["id"]: item["score"] for item in part["ranking"]}
        assert part["partial"] is True
        assert {*scored, *part["unscored"]} == {f"c{i}" for i in range(1000)}
        assert len(scored) + len(part["unscored"]) == 1000
        few = [candidate for candidate in body["candidates"] if candidate["id"] in scored][:20]
        if few:
            again = (await http.post("/v1/rank", json={**body, "candidates": few})).json()
            assert {item["id"]: item["score"] for item in again["ranking"]} == {c["id"]: scored[c["id"]] for c in few}


async def test_an_expired_deadline_is_refused_before_any_work(
    version: LoadedVersion, table_engine: Any, body: dict[str, Any]
) -> None:
    seconds = iter(range(10_000))
    service = RankingService(1, version, table_engine, None, clock=lambda: float(next(seconds)))
    async with client(service) as http:
        answer = await http.post("/v1/rank", json={**body, "deadline_ms": 500})
    assert answer.status_code == 408
    assert answer.json()["error"].startswith("the deadline of 500 ms, which counts from the request's arrival, passed")
    assert table_engine.calls == 0


# --- Load ---


async def test_a_full_service_refuses_with_a_retry_time(
    version: LoadedVersion, table_engine: Any, body: dict[str, Any]
) -> None:
    engine = StuckEngine(table_engine, free=8)
    async with client(RankingService(1, version, engine, None)) as http:
        work = (await http.post("/v1/rank", json=body)).json()["usage"]["prompt_tokens"]
    admission = AdmissionConfig(max_outstanding_tokens=int(1.8 * work), tokens_per_second=100)
    service = RankingService(1, version, engine, None, admission=admission)
    few = {**body, "candidates": body["candidates"][:1]}
    async with client(service) as http:
        first = asyncio.create_task(http.post("/v1/rank", json=body))
        while not service.admission.outstanding_tokens and not first.done():
            await asyncio.sleep(0.001)
        assert service.admission.outstanding_tokens == work
        full = await http.post("/v1/rank", json=body)
        late = await http.post("/v1/rank", json={**few, "deadline_ms": 1000})
        many = [{"id": f"m{i}", "fields": {"title": "nurse"}} for i in range(500)]
        too_large = await http.post("/v1/rank", json={**body, "candidates": many})
        engine.release.set()
        answer = await first
        again = await http.post("/v1/rank", json=body)
    assert full.status_code == 503
    assert full.json()["error"].startswith("the service is busy and has no capacity for it; try again in ")
    assert int(full.headers["retry-after"]) == math.ceil((work + work - int(1.8 * work)) / 100)
    assert late.status_code == 503
    assert late.json()["error"].startswith("the service is busy and could not answer it within its deadline; try again")
    assert int(late.headers["retry-after"]) >= 1
    assert too_large.status_code == 400
    assert too_large.json()["error"].endswith("at a time; send fewer candidates or items per request.")
    assert answer.status_code == again.status_code == 200
    assert metric(service, 'brew_shed_total{reason="limit"}') == 1
    assert metric(service, 'brew_shed_total{reason="deadline"}') == 1
    assert service.admission.outstanding_tokens == 0


async def test_a_client_disconnect_releases_its_capacity(
    version: LoadedVersion, table_engine: Any, body: dict[str, Any]
) -> None:
    engine = StuckEngine(table_engine, free=0)
    service = RankingService(1, version, engine, None)
    async with client(service) as http:
        asking = asyncio.create_task(http.post("/v1/rank", json=body))
        while engine.free > -len(body["candidates"]) and not asking.done():  # until all have reached the engine
            await asyncio.sleep(0.001)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
    assert engine.cancelled == len(body["candidates"])
    assert service.admission.outstanding_tokens == 0


# --- Keys and quotas ---


async def test_every_route_except_the_open_routes_needs_a_key(service: RankingService, tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    key, admin = create_key(path, "feed"), create_key(path, "ops", admin=True)
    config = MiddlewareConfig(keys_path=str(path))
    async with client(service, config) as http:
        routes = (await http.get("/openapi.json")).json()["paths"]
        asks = [(method.upper(), route) for route, methods in routes.items() for method in methods]
        for method, route in [*asks, ("GET", "/nowhere")]:
            open_ = route in ("/health", "/ready")
            for authorization in ("", "Bearer ", "Bearer wrong", f"Basic {key}", key):
                answer = await http.request(method, route, headers={"authorization": authorization})
                assert answer.status_code == (200 if open_ else 401), (method, route)
                if not open_:
                    assert sentence(answer).startswith("the API key is ")
                    assert answer.headers["www-authenticate"] == "Bearer"
        headers = {"authorization": f"bearer {key}"}
        assert (await http.get("/v1/models", headers=headers)).status_code == 200
        forbidden = await http.get("/metrics", headers=headers)
        assert (forbidden.status_code, forbidden.json()["code"]) == (403, "forbidden")
        assert (await http.get("/metrics", headers={"authorization": f"Bearer {admin}"})).status_code == 200


async def test_without_a_key_the_body_is_not_read(service: RankingService, tmp_path: Path) -> None:
    create_key(tmp_path / "keys.yaml", "feed")
    read = 0

    async def chunks() -> AsyncIterator[bytes]:
        nonlocal read
        for _ in range(100):
            read += 1
            yield b" " * 1000

    async with client(service, MiddlewareConfig(keys_path=str(tmp_path / "keys.yaml"))) as http:
        assert (await http.post("/v1/rank", content=chunks())).status_code == 401
    assert read <= 1


async def test_a_team_over_its_limits_must_wait(service: RankingService, tmp_path: Path, body: dict[str, Any]) -> None:
    path = tmp_path / "keys.yaml"
    fast = create_key(path, "fast", requests_per_second=2)
    much = create_key(path, "much", tokens_per_minute=300)
    config = MiddlewareConfig(keys_path=str(path))
    async with client(service, config) as http:
        answers = [await http.get("/v1/models", headers={"authorization": f"Bearer {fast}"}) for _ in range(6)]
        refused = [answer for answer in answers if answer.status_code == 429]
        assert len(refused) >= 3
        assert sentence(refused[0]).startswith("team fast may send 2 requests a second; wait")
        assert refused[0].headers["retry-after"] == "1"
        headers = {"authorization": f"Bearer {much}"}
        assert (await http.post("/v1/rank", json=body, headers=headers)).status_code == 200
        second = await http.post("/v1/rank", json=body, headers=headers)
        assert second.status_code == 429
        assert second.json()["error"].startswith("team much may use 300 tokens a minute and has used them; wait")
        assert int(second.headers["retry-after"]) > 1
        assert (await http.get("/health")).status_code == 200


def test_the_client_sends_its_key_and_its_deadline() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        assert request.headers["authorization"] == "Bearer b360_x"
        assert b'"deadline_ms":250' in request.content
        return httpx.Response(429, json={"error": "wait."})

    with (
        RankClient("http://test", api_key="b360_x", transport=httpx.MockTransport(answer)) as rank_client,
        pytest.raises(UserError, match=r"^wait\.$"),
    ):
        rank_client.rank(task="t", member_id="m", candidates=["a"], deadline_ms=250)


# --- Sizes ---


async def test_a_body_that_is_too_large_is_refused_before_it_is_parsed(service: RankingService) -> None:
    read = 0

    async def chunks() -> AsyncIterator[bytes]:
        nonlocal read
        for _ in range(10_000):
            read += 1
            yield b"[" * 1000

    async with client(service, MiddlewareConfig(max_body_bytes=10_000)) as http:
        declared = await http.post("/v1/rank", content=b"[" * 10_001)
        chunked = await http.post("/v1/rank", content=chunks())
        fits = await http.post("/v1/rank", content=b"[" * 10_000)
    for answer in (declared, chunked):
        assert answer.status_code == 413
        assert answer.json() == {
            "error": "the body has more than 10000 bytes; send fewer candidates, or shorter fields.",
            "code": "body_too_large",
        }
    assert read <= 12
    assert fits.status_code == 400
    async with client(service) as http:
        assert (await http.post("/v1/rank", content=b" " * 10_000_000)).status_code == 413


async def test_ten_thousand_candidates_are_refused_quickly(service: RankingService, body: dict[str, Any]) -> None:
    body["candidates"] = [f"e{i}" for i in range(10_000)]
    async with client(service) as http:
        answer = await http.post("/v1/rank", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"].startswith("candidates: List should have at most 1000 items")


async def test_an_empty_history_is_answered(service: RankingService, body: dict[str, Any]) -> None:
    body["member"]["history"] = []
    async with client(service) as http:
        answer = await http.post("/v1/rank", json=body)
    assert answer.status_code == 200
    assert len(answer.json()["ranking"]) == len(body["candidates"])


# --- Text that Python's json accepts and JSON does not ---

RAW: list[tuple[Callable[[str], str], str]] = [
    (lambda text: text.replace('"job_apply"', '"\\ud800"'), "half of a surrogate pair is not text"),
    (lambda text: text.replace('"task"', '"\\udfff"'), "half of a surrogate pair is not text"),
    (lambda text: text.replace("{", '{"top_k": NaN, ', 1), "NaN is not JSON"),
    (lambda text: text.replace("{", '{"top_k": Infinity, ', 1), "Infinity is not JSON"),
]


@pytest.mark.parametrize(("spoil", "sentence"), RAW)
async def test_json_is_read_strictly(
    service: RankingService, body: dict[str, Any], spoil: Callable[[str], str], sentence: str
) -> None:
    text = spoil(httpx.Request("POST", "http://test", json=body).content.decode())
    async with client(service) as http:
        for content in (text.encode(), text.encode("utf-16")):
            answer = await http.post("/v1/rank", content=content, headers={"content-type": "application/json"})
            assert answer.status_code == 400
        answer = await http.post("/v1/rank", content=text, headers={"content-type": "application/json"})
        assert sentence in answer.json()["error"]
        whole = {**body, "instruction": "\U0001f600"}  # json.dumps writes it as a pair of surrogates
        assert (await http.post("/v1/rank", json=whole)).status_code == 200


# --- Ids, logs, metrics, health ---


async def test_ids_are_echoed_and_in_the_log(
    service: RankingService, body: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    with caplog.at_level(logging.INFO, "brew_serve.access"):
        async with client(service) as http:
            traced = await http.post("/v1/rank", json=body, headers={"x-request-id": "abc-1", "traceparent": parent})
            refused = await http.post("/v1/rank", json={**body, "task": "nothing"})
            missing = await http.get("/nowhere")
    assert traced.headers["x-request-id"] == "abc-1"
    assert traced.headers["traceparent"].startswith(parent[:36])
    assert refused.headers["x-request-id"] != missing.headers["x-request-id"]
    lines = [record.getMessage() for record in caplog.records if record.name == "brew_serve.access"]
    assert lines[0].startswith("POST /v1/rank 200 ")
    assert lines[0].endswith(f"team=local request_id=abc-1 trace_id={parent[3:35]}")
    assert lines[1].startswith("POST /v1/rank 400 ")
    assert refused.headers["x-request-id"] in lines[1]
    assert lines[2].startswith("GET /nowhere 404 ")


async def test_metrics_count_the_requests(version: LoadedVersion, body: dict[str, Any]) -> None:
    service = RankingService(7, version, TorchEngine(version.folder), None)
    async with client(service) as http:
        for _ in range(2):
            assert (await http.post("/v1/rank", json=body)).status_code == 200
        await http.post("/v1/rank", json={})
        answer = await http.get("/metrics")
    service.close()
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert answer.text.startswith("# HELP")
    assert metric(service, 'brew_requests_total{route="/v1/rank",status="200",team="local"}') == 2
    assert metric(service, 'brew_requests_total{route="/v1/rank",status="400",team="local"}') == 1
    assert metric(service, 'brew_items_total{task="job_apply",version="7"}') == 16
    assert metric(service, 'brew_score_count{task="job_apply",version="7"}') == 16
    assert metric(service, "brew_engine_prompts_total") == 16
    assert metric(service, 'brew_engine_tokens_total{kind="computed"}') > 16 * 100
    assert metric(service, "brew_outstanding_tokens") == 0
    stages = {stage: metric(service, f'brew_stage_seconds_sum{{stage="{stage}"}}') for stage in ("prepare", "score")}
    assert 0 < stages["prepare"] < stages["score"] < metric(service, 'brew_request_seconds_sum{route="/v1/rank"}')


async def test_ready_fails_when_the_service_closes(version: LoadedVersion, table_engine: Any) -> None:
    service = RankingService(3, version, table_engine, None)
    async with client(service) as http:
        assert (await http.get("/ready")).json() == {"status": "ok", "version": 3}
        service.close()
        answer = await http.get("/ready")
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "10")
        assert (await http.get("/health")).status_code == 200
