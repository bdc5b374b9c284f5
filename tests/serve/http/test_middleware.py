"""The middleware over HTTP: keys, quotas, sizes, ids, deadlines and load, with status and message of every error."""

import asyncio
import json
import math
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import httpx
import pytest

from brew_platform.console.logging import PrivateId, open_process_log
from brew_platform.errors import UserError
from brew_platform.identity.keys import create_key
from brew_serve.client import RankClient
from brew_serve.engines.base import EngineUsage, GeneratedToken, Sampling, Shared
from brew_serve.engines.torch import TorchEngine
from brew_serve.errors import Late, Lost
from brew_serve.http import routing_hints
from brew_serve.http.app import create_app
from brew_serve.http.backend import LocalBackend
from brew_serve.http.config import MiddlewareConfig
from brew_serve.http.request_context import RequestContext
from brew_serve.http.route import BackendResponse, Route
from brew_serve.http.routes.nearline import nearline_router
from brew_serve.ranking.admission import AdmissionConfig
from brew_serve.ranking.service import RankingService
from brew_serve.version import LoadedVersion

from ..http_client import client_of_app


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
        for milliseconds in (400, 1_600, 6_400):  # a busy machine may prepare no prompt in the first
            response = await http.post("/v1/rank", json={**body, "deadline_ms": milliseconds})
            if response.status_code != 408:
                break
        part = response.json()
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
    key, admin = create_key(path, "feed"), create_key(path, "ops", scopes={"admin"})
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


async def test_a_compressed_body_is_refused_by_the_name_of_its_header(service: RankingService) -> None:
    async with client(service) as http:
        headers = {"content-type": "application/json", "content-encoding": "gzip"}
        answer = await http.post("/v1/rank", content=b"\x1f\x8b\x08", headers=headers)
    assert answer.status_code == 400
    assert answer.json()["error"].startswith("the header content-encoding is 'gzip', but bodies are not decompressed")


OPEN = ["/health", "/healthz", "/ready", "/docs", "/openapi.json"]


@pytest.mark.parametrize("path", OPEN)
@pytest.mark.parametrize("keyed", [False, True])
async def test_open_routes_never_read_a_body(service: RankingService, tmp_path: Path, path: str, keyed: bool) -> None:
    create_key(tmp_path / "keys.yaml", "feed")
    config = MiddlewareConfig(keys_path=str(tmp_path / "keys.yaml") if keyed else None)
    app = create_app(LocalBackend(service), config)
    for method, status in (("GET", 200), ("POST", 405)):
        sent = await call(app, method, path, receive=never, headers={"content-length": "1000"})
        assert sent[0]["status"] == status
    if path in OPEN[:3]:
        assert (await call(app, "HEAD", path, receive=never))[0]["status"] == 200


async def test_slow_bodies_do_not_hold_up_others(service: RankingService, body: dict[str, Any]) -> None:
    """1,000 requests whose body never comes, beside requests that are answered."""
    config = MiddlewareConfig(max_reading_requests=20, body_seconds=0.5)
    app = create_app(LocalBackend(service), config)
    stalled = [
        asyncio.create_task(call(app, "POST", "/v1/rank", receive=never, headers={"content-length": "9"}))
        for _ in range(1_000)
    ]
    await asyncio.sleep(0)
    async with client_of_app(app) as http:
        assert (await http.post("/v1/rank", json=body)).status_code == 200
        assert (await http.get("/health")).status_code == 200
    statuses = [(await task)[0]["status"] for task in stalled]
    assert statuses == [408] * 1_000


async def never() -> dict[str, Any]:
    await asyncio.Event().wait()
    raise AssertionError


async def call(
    app: Any, method: str, path: str, *, receive: Any, headers: dict[str, str] | None = None
) -> list[dict[str, Any]]:
    """Call an ASGI application, and return the messages that it sends."""
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {"type": "http", "method": method, "path": path, "raw_path": path.encode(), "query_string": b""}
    names = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
    await app({**scope, "headers": names, "server": ("test", 80), "scheme": "http", "root_path": ""}, receive, send)
    return sent


