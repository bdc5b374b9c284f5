"""A gateway and its services in one process: responses equal those of one service; canary, shadow and failures."""

import asyncio
import json
import math
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import httpx
import pyarrow.parquet as pq
import pytest

from brew_data.privacy.pseudonyms import PseudonymConfig
from brew_platform.calibration_map import BetaMap, CalibrationMap
from brew_platform.identity.keys import create_key
from brew_serve.deployment import forwarding
from brew_serve.deployment.forwarding import ForwardedRequest, Forwarder
from brew_serve.deployment.version_reconciler import Target
from brew_serve.errors import Lost
from brew_serve.http.app import create_app
from brew_serve.http.backend import LocalBackend
from brew_serve.http.config import MiddlewareConfig
from brew_serve.http.request_context import RequestContext, Trace
from brew_serve.http.route import BackendResponse, Route, run_route
from brew_serve.http.routes import ROUTES
from brew_serve.http.routing_hints import RoutingHints
from brew_serve.metrics import Meters, merged
from brew_serve.ranking.admission import AdmissionConfig
from brew_serve.ranking.answer_log_config import AnswerLogConfig
from brew_serve.ranking.scoring import Scorer
from brew_serve.ranking.service import RankingService
from brew_serve.schemas.status import FleetStatus
from brew_serve.version import LoadedVersion

from ..http_client import client_of_app

PRODUCTION = Target(role="production", version=3)


