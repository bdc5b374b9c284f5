"""The routes of a gateway: production first, and no version waits for another one."""

import asyncio
import warnings
from collections.abc import AsyncIterator
from typing import Any
from unittest.mock import AsyncMock, Mock

import pytest

from brew_data.prompts.suite import TaskSuite
from brew_serve.config import AppConfig
from brew_serve.deployment.version_reconciler import Target
from brew_serve.errors import Lost

with warnings.catch_warnings():  # of Ray's own, when it is imported
    warnings.simplefilter("ignore")
    from brew_serve.deployment import gateway as module
    from brew_serve.deployment.gateway import FleetBackend

PRODUCTION = Target(role="production", version=1)
CANARY = Target(role="canary", version=2, share=0.1)
SHADOW = Target(role="shadow", version=3, share=0.1)


class Calls:
    """Versions that answer, hang, or have no replica."""

    def __init__(self, suite: TaskSuite) -> None:
        self.suite, self.hanging, self.dead = suite, set[int](), set[int]()

    def handle(self, deployment: str, app: str) -> Any:
        number = int(app.rsplit("v", 1)[1])

        async def describe() -> dict[str, Any]:
            if number in self.hanging:
                await asyncio.Event().wait()
            if number in self.dead:
                raise Lost("no replica that could answer is up now.")
            return self.suite.to_dict()

        async def metrics(timeout_s: float, return_exceptions: bool) -> list[tuple[str, bytes]]:
            async with asyncio.timeout(timeout_s):
                await describe()
            return [(f"v{number}", b"# TYPE a counter\na_total 1.0\n")]

        broadcast = Mock(return_value=Mock(results_async=metrics))
        return Mock(describe=Mock(remote=describe), broadcast=broadcast, app_name=app)


@pytest.fixture
def calls(suite: TaskSuite, monkeypatch: pytest.MonkeyPatch) -> Calls:
    calls = Calls(suite)
    monkeypatch.setattr(module.serve, "get_deployment_handle", calls.handle)
    monkeypatch.setattr(module, "_READ_SECONDS", 0.05)
    return calls


@pytest.fixture
async def gateway(calls: Calls) -> AsyncIterator[FleetBackend]:
    backend = FleetBackend(Mock(), AppConfig(registry_url="store", cache_folder="versions"))
    yield backend
    for task in backend._first_calls.values():
        task.cancel()


def shown(backend: FleetBackend) -> list[tuple[str, int, bool]]:
    return [(target.role, target.version, target.up) for target in backend._forwarder.targets]


async def update(backend: FleetBackend, *targets: Target) -> list[tuple[str, int, bool]]:
    """Update the routes, and return those of the next time, when every version that answers has done so."""
    await backend._update_routes(targets)
    await asyncio.sleep(0.01)
    await backend._update_routes(targets)
    return shown(backend)


@pytest.mark.parametrize("state", ["hanging", "dead"])
async def test_production_follows_promotions_whatever_canary_and_shadow_do(
    state: str, calls: Calls, gateway: FleetBackend
) -> None:
    setattr(calls, state, {2, 3})
    assert await update(gateway, PRODUCTION, CANARY, SHADOW) == [("production", 1, True)]
    assert gateway.check_health() == 1, "a gateway that has just started is healthy, too"
    promoted = Target(role="production", version=4)
    assert await update(gateway, promoted, CANARY, SHADOW) == [("production", 4, True)]
    setattr(calls, state, set())
    await asyncio.sleep(0.06)
    assert await update(gateway, promoted, CANARY, SHADOW) == [
        ("production", 4, True),
        ("canary", 2, True),
        ("shadow", 3, True),
    ]
    assert set(gateway.suites) == set(gateway._handles) == {2, 3, 4}
    assert await update(gateway, promoted) == [("production", 4, True)]
    assert set(gateway.suites) == set(gateway._handles) == {4}


async def test_a_canary_that_is_down_stays_in_the_routes_so_that_its_requests_are_counted(
    calls: Calls, gateway: FleetBackend
) -> None:
    calls.dead = {2}
    down = Target(role="canary", version=2, share=0.1, up=False)
    assert await update(gateway, PRODUCTION, down) == [("production", 1, True), ("canary", 2, False)]