# --- Fairness, and what a request costs ---


class SlowBackend(LocalBackend):
    """Answers each request after a time, and counts those that run."""

    def __init__(self, service: RankingService, seconds: float, **settings: Any) -> None:
        super().__init__(service, **settings)
        self.seconds, self.started, self.wait = seconds, list[str](), asyncio.sleep
        self.most_waiting_tokens = 0
        self.deadlines: list[int | None] = []  # of requests whose body was read before they started

    async def respond(self, route: Route, body: bytes, content_type: str, context: RequestContext) -> BackendResponse:
        self.started.append(context.team.name)
        self.most_waiting_tokens = max(self.most_waiting_tokens, context.waiting_tokens)
        self.deadlines += [context.hints.deadline_ms] if context.hints else []
        await self.wait(self.seconds)
        return BackendResponse(status=200, body=b"{}", tokens=100)


def teams(path: Path, **settings: dict[str, Any]) -> tuple[MiddlewareConfig, dict[str, dict[str, str]]]:
    """Create a key per team; return the configuration, and headers by team."""
    keys = {team: create_key(path, team, **limits) for team, limits in settings.items()}
    headers = {"content-type": "application/json"}
    return MiddlewareConfig(keys_path=str(path)), {
        team: {**headers, "authorization": f"Bearer {key}"} for team, key in keys.items()
    }


def open_client(app: Any) -> httpx.AsyncClient:
    return client_of_app(app)


async def test_a_team_that_floods_delays_no_other_team(service: RankingService, tmp_path: Path) -> None:
    config, headers = teams(tmp_path / "keys.yaml", flood={}, small={})
    backend = SlowBackend(service, 0.002, running_tokens=200)
    shed = metric(service, 'brew_shed_total{reason="queue"}')
    async with open_client(create_app(backend, config)) as http:

        def send(team: str) -> asyncio.Task[httpx.Response]:
            return asyncio.create_task(http.post("/v1/rank", content=b"{" + b" " * 400 + b"}", headers=headers[team]))

        flood = [send("flood") for _ in range(600)]
        while len(backend.started) < 10:
            await asyncio.sleep(0.001)
        before = len(backend.started)
        small = [await send("small") for _ in range(5)]
        between = len(backend.started) - before
        answers = await asyncio.gather(*flood)
    assert [answer.status_code for answer in small] == [200] * 5
    assert backend.most_waiting_tokens > 200, "replicas learn what waits, and report it for autoscaling"
    assert between <= 5 * 6, "each waits for the requests that run, and not for those that wait"
    refused = [answer for answer in answers if answer.status_code == 503]
    assert 300 <= len(refused) <= 360, "256 wait, and the others are refused"
    assert (
        refused[0].json()["error"].startswith("256 requests of team flood wait already, which is the limit; try again")
    )
    assert int(refused[0].headers["retry-after"]) >= 1
    assert metric(service, 'brew_shed_total{reason="queue"}') - shed == len(refused)
    assert metric(service, 'brew_waiting_requests{team="flood"}') == 0


async def test_teams_share_the_service_by_their_weights(service: RankingService, tmp_path: Path) -> None:
    config, headers = teams(tmp_path / "keys.yaml", heavy={"weight": 3.0}, light={})
    backend = SlowBackend(service, 0.0, running_tokens=100)
    async with open_client(create_app(backend, config)) as http:
        sent = [
            asyncio.create_task(http.post("/v1/rank", content=b"{" + b" " * 398 + b"}", headers=headers[team]))
            for _ in range(80)
            for team in ("light", "heavy")
        ]
        await asyncio.gather(*sent)
    assert 26 <= backend.started[:40].count("heavy") <= 34, backend.started[:40]