class FakeFleet:
    """A `RankingBackend` with replicas in this process, by version; versions in `lost` have no replica."""

    def __init__(self, services: dict[int, RankingService], *targets: Target, request_seconds: float = 60.0) -> None:
        self.clock, self.meters = time.perf_counter, Meters()
        self.services, self.lost = services, set[int]()
        self.routes = {route.path: route for route in ROUTES}
        self.sent: list[tuple[int, str]] = []
        self.before: Callable[[int], Any] = lambda version: asyncio.sleep(0)
        self.request_seconds = request_seconds
        self.forwarder = Forwarder(self.send, self.meters, request_seconds=request_seconds, clock=self.clock)
        self.forwarder.targets = targets

    async def respond(self, route: Route, body: bytes, content_type: str, context: RequestContext) -> BackendResponse:
        return await self.forwarder.forward(route.path, body, content_type, context)

    def running_tokens(self) -> int:
        return 10**9

    async def send(self, version: int, request: ForwardedRequest, key: str) -> BackendResponse:
        self.sent.append((version, key))
        await self.before(version)
        if version in self.lost:
            raise Lost("the replica that had this request has ended; another is being started. Try again.")
        service = self.services[version]
        context = request.context(service.clock())
        return await run_route(self.routes[request.path], service, request.body, request.content_type, context)

    def check_health(self) -> int:
        return self.forwarder.targets[0].version

    check_ready = check_health

    async def metrics(self) -> bytes:
        return merged(
            {"g": self.meters.text()} | {f"v{v}": service.meters.text() for v, service in self.services.items()}
        )

    async def status(self) -> FleetStatus:
        return FleetStatus(model="brew360", alias="production", versions=[])

    @asynccontextmanager
    async def client(self, config: MiddlewareConfig | None = None, key: str = "") -> AsyncIterator[httpx.AsyncClient]:
        api = create_app(self, config)
        headers = {"authorization": f"Bearer {key}"} if key else {}
        transport = httpx.ASGITransport(api, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test", headers=headers) as http:
            yield http

    def metric(self, line: str) -> float:
        found = [text for text in self.meters.text().decode().splitlines() if text.startswith(line + " ")]
        return float(found[0].split()[-1]) if found else 0.0


def shown(answer: httpx.Response) -> Any:
    """Return the parts of a response that must not depend on the replica."""
    value = answer.json()
    for name in ("milliseconds", "id", "created"):
        value.pop(name, None)
    headers = {name: answer.headers.get(name) for name in ("content-type", "allow", "retry-after", "content-length")}
    headers.pop("content-length" if "usage" in value else "", None)
    return answer.status_code, value, headers


async def test_the_gateway_answers_as_the_service_does(service: RankingService, body: dict[str, Any]) -> None:
    text = {"model": "brew360", "prompt": "job nurse", "max_tokens": 2, "temperature": 0}
    chat = {"model": "brew360@3", "messages": [{"role": "user", "content": "job welder"}], "max_tokens": 2, "seed": 1}
    score = {"query": "job", "items": ["nurse", "chef"], "label_token_ids": [7, 8]}
    asks: list[tuple[str, str, Any]] = [
        ("POST", "/v1/rank", body),
        ("POST", "/v1/rank", {"task": "job_apply", "member_id": "ada", "candidates": ["e0", "e2"], "top_k": 1}),
        ("POST", "/v1/rank", {**body, "task": "nothing"}),
        ("POST", "/v1/rank", {**body, "top_k": "3"}),
        ("POST", "/v1/rank", {"task": "job_apply", "member_id": "nobody", "candidates": ["e0"]}),
        ("POST", "/v1/rank", b"{"),
        ("POST", "/v1/rank", b'{"top_k": NaN}'),
        ("GET", "/v1/rank", None),
        ("GET", "/nowhere", None),
        ("GET", "/v1/models", None),
        ("POST", "/v1/completions", text),
        ("POST", "/v1/completions", {**text, "model": "other"}),
        ("POST", "/v1/chat/completions", chat),
        ("POST", "/v1/score", score),
        ("POST", "/generative_scoring", {**score, "model": "brew360"}),
        ("GET", "/health", None),
        ("GET", "/ready", None),
    ]
    here = httpx.ASGITransport(create_app(LocalBackend(service)), raise_app_exceptions=False)
    gateway = FakeFleet({3: service}, PRODUCTION)
    async with httpx.AsyncClient(transport=here, base_url="http://test") as alone, gateway.client() as through:
        for method, path, content in asks:
            payload = (
                {"content": content, "headers": {"content-type": "application/json"}}
                if isinstance(content, bytes)
                else {"json": content}
            )
            answers = [await http.request(method, path, **payload) for http in (alone, through)]
            assert shown(answers[0]) == shown(answers[1]), (path, content)
            assert answers[1].headers["x-request-id"]
        plain = await through.post("/v1/rank", content=b"{}", headers={"content-type": "text/plain"})
        assert plain.status_code == 400
        documents = [(await http.get("/openapi.json")).json() for http in (alone, through)]
        assert documents[0] == documents[1]
        ids = await through.get("/v1/models", headers={"x-request-id": "abc"})
        assert ids.headers["x-request-id"] == "abc"
    assert gateway.metric('brew_requests_total{route="/v1/rank",status="200",team="local"}') == 2
    assert gateway.metric('brew_requests_total{route="other",status="404",team="local"}') == 1


async def test_errors_of_a_replica_reach_the_caller_unchanged(
    version: LoadedVersion, table_engine: Any, body: dict[str, Any]
) -> None:
    admission = AdmissionConfig(max_outstanding_tokens=1_000_000, tokens_per_second=1.0)
    service = RankingService(3, version, table_engine, None, admission=admission)
    gateway = FakeFleet({3: service}, PRODUCTION)
    async with gateway.client() as http:
        gateway.before = lambda _: asyncio.sleep(0.02)
        late = await http.post("/v1/rank", json={**body, "deadline_ms": 10})
        assert (late.status_code, late.json()["error"][:24]) == (408, "the deadline of 10 ms, w")
        service.admission.outstanding_tokens = 999_999
        full = await http.post("/v1/rank", json=body)
        assert (full.status_code, full.json()["error"][:19]) == (503, "the service is busy")
        assert int(full.headers["retry-after"]) > 1


async def test_a_bug_in_a_replica_is_reported_without_private_data(
    version: LoadedVersion, table_engine: Any, body: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def bug(*_: object) -> None:
        raise ZeroDivisionError("a secret")

    monkeypatch.setattr(table_engine, "next_token_logprobs", bug)
    async with FakeFleet({3: RankingService(3, version, table_engine, None)}, PRODUCTION).client() as http:
        answer = await http.post("/v1/rank", json=body)
    assert answer.status_code == 500
    assert answer.json() == {
        "error": "the service failed on this request; its log says why. Tell the operators.",
        "code": "failed",
    }


async def test_without_a_replica_the_caller_gets_a_retry_time(
    version: LoadedVersion, table_engine: Any, body: dict[str, Any]
) -> None:
    gateway = FakeFleet({3: RankingService(3, version, table_engine, None)}, PRODUCTION)
    gateway.lost = {3}
    async with gateway.client() as http:
        answer = await http.post("/v1/rank", json=body)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
        assert answer.json()["error"].startswith("the replica that had this request has ended; another is being")
        gateway.forwarder.targets = ()
        answer = await http.post("/v1/rank", json=body)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
        assert answer.json()["error"].startswith("no version of the model is up yet")
        assert answer.json()["code"] == "lost"
        error = (await http.get("/v1/models")).json()["error"]
        assert (error["message"][:16], error["type"], error["code"]) == ("no version of th", "server_error", "lost")
    assert gateway.metric('brew_lost_total{version="3"}') == 1


async def test_a_hanging_replica_delays_its_caller_only_until_the_deadline(
    version: LoadedVersion, table_engine: Any, body: dict[str, Any]
) -> None:
    services = {number: RankingService(number, version, table_engine, None) for number in (3, 4)}
    gateway = FakeFleet(services, PRODUCTION, Target(role="shadow", version=4, share=1.0), request_seconds=0.2)
    left: list[int] = []

    async def hang(number: int) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            left.append(number)
            raise

    gateway.before = hang
    async with gateway.client() as http:
        for changed, least, sentence in [
            ({"deadline_ms": 300}, 0.3, "no answer came by the deadline of 300 ms: the replica that has this request"),
            ({}, 0.2, "no answer came within 0.2 s: the replica that has this request hangs or is far behind. Try"),
        ]:
            start = time.perf_counter()
            answer = await http.post("/v1/rank", json={**body, **changed})
            assert least < time.perf_counter() - start < least + 1.5
            assert (answer.status_code, answer.headers["retry-after"]) == (504, "5")
            assert answer.json()["error"].startswith(sentence)
            assert answer.json()["code"] == "late"
        assert left == [3, 3], "the replica is told"
        gateway.before = lambda number: hang(number) if number == 4 else asyncio.sleep(0)
        assert (await http.post("/v1/rank", json=body)).status_code == 200
        while not gateway.metric('brew_shadow_total{outcome="lost",version="4"}'):
            await asyncio.sleep(0.01)
    assert gateway.metric('brew_lost_total{version="3"}') == 2


async def test_a_replica_has_a_grace_period_for_a_partial_response(
    version: LoadedVersion, table_engine: Any, body: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    answer, calls = table_engine.next_token_logprobs, iter(range(100))

    async def stuck(*arguments: Any) -> Any:
        if next(calls) >= 3:
            await asyncio.Event().wait()
        return await answer(*arguments)

    monkeypatch.setattr(table_engine, "next_token_logprobs", stuck)
    gateway = FakeFleet({3: RankingService(3, version, table_engine, None)}, PRODUCTION, request_seconds=0.1)
    async with gateway.client() as http:
        partial = await http.post("/v1/rank", json={**body, "deadline_ms": 200})
    assert partial.status_code == 200
    assert (partial.json()["partial"], len(partial.json()["ranking"])) == (True, 3)


CANARY = Target(role="canary", version=4, share=1.0)


def computes_nan(gateway: FakeFleet, number: int) -> None:
    """Let a version have a NaN weight in the head of its model."""

    async def next_token_logprobs(prompt: Any, token_ids: Any, shared: Any = None) -> list[float]:
        return [math.nan] * len(token_ids)

    service = gateway.services[number]
    service._scorer = Scorer(Mock(next_token_logprobs=next_token_logprobs), service.version.compiler)


def fleet_of(version: LoadedVersion, table_engine: Any, *targets: Target, **options: Any) -> FakeFleet:
    services = {number: RankingService(number, version, table_engine, None) for number in (3, 4)}
    return FakeFleet(services, *targets, **options)


async def test_a_canary_answers_its_members_and_production_replaces_a_lost_canary(
    version: LoadedVersion, table_engine: Any, body: dict[str, Any]
) -> None:
    gateway = fleet_of(version, table_engine, PRODUCTION, replace(CANARY, share=0.5))

    async def versions(http: httpx.AsyncClient) -> list[int]:
        answers = []
        for n in range(20):
            answers.append((await http.post("/v1/rank", json={**body, "routing_key": f"m{n}"})).json()["version"])
        return answers

    async with gateway.client() as http:
        once = await versions(http)
        assert 4 < once.count(4) < 16
        assert await versions(http) == once
        gateway.lost = {4}
        assert await versions(http) == [3] * 20
    assert gateway.metric('brew_lost_total{version="4"}') == once.count(4)


async def test_production_answers_for_a_canary_without_a_calibration_map(
    version: LoadedVersion, table_engine: Any, body: dict[str, Any]
) -> None:
    gateway = fleet_of(version, table_engine, PRODUCTION, CANARY)
    tasks = {"job_apply": BetaMap(a=1.0, b=1.0, c=0.5)}
    found = CalibrationMap(model="m", tasks=tasks, unfitted={}, fitted_from=0, fitted_until=1, rows_digest="d")
    gateway.services[3].version = replace(version, calibration=found)
    async with gateway.client() as http:
        for changes, expected in [({"calibrated": True}, (3, True)), ({}, (4, False))]:
            answer = (await http.post("/v1/rank", json=body | changes)).json()
            assert (answer["version"], answer["calibrated"]) == expected


async def test_answers_are_logged_with_the_role_of_the_version_and_the_time_of_the_request(
    version: LoadedVersion,
    table_engine: Any,
    body: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ANSWERS_KEY", "0123456789abcdef")
    log = AnswerLogConfig(url=str(tmp_path), key=PseudonymConfig(env="ANSWERS_KEY"))
    services = {number: RankingService(number, version, table_engine, None, answer_log=log) for number in (3, 4, 5)}
    shadow = Target(role="shadow", version=5, share=1.0)
    gateway = FakeFleet(services, PRODUCTION, replace(CANARY, share=0.5), shadow)
    async with gateway.client() as http:
        for n in range(10):
            headers = {"x-request-id": f"r{n}"}
            await http.post("/v1/rank", json={**body, "routing_key": f"m{n}"}, headers=headers)
        while gateway.metric('brew_shadow_total{outcome="compared",version="5"}') < 10:
            await asyncio.sleep(0.01)
    for service in services.values():
        service.close()
    rows = [row for path in tmp_path.glob("*/*.parquet") for row in pq.read_table(path).to_pylist()]
    roles: dict[str, set[tuple[int, str]]] = {}
    for row in rows:
        roles.setdefault(row["request_id"], set()).add((row["version"], row["role"]))
        assert row["history"] == len(body["member"]["history"])
    assert {frozenset(found) for found in roles.values()} == {
        frozenset({(3, "production"), (5, "shadow")}),
        frozenset({(4, "canary"), (5, "shadow")}),
    }
    times = {(row["request_id"], row["time"]) for row in rows}
    assert len(times) == len(roles) == 10, "a copy has the time of its original"


async def test_a_failing_canary_gets_one_request_in_a_while_until_it_answers_again(
    version: LoadedVersion, table_engine: Any, body: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = fleet_of(version, table_engine, PRODUCTION, CANARY)
    monkeypatch.setattr(forwarding, "_CANARY_RETRY_SECONDS", 0.5)
    gateway.lost = {4}
    async with gateway.client() as http:

        async def version_of(requests: int) -> set[int]:
            answers = await asyncio.gather(*(http.post("/v1/rank", json=body) for _ in range(requests)))
            return {answer.json()["version"] for answer in answers}

        assert await version_of(1) == {3}
        gateway.sent.clear()
        assert await version_of(4) == {3}
        assert {number for number, _ in gateway.sent} == {3}, "no request waits for the canary"
        await asyncio.sleep(0.5)
        gateway.sent.clear()
        assert await version_of(4) == {3}
        assert [number for number, _ in gateway.sent].count(4) == 1
        gateway.lost = set()
        await asyncio.sleep(0.5)
        assert await version_of(1) == {4}
        assert await version_of(4) == {4}
    assert gateway.metric('brew_lost_total{version="4"}') == 9


async def test_a_canary_that_is_down_is_not_tried(
    version: LoadedVersion, table_engine: Any, body: dict[str, Any]
) -> None:
    shadow = Target(role="shadow", version=4, share=1.0, up=False)
    gateway = fleet_of(version, table_engine, PRODUCTION, replace(CANARY, up=False), shadow)
    async with gateway.client() as http:
        assert (await http.post("/v1/rank", json=body)).json()["version"] == 3
    assert [number for number, _ in gateway.sent] == [3]
    assert gateway.metric('brew_lost_total{version="4"}') == 1
    assert gateway.metric('brew_shadow_total{outcome="lost",version="4"}') == 1


class Bug(Exception):
    """An error of a replica that is not a BrewError."""


@pytest.mark.parametrize("failure", ["hangs", "raises", "computes NaN", "is overloaded"])
@pytest.mark.parametrize("deadline", [{}, {"deadline_ms": 400}])
async def test_production_answers_for_a_canary_that(
    failure: str, deadline: dict[str, int], version: LoadedVersion, table_engine: Any, body: dict[str, Any]
) -> None:
    gateway = fleet_of(version, table_engine, PRODUCTION, CANARY, request_seconds=0.6)

    async def before(number: int) -> None:
        if number == 4 and failure == "hangs":
            await asyncio.Event().wait()
        if number == 4 and failure == "raises":
            raise Bug

    gateway.before = before
    if failure == "computes NaN":
        computes_nan(gateway, 4)
    elif failure == "is overloaded":
        gateway.services[4].admission.outstanding_tokens = 10**9
    async with gateway.client() as http:
        answer = await http.post("/v1/rank", json={**body, **deadline})
    assert (answer.status_code, answer.json().get("version")) == (200, 3)
    assert answer.json()["partial"] is False
    assert gateway.metric('brew_lost_total{version="4"}') == 1


@pytest.mark.parametrize("failure", ["raises", "computes NaN"])
async def test_a_failing_shadow_never_reaches_the_caller(
    failure: str, version: LoadedVersion, table_engine: Any, body: dict[str, Any]
) -> None:
    gateway = fleet_of(version, table_engine, PRODUCTION, Target(role="shadow", version=4, share=1.0))
    outcome = "lost" if failure == "raises" else "refused"

    async def before(number: int) -> None:
        if number == 4 and failure == "raises":
            raise Bug

    gateway.before = before
    if failure == "computes NaN":
        computes_nan(gateway, 4)
    async with gateway.client() as http:
        assert (await http.post("/v1/rank", json=body)).status_code == 200
        while not gateway.metric(f'brew_shadow_total{{outcome="{outcome}",version="4"}}'):
            await asyncio.sleep(0.01)


async def test_a_shadow_is_compared_and_never_delays_or_fails_the_caller(
    version: LoadedVersion, table_engine: Any, body: dict[str, Any]
) -> None:
    services = {number: RankingService(number, version, table_engine, None) for number in (3, 4)}
    gateway = FakeFleet(services, PRODUCTION, Target(role="shadow", version=4, share=1.0))
    release = asyncio.Event()

    async def hold(number: int) -> None:
        if number == 4:
            await release.wait()

    gateway.before = hold
    async with gateway.client() as http:
        for _ in range(40):  # the shadow answers none of them now
            assert (await http.post("/v1/rank", json=body)).json()["version"] == 3
        assert gateway.metric('brew_shadow_total{outcome="dropped",version="4"}') == 8
        release.set()
        while gateway.metric('brew_shadow_total{outcome="compared",version="4"}') < 32:
            await asyncio.sleep(0.01)
        gateway.lost = {4}
        assert (await http.post("/v1/rank", json=body)).status_code == 200
        assert (await http.post("/v1/rank", json={**body, "task": "nothing"})).status_code == 400
        await asyncio.sleep(0.05)
    assert gateway.metric('brew_shadow_total{outcome="lost",version="4"}') == 1
    assert gateway.metric('brew_shadow_difference_count{version="4"}') == 32 * len(body["candidates"])
    assert gateway.metric('brew_shadow_difference_bucket{le="1e-06",version="4"}') == 32 * len(body["candidates"])


async def test_a_team_is_charged_for_the_tokens_that_its_requests_used(
    version: LoadedVersion, table_engine: Any, body: dict[str, Any], tmp_path: Path
) -> None:
    key = create_key(tmp_path / "keys.yaml", "feed", tokens_per_minute=600)
    gateway = FakeFleet({3: RankingService(3, version, table_engine, None)}, PRODUCTION)
    async with gateway.client(MiddlewareConfig(keys_path=str(tmp_path / "keys.yaml")), key) as http:
        answers = [await http.post("/v1/rank", json=body) for _ in range(6)]
        tokens = answers[0].json()["usage"]["prompt_tokens"]
        good = [answer.status_code for answer in answers].count(200)
        assert good == 600 // tokens
        assert answers[-1].status_code == 429
        assert answers[-1].json()["error"].startswith("team feed may use 600 tokens a minute and has used them; wait")
        assert int(answers[-1].headers["retry-after"]) >= 1
        assert (await http.get("/v1/models")).status_code == 200
    assert gateway.metric('brew_shed_total{reason="quota"}') == 6 - good


async def test_metrics_of_all_processes_are_merged(service: RankingService, body: dict[str, Any]) -> None:
    gateway = FakeFleet({3: service}, PRODUCTION)
    async with gateway.client() as http:
        assert (await http.post("/v1/rank", json=body)).status_code == 200
        lines = (await http.get("/metrics")).text.splitlines()
    assert sum(line.startswith("# TYPE brew_requests_total ") for line in lines) == 1
    assert any(line.startswith('brew_requests_total{replica="g",route="/v1/rank"') for line in lines)
    assert any(line.startswith("brew_engine_prompts_total{") and 'replica="v3"' in line for line in lines)


async def test_a_local_service_reports_its_status(service: RankingService) -> None:
    async with client_of_app(create_app(LocalBackend(service))) as http:
        status = (await http.get("/v1/status")).json()
    assert json.dumps(status["versions"][0]) == (
        '{"version": 3, "role": "production", "share": 1.0, "replicas": 1, "state": "up"}'
    )


async def test_a_body_that_the_queue_has_read_is_not_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[str] = []

    async def send(version: int, request: ForwardedRequest, key: str) -> BackendResponse:
        sent.append(key)
        return BackendResponse(status=200, body=b"{}")

    monkeypatch.setattr(forwarding, "read_routing_hints_in_thread", None)
    forwarder = Forwarder(send, Meters(), request_seconds=1.0)
    forwarder.targets = [PRODUCTION]
    context = RequestContext(arrival=time.perf_counter(), trace=Trace.of("", ""), hints=RoutingHints(key="ada"))
    await forwarder.forward("/v1/rank", b"{}", "application/json", context)
    assert sent == ["ada"]