@pytest.mark.parametrize("state", ["hanging", "dead"])
async def test_production_that_does_not_answer_leaves_its_requests_to_the_previous_version(
    state: str, calls: Calls, gateway: FleetBackend
) -> None:
    await update(gateway, PRODUCTION)
    setattr(calls, state, {4})
    assert await update(gateway, Target(role="production", version=4), CANARY) == [
        ("production", 1, True),
        ("canary", 2, True),
    ]
    setattr(calls, state, set())
    await asyncio.sleep(0.06)
    assert (await update(gateway, Target(role="production", version=4)))[0] == ("production", 4, True)
    assert set(gateway._handles) == {4}


async def test_a_restarted_gateway_is_healthy_but_not_ready_while_production_is_dead(
    calls: Calls, gateway: FleetBackend
) -> None:
    calls.dead = {1}
    assert await update(gateway, PRODUCTION, CANARY) == [("production", 1, False), ("canary", 2, True)]
    assert gateway.check_health() == 1
    gateway._replicas = 1
    with pytest.raises(Lost, match="no replica of version 1 is up; one is being started"):
        gateway.check_ready()
    calls.dead = set()
    assert (await update(gateway, PRODUCTION))[0] == ("production", 1, True)
    assert gateway.check_ready() == 1


async def test_empty_routes_of_a_restarted_controller_change_nothing(calls: Calls, gateway: FleetBackend) -> None:
    routes = await update(gateway, PRODUCTION, CANARY)
    assert await update(gateway) == routes


@pytest.mark.parametrize("state", ["hanging", "dead"])
async def test_metrics_of_a_version_that_fails_do_not_hide_the_others(
    state: str, calls: Calls, gateway: FleetBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    await update(gateway, PRODUCTION, CANARY)
    setattr(calls, state, {2})
    monkeypatch.setattr(module.serve, "get_replica_context", lambda: Mock(replica_id=Mock(unique_id="g")))
    answers = {"routes": ([], 1), "metrics": b"# TYPE b gauge\nb 2.0\n"}
    gateway._controller.options = lambda method_name: Mock(remote=AsyncMock(return_value=answers[method_name]))
    text = (await gateway.metrics()).decode()
    assert 'replica="v1"' in text
    assert 'replica="v2"' not in text
    assert 'b{replica="controller"} 2.0' in text
    gateway._controller.options = lambda method_name: Mock(remote=AsyncMock(side_effect=TimeoutError))
    assert 'replica="v1"' in (await gateway.metrics()).decode(), "the controller restarts"


async def test_a_scrape_has_the_metrics_of_all_gateways(
    calls: Calls, gateway: FleetBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def results(timeout_s: float, return_exceptions: bool) -> list[tuple[str, bytes]]:
        return [("g1", gateway.meters.text()), ("g2", b"# TYPE brew_requests counter\nbrew_requests_total 7.0\n")]

    def handle(deployment: str, app: str) -> Any:
        if deployment == "Gateway":
            return Mock(broadcast=Mock(return_value=Mock(results_async=results)), app_name=app)
        return calls.handle(deployment, app)

    monkeypatch.setattr(module.serve, "get_deployment_handle", handle)
    monkeypatch.setattr(module.serve, "get_replica_context", lambda: Mock(replica_id=Mock(unique_id="g1")))
    gateway._controller.options = lambda method_name: Mock(remote=AsyncMock(side_effect=TimeoutError))
    gateway._gateways = 2
    gateway.meters.lost.labels("1").inc()
    text = (await gateway.metrics()).decode()
    assert text.count("brew_lost_total{") == 1, "each gateway is counted once"
    assert 'brew_requests_total{replica="g2"} 7.0' in text


async def test_waiting_work_is_shared_by_the_replicas_of_production(gateway: FleetBackend) -> None:
    await gateway._update_routes([PRODUCTION])
    gateway._gateways, gateway._replicas = 2, 3
    assert gateway._waiting_per_replica(1, 9_000) == 6_000
    assert gateway._waiting_per_replica(2, 9_000) == 0, "a canary is not scaled by it"
    gateway._replicas = 0
    assert gateway._waiting_per_replica(1, 9_000) == 18_000