async def test_a_request_waits_no_longer_than_its_deadline(service: RankingService) -> None:
    backend = SlowBackend(service, 0.3, running_tokens=1, request_seconds=0.1)
    headers = {"content-type": "application/json"}
    async with open_client(create_app(backend)) as http:
        running = asyncio.create_task(http.post("/v1/rank", content=b"{}", headers=headers))
        while not backend.started:
            await asyncio.sleep(0.001)
        own = await http.post("/v1/rank", content=b'{"deadline_ms": 20}', headers=headers)
        default = await http.post("/v1/rank", content=b"{}", headers=headers)
        assert (await running).status_code == 200
    assert (own.status_code, own.json()["code"]) == (408, "expired")
    assert own.json()["error"].startswith("the deadline of 20 ms passed while the request waited for others")
    assert (default.status_code, default.json()["code"]) == (503, "overloaded")
    assert default.json()["error"].startswith("the request waited 0.1 s for others; try again in 10 s.")


async def test_a_large_body_that_waits_is_read_in_a_thread(
    service: RankingService, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[threading.Thread] = []

    def read(body: bytes) -> routing_hints.RoutingHints:
        threads.append(threading.current_thread())
        return routing_hints.RoutingHints(deadline_ms=json.loads(body)["deadline_ms"])

    monkeypatch.setattr(routing_hints, "read_routing_hints", read)
    backend = SlowBackend(service, 0.05, running_tokens=1)
    headers = {"content-type": "application/json"}
    async with open_client(create_app(backend)) as http:
        running = asyncio.create_task(http.post("/v1/rank", content=b"{}", headers=headers))
        while not backend.started:
            await asyncio.sleep(0.001)
        large = json.dumps({"deadline_ms": 50_000, "query": "x" * 200_000}).encode()
        assert (await http.post("/v1/rank", content=large, headers=headers)).status_code == 200
        await running
    assert [thread is threading.main_thread() for thread in threads] == [False]
    assert backend.deadlines == [50_000], "the backend need not read it again"


async def test_a_request_without_a_deadline_has_the_default_one(
    version: LoadedVersion, table_engine: Any, body: dict[str, Any]
) -> None:
    engine = StuckEngine(table_engine, free=3)
    service = RankingService(1, version, engine, None)
    async with open_client(create_app(LocalBackend(service, request_seconds=0.2))) as http:
        answer = (await http.post("/v1/rank", json=body)).json()
    assert (answer["partial"], len(answer["ranking"]), len(answer["unscored"])) == (True, 3, 5)


@pytest.mark.parametrize("outcome", ["late", "cancelled", "lost"])
async def test_work_that_was_done_is_charged(service: RankingService, tmp_path: Path, outcome: str) -> None:
    config, headers = teams(tmp_path / "keys.yaml", feed={"tokens_per_minute": 1_000})
    backend = SlowBackend(service, 60)
    if outcome != "cancelled":
        backend.wait = Mock(side_effect=Late("late.") if outcome == "late" else Lost("lost."))
    async with open_client(create_app(backend, config)) as http:
        content = b"{" + b" " * 3_998 + b"}"  # 4,000 bytes: 1,000 tokens are predicted
        first = asyncio.create_task(http.post("/v1/rank", content=content, headers=headers["feed"]))
        while not backend.started:
            await asyncio.sleep(0.001)
        if outcome == "cancelled":
            first.cancel()
            await asyncio.gather(first, return_exceptions=True)
        else:
            assert (await first).status_code == {"late": 504, "lost": 503}[outcome]
        backend.wait = Mock(side_effect=Lost("lost."))
        second = await http.post("/v1/rank", content=content, headers=headers["feed"])
    assert second.status_code == (503 if outcome == "lost" else 429)


# --- Ids, logs, metrics, health ---


def read_log(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


async def test_every_request_is_one_record_with_route_ids_and_team(
    service: RankingService, body: dict[str, Any], tmp_path: Path
) -> None:
    parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    with open_process_log(tmp_path / "gateway.log", process="gateway", private=True) as log:
        async with client(service) as http:
            traced = await http.post("/v1/rank", json=body, headers={"x-request-id": "abc-1", "traceparent": parent})
            refused = await http.post("/v1/rank", json={**body, "task": "nothing"})
            missing = await http.get("/nowhere")
    assert traced.headers["x-request-id"] == "abc-1"
    assert traced.headers["traceparent"].startswith(parent[:36])
    assert refused.headers["x-request-id"] != missing.headers["x-request-id"]
    access = [record for record in read_log(log.path) if record["message"] == "request"]
    keys = ("method", "route", "status", "team")
    assert [tuple(record[key] for key in keys) for record in access] == [
        ("POST", "/v1/rank", 200, "local"),
        ("POST", "/v1/rank", 400, "local"),
        ("GET", "other", 404, "local"),
    ]
    assert (access[0]["request_id"], access[0]["trace_id"]) == ("abc-1", parent[3:35])
    assert access[1]["request_id"] == refused.headers["x-request-id"]
    answered = [record for record in read_log(log.path) if record["message"] == "answered"]
    assert [(record["status"], record["request_id"]) for record in answered] == [
        (200, "abc-1"),
        (400, refused.headers["x-request-id"]),
    ]
    assert answered[0]["version"] == 3
    assert answered[0]["tokens"] > 100


SECRET = "ada@example.com"
PATHS = [
    f"/v1/nearline/rankings/job_apply/{SECRET}",
    f"/v1/nearline/rankings?task=job_apply&member_id={SECRET}",
    f"/nowhere/{SECRET}",
    f'/v1/models/{SECRET}%0A{{"level":"INFO"}}',
    f"/health%0d%0a{SECRET}",
    f"/%1b[31m%00%e2%80%a8{SECRET}",
]


async def test_the_log_has_one_record_per_request_and_no_ids_whatever_is_sent(
    service: RankingService, body: dict[str, Any], tmp_path: Path
) -> None:
    router = nearline_router(lambda: None)
    app = create_app(LocalBackend(service), routers=[router])
    with open_process_log(tmp_path / "gateway.log", process="gateway", key=b"k", private=True) as log:
        async with open_client(app) as http:
            for path in PATHS:
                await http.get(path)
            await http.post("/v1/rank", json={"task": SECRET, "member_id": SECRET, "candidates": [SECRET]})
            await http.request(f"X{'Y' * 50}", "/v1/rank")
            await http.post("/v1/rank", content=SECRET.encode(), headers={"content-type": SECRET})
    text = log.path.read_text()
    assert SECRET not in text
    assert "example" not in text
    assert text.isascii()
    records = read_log(log.path)
    access = [record for record in records if record["message"] == "request"]
    assert len(access) == len(PATHS) + 3
    assert access[0]["route"] == "/v1/nearline/rankings/{ids:path}"
    assert {record["route"] for record in access[2:6]} <= {"/v1/models/{model:path}", "other"}
    members = [record["member_id"] for record in records if record["message"] == "answered" and record["member_id"]]
    assert members == [PrivateId(SECRET).hashed(b"k")]


async def test_a_bug_is_logged_without_its_text_and_answered_without_it(
    service: RankingService, body: dict[str, Any], tmp_path: Path
) -> None:
    backend = SlowBackend(service, 0)
    backend.wait = Mock(side_effect=KeyError(SECRET))
    with open_process_log(tmp_path / "gateway.log", process="gateway", private=True) as log:
        async with client_of_app(create_app(backend)) as http:
            answer = await http.post("/v1/rank", json=body)
    assert (answer.status_code, answer.json()["code"]) == (500, "failed")
    assert SECRET not in answer.text + log.path.read_text()
    failure = read_log(log.path)[0]
    assert (failure["message"], failure["route"]) == ("a request failed", "/v1/rank")
    assert failure["exception"][0]["type"] == "builtins.KeyError"
    assert any("test_middleware.py" in frame for frame in failure["exception"][0]["frames"])
    assert failure["request_id"] == answer.headers["x-request-id"]


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
