"""The canary of a release: its requests, its judgement, and that it always ends."""

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from brew_cluster.releases import canary
from brew_cluster.releases.canary import CanaryReport, run_canary
from brew_cluster.releases.config import CanarySettings
from brew_data.prompts.suite import load_suite
from brew_data.schema import micros
from brew_data.sources.synthetic.config import SyntheticConfig
from brew_data.sources.synthetic.generator import generate
from brew_data.split import Split, SplitConfig
from brew_platform.errors import BrewError
from brew_platform.registry.registry import Registry
from brew_platform.storage.local import LocalStore
from brew_serve.client import RankClient
from brew_serve.client.retries import Retries
from brew_serve.http.routing_hints import is_in_share, read_routing_hints
from brew_serve.schemas.rank import RankResponse

URL = "http://127.0.0.1:8000"
EXAMPLE: Any = RankResponse.model_config["json_schema_extra"]["examples"][0]  # type: ignore[index, call-overload]


@pytest.fixture(scope="module")
def data() -> Any:
    tables = generate(SyntheticConfig(members=40, jobs=20, posts=20, interactions_per_member=20))
    split = Split.of(micros(tables.interactions).to_numpy(), SplitConfig(last_days=30))
    return SimpleNamespace(
        tables=lambda: tables,
        bundle=lambda: SimpleNamespace(suite=load_suite("economic_graph")),
        info=SimpleNamespace(split=split),
    )


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    """A registry with the versions 1 and 2; 1 is in production."""
    found = Registry(LocalStore(tmp_path / "registry"))
    for number in (1, 2):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "config.json").write_text(str(number))
        found.publish(tmp_path / str(number), signature={}, lineage={}, metrics={}, author="test")
    found.promote(1, author="test", force=True, reason="the first")
    return found


class Service:
    """Answers as a service that follows the registry: version 2 is up as soon as it is the canary."""

    def __init__(self, registry: Registry, *, version: int = 2, state: str = "up", failing: int = 0) -> None:
        self.registry, self.version, self.state, self.failing = registry, version, state, failing
        self.requests: list[dict[str, Any]] = []
        self.statuses = 0

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.url.path == "/v1/status":
            self.statuses += 1
            events = [event for event in self.registry.events() if event.kind == "canary"]
            versions = [{"version": 1, "role": "production", "share": 1.0, "replicas": 1, "state": "up"}]
            if events and events[-1].share:
                share = events[-1].share
                versions.append({"version": 2, "role": "canary", "share": share, "replicas": 1, "state": self.state})
            return httpx.Response(200, json={"model": "brew360", "alias": "production", "versions": versions})
        body = json.loads(request.content)
        self.requests.append(body)
        if len(self.requests) <= self.failing:
            return httpx.Response(500, json={"error": "out of memory"})
        return httpx.Response(200, json={**EXAMPLE, "version": self.version})

    def client(self) -> RankClient:
        return RankClient(URL, transport=httpx.MockTransport(self), retries=Retries(max_retries=0))


def run(registry: Registry, data: Any, client: RankClient | None, **settings: Any) -> CanaryReport:
    config = CanarySettings(**{"url": URL, "share": 0.2, "requests": 6, **settings})
    return run_canary(config, registry, 2, data, client, author="test", sleep=lambda seconds: None)


def shares(registry: Registry) -> list[float | None]:
    return [event.share for event in registry.events() if event.kind == "canary"]


def test_every_request_is_for_the_canary_and_it_ends(registry: Registry, data: Any) -> None:
    service = Service(registry)
    report = run(registry, data, service.client())
    assert (report.state, report.requests, report.failed) == ("passed", 6, 0), report
    assert report.p99_ms is not None
    keys = [read_routing_hints(json.dumps(body).encode()).key for body in service.requests]
    assert len(set(keys)) == 6
    assert all(is_in_share(key, "canary", 0.2) for key in keys)
    assert shares(registry) == [0.2, 0.0]


@pytest.mark.parametrize(
    ("service", "settings", "reason"),
    [
        ({"version": 1}, {}, r"did not answer 6 of 6 requests .* version 1 answered in its place"),
        ({"failing": 1}, {}, r"did not answer 1 of 6 requests .* first: out of memory"),
        ({"state": "failed"}, {}, "the service could not start version 2"),
        ({"state": "starting"}, {"start_seconds": 0.01}, r"version 2 was starting after 0.01 s"),
        ({}, {"max_p99_ms": 1e-6}, r"99th percentile of 6 requests is \d+ ms \(max_p99_ms is 1e-06\)"),
    ],
)
def test_a_canary_that_fails_ends_with_the_reason_in_the_log(
    service: dict[str, Any], settings: dict[str, Any], reason: str, registry: Registry, data: Any
) -> None:
    report = run(registry, data, Service(registry, **service).client(), **settings)
    assert report.state == "failed"
    assert re.search(reason, report.reason), report.reason
    assert shares(registry) == [0.2, 0.0]
    assert registry.events()[-1].note == report.reason
    assert registry.aliases()["production"] == 1


def test_some_failures_are_allowed(registry: Registry, data: Any) -> None:
    assert run(registry, data, Service(registry, failing=1).client(), max_failed=0.2).state == "passed"


def test_a_canary_that_goes_down_under_traffic_fails(registry: Registry, data: Any) -> None:
    service = Service(registry)

    def sleep(seconds: float) -> None:
        service.state = "down"

    config = CanarySettings(url=URL, share=0.2, requests=2, watch_seconds=60)
    report = run_canary(config, registry, 2, data, service.client(), author="test", sleep=sleep)
    assert (report.state, report.reason) == ("failed", "version 2 was down while it had 0.2 of the traffic.")


def refuse(request: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError("refused", request=request)


def test_without_a_service_the_canary_is_skipped_with_a_sentence(registry: Registry, data: Any) -> None:
    report = run(registry, data, None, url=None)
    assert (report.state, report.reason) == ("skipped", "no service runs: canary.url is not set.")
    client = RankClient(URL, transport=httpx.MockTransport(refuse))
    report = run(registry, data, client)
    assert (report.state, report.reason) == ("skipped", f"no service answers at {URL}.")
    with pytest.raises(BrewError, match=f"is required, but no service answers at {URL}"):
        run(registry, data, client, required=True)
    assert shares(registry) == []


def test_an_interrupted_canary_ends_too(registry: Registry, data: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(canary, "_try", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(registry, data, Service(registry).client())
    assert shares(registry) == [0.2, 0.0]
