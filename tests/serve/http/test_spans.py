"""The spans of one request through the application, without Ray: their tree, and that they name no person."""

import time
from collections.abc import Iterator

import pytest

from brew_platform.tracing import configure_tracing, shutdown_tracing
from brew_serve.deployment.forwarding import ForwardedRequest, Forwarder
from brew_serve.deployment.version_reconciler import Target
from brew_serve.http.app import create_app
from brew_serve.http.backend import LocalBackend
from brew_serve.http.request_context import RequestContext, Trace
from brew_serve.http.route import BackendResponse
from brew_serve.http.routing_hints import RoutingHints
from brew_serve.metrics import Meters
from brew_serve.ranking.service import RankingService
from brew_serve.version import LoadedVersion

from ...otlp_collector import Collector, collector
from ..conftest import TableEngine
from ..http_client import client_of_app

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = f"00-{TRACE}-00f067aa0ba902b7-01"
SECRET = "zanzibar"  # in every text of the request that a person or a caller writes


@pytest.fixture
def collected(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    with collector() as collected:
        for name, value in collected.environment.items():
            monkeypatch.setenv(name, value)
        configure_tracing("gateway")
        yield collected
        shutdown_tracing()


async def test_a_request_is_a_tree_of_spans_without_personal_data(
    collected: Collector, version: LoadedVersion, table_engine: TableEngine
) -> None:
    service = RankingService(3, version, table_engine, None)
    body = {
        "task": "job_apply",
        "member": {"profile": {"title": SECRET, "location": SECRET}, "history": []},
        "candidates": [{"id": f"{SECRET}{n}", "fields": {"title": SECRET}} for n in range(3)],
    }
    headers = {"traceparent": PARENT, "x-request-id": SECRET, "user-agent": SECRET}
    async with client_of_app(create_app(LocalBackend(service))) as http:
        answer = await http.post(f"/v1/rank?member={SECRET}", json=body, headers=headers)
        assert answer.status_code == 200, answer.text
        assert (await http.post(f"/{SECRET}", json=body)).status_code == 404
        assert (await http.get("/health")).status_code == 200
        assert (await http.post("/v1/rank", json={**body, "task": SECRET}, headers=headers)).status_code == 400
    shutdown_tracing()
    spans = [span for span in collected.spans if span.trace_id == TRACE]
    by_name = {
        span.name: span for span in spans[: next(i for i, s in enumerate(spans) if s.name.startswith("POST")) + 1]
    }
    root = by_name["POST /v1/rank"]
    assert answer.headers["traceparent"] == f"00-{TRACE}-{root.span_id}-01"
    assert root.parent_id == PARENT.split("-")[2]
    assert root.attributes == {
        "http.request.method": "POST",
        "http.route": "/v1/rank",
        "http.response.status_code": 200,
        "brew360.team": "local",
    }
    parents = {name: span.parent_id for name, span in by_name.items()}
    for name in ("queue", "prepare", "score", "answer"):
        assert parents[name] == root.span_id, name
    assert parents["engine"] == by_name["score"].span_id
    assert by_name["engine"].attributes["brew360.calls"] == 3
    names = {span.name for span in collected.spans}
    assert "POST other" in names, "an unknown path is not named"
    assert not any("health" in name for name in names), "probes are not recorded"
    assert SECRET.encode() not in b"".join(collected.bodies)


async def test_a_replica_gets_the_span_of_the_forwarding_gateway(collected: Collector) -> None:
    sent: list[ForwardedRequest] = []

    async def send(version: int, request: ForwardedRequest, key: str) -> BackendResponse:
        sent.append(request)
        return BackendResponse(status=503 if version == 2 else 200, body=b"{}")

    forwarder = Forwarder(send, Meters(), request_seconds=5.0)
    forwarder.targets = (Target(role="production", version=1), Target(role="canary", version=2, share=1.0))
    context = RequestContext(arrival=time.perf_counter(), trace=Trace.of("r1", PARENT), hints=RoutingHints(key="ada"))
    await forwarder.forward("/v1/score", b"{}", "application/json", context)
    shutdown_tracing()
    spans = {span.span_id: span for span in collected.spans}
    assert [request.trace.request_id for request in sent] == ["r1", "r1"]
    forwards = [spans[request.trace.span_id] for request in sent]
    assert [span.attributes for span in forwards] == [
        {"brew360.version": 2, "brew360.role": "canary"},
        {"brew360.version": 1, "brew360.role": "production"},
    ]
    assert {(span.name, span.trace_id, span.parent_id) for span in forwards} == {
        ("forward", TRACE, context.trace.span_id)
    }
