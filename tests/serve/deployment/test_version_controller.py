"""The version controller on a fake Serve: one version's failures, and a registry that cannot be used for a while."""

import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest

from brew_platform.errors import RegistryError
from brew_platform.registry.registry import Registry
from brew_platform.storage.local import LocalStore

with warnings.catch_warnings():  # of Ray's own, when it is imported
    warnings.simplefilter("ignore")
    from ray.serve.schema import ApplicationStatus

    from brew_serve.deployment import version_controller as module
    from brew_serve.deployment.version_controller import VersionController


class FakeServe:
    """Applications by version, each with its status and its number of running replicas."""

    def __init__(self) -> None:
        self.seen: dict[int, tuple[ApplicationStatus, int]] = {}
        self.silent: set[int] = set()  # versions that do not answer
        self.refused: set[int] = set()  # versions that Serve neither starts nor deletes
        self.deleted: list[int] = []

    def status(self) -> Any:
        return SimpleNamespace(
            applications={
                f"brew360-v{number}": SimpleNamespace(
                    status=status,
                    message="",
                    deployments={
                        "Replica": SimpleNamespace(replica_states={"RUNNING": replicas}, message="ValueError: no.")
                    },
                )
                for number, (status, replicas) in self.seen.items()
            }
        )

    def run_many(self, targets: list[Any], *, wait_for_applications_running: bool) -> None:
        for target in targets:
            number = number_of(target.name)
            if number in self.refused:
                raise RuntimeError("Serve cannot do that")
            self.seen[number] = (ApplicationStatus.DEPLOYING, 0)

    def delete(self, name: str, _blocking: bool) -> None:
        if number_of(name) in self.refused:
            raise RuntimeError("Serve cannot do that")
        self.deleted.append(number_of(name))
        del self.seen[number_of(name)]

    def get_deployment_handle(self, deployment: str, name: str) -> Any:
        def result(timeout_s: float) -> None:
            assert timeout_s < 1, "no version delays the others"
            if number_of(name) in self.silent:
                raise TimeoutError

        return Mock(describe=Mock(remote=lambda: Mock(result=result)))


def number_of(name: str) -> int:
    return int(name.removeprefix("brew360-v"))


class Fleet:
    """A controller whose steps a test makes, with a registry of five versions of which 1 serves."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (folder / "files").mkdir()
        (folder / "files" / "model").write_text("x")
        self.registry = Registry(LocalStore(folder / "store"))
        for _ in range(5):
            self.registry.publish(folder / "files", signature={}, lineage={}, metrics={}, author="t")
        self.serve = FakeServe()
        monkeypatch.setattr(module, "serve", self.serve)
        monkeypatch.setattr(module.threading, "Thread", Mock())
        monkeypatch.setattr(module, "replica_app", Mock())
        monkeypatch.setattr(module, "open_service_log", Mock())
        monkeypatch.setattr(module, "RunTarget", SimpleNamespace)
        self.controller = self.new_controller()
        self.promote(1)
        self.step()
        self.runs(1)
        self.step()
        assert self.routes() == [("production", 1, True)]

    def new_controller(self, alias: str = "production") -> VersionController:
        config: Any = SimpleNamespace(
            open_registry=lambda: self.registry,
            alias=alias,
            model="brew360",
            nearline=None,
            log_key="",
            start_seconds=100.0,
            follow_seconds=1.0,
        )
        return VersionController(config)

    def promote(self, number: int) -> None:
        self.registry.promote(number, force=True, reason="test", author="t")

    def runs(self, *numbers: int, replicas: int = 1) -> None:
        status = ApplicationStatus.RUNNING if replicas else ApplicationStatus.UNHEALTHY
        self.serve.seen |= dict.fromkeys(numbers, (status, replicas))

    def step(self) -> None:
        self.controller._follow_once()

    def routes(self) -> list[tuple[str, int, bool]]:
        return [(target.role, target.version, target.up) for target in self.controller.routes()[0]]

    def states(self) -> dict[int, tuple[str, str, int]]:
        return {v.version: (v.role, v.state, v.replicas) for v in self.controller.status().versions}


@pytest.fixture
def fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fleet:
    return Fleet(tmp_path, monkeypatch)


def test_up_is_taken_back_when_the_replicas_of_a_version_die(fleet: Fleet) -> None:
    fleet.registry.append("canary", 2, author="t", share=0.5)
    fleet.step()
    fleet.runs(2)
    fleet.step()
    assert fleet.states() == {1: ("production", "up", 1), 2: ("canary", "up", 1)}
    fleet.runs(2, replicas=0)
    fleet.step()
    assert fleet.states() == {1: ("production", "up", 1), 2: ("canary", "down", 0)}
    assert fleet.routes() == [("production", 1, True), ("canary", 2, False)]
    fleet.runs(2)
    fleet.step()
    assert fleet.routes() == [("production", 1, True), ("canary", 2, True)]


def test_serve_that_gives_up_a_version_that_was_up_does_not_remove_production(fleet: Fleet) -> None:
    fleet.serve.seen[1] = (ApplicationStatus.DEPLOY_FAILED, 0)
    for _ in range(5):
        fleet.step()
    assert fleet.states() == {1: ("production", "down", 0)}
    assert (fleet.routes(), fleet.serve.deleted) == ([("production", 1, False)], [])


def test_a_version_that_hangs_while_it_starts_does_not_delay_promotions(fleet: Fleet) -> None:
    fleet.registry.append("shadow", 2, author="t", share=0.5)
    fleet.step()
    fleet.runs(2)
    fleet.serve.silent = {2}
    fleet.step()
    assert fleet.states()[2] == ("none", "starting", 1)
    fleet.promote(3)
    fleet.step()
    fleet.runs(3)
    fleet.step()
    assert fleet.routes() == [("production", 3, True)]
    fleet.serve.silent = set()
    fleet.step()
    assert fleet.routes() == [("production", 3, True), ("shadow", 2, True)]


def test_a_version_that_serve_cannot_start_does_not_stop_the_others(fleet: Fleet) -> None:
    fleet.serve.refused = {2}
    fleet.registry.append("canary", 2, author="t", share=0.5)
    fleet.step()
    fleet.promote(3)
    fleet.step()
    fleet.runs(3)
    fleet.step()
    assert fleet.routes() == [("production", 3, True)]
    fleet.serve.refused = set()
    fleet.step()
    assert 2 in fleet.serve.seen


def test_a_version_that_fails_to_start_is_recorded_once(fleet: Fleet) -> None:
    fleet.promote(2)
    fleet.step()
    fleet.serve.seen[2] = (ApplicationStatus.DEPLOY_FAILED, 0)
    fleet.step()
    fleet.step()
    failed = [event for event in fleet.registry.events() if event.kind == "failed"]
    assert [(event.version, event.alias) for event in failed] == [(2, "production")]
    assert failed[0].note == "could not be served as production: the service did not start: ValueError: no."
    assert (fleet.routes(), fleet.serve.deleted) == ([("production", 1, True)], [2])


@pytest.fixture
def broken(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that lets methods of the registry fail, until it is called without a name."""

    def fail(*_: object, **__: object) -> None:
        raise RegistryError("event 3 is damaged")

    def let(*names: str) -> None:
        monkeypatch.setattr(fleet.controller, "_registry", SimpleNamespace(**vars_of(names)))

    def vars_of(names: tuple[str, ...]) -> dict[str, Any]:
        return {name: fail if name in names else getattr(fleet.registry, name) for name in ("events", "append")}

    return let


def test_production_goes_on_while_the_registry_cannot_be_read(fleet: Fleet, broken: Callable[..., None]) -> None:
    fleet.registry.append("canary", 2, author="t", share=0.5)
    fleet.step()
    fleet.runs(2)
    fleet.step()
    broken("events", "append")
    fleet.runs(2, replicas=0)
    fleet.step()
    assert fleet.routes() == [("production", 1, True), ("canary", 2, False)], "versions are still observed"
    fleet.serve.seen.pop(1)
    fleet.step()
    assert 1 in fleet.serve.seen, "production is still started again"
    fleet.promote(3)
    fleet.step()
    assert 3 not in fleet.serve.seen
    broken()
    fleet.step()
    assert 3 in fleet.serve.seen


def test_a_failure_is_recorded_when_the_registry_can_be_written_again(
    fleet: Fleet, broken: Callable[..., None]
) -> None:
    broken("append")
    fleet.promote(2)
    fleet.step()
    fleet.serve.seen[2] = (ApplicationStatus.DEPLOY_FAILED, 0)
    for _ in range(3):
        fleet.step()
    assert fleet.serve.deleted == [2], "the version is removed nevertheless"
    assert [event.kind for event in fleet.registry.events()][-1] == "promote"
    broken()
    for _ in range(2):
        fleet.step()
    assert [event.kind for event in fleet.registry.events()][-2:] == ["promote", "failed"]


def test_a_restarted_controller_without_a_registry_removes_nothing(
    fleet: Fleet, broken: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet.controller = fleet.new_controller()
    monkeypatch.setattr(fleet.controller, "_registry", Mock(events=Mock(side_effect=RegistryError("down"))))
    for _ in range(3):
        fleet.step()
    assert (fleet.routes(), fleet.serve.deleted) == ([], []), "gateways keep their routes"


def test_a_fixed_version_needs_no_event(tmp_path: Path, fleet: Fleet) -> None:
    (tmp_path / "other").mkdir()
    fleet.registry = Registry(LocalStore(tmp_path / "other"))
    fleet.controller = fleet.new_controller("1")
    fleet.step()
    assert fleet.routes() == [("production", 1, True)]


def test_metrics_show_the_versions_and_the_log_of_the_registry(fleet: Fleet) -> None:
    def metrics() -> dict[str, float]:
        lines = fleet.controller.metrics().decode().splitlines()
        return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if line[0] != "#"}

    assert b"brew_registry_events_total{" not in fleet.new_controller().metrics(), "zeros would be a reset of counters"
    fleet.registry.append("canary", 2, author="t", share=0.5)
    fleet.step()
    fleet.runs(2, replicas=3)
    fleet.step()
    found = metrics()
    assert found['brew_version_up{role="production",version="1"}'] == 1
    assert found['brew_version_replicas{role="canary",version="2"}'] == 3
    assert found['brew_registry_events_total{kind="promote"}'] == 1
    assert found['brew_registry_events_total{kind="failed"}'] == 0
    read_at = found["brew_registry_read_timestamp_seconds"]
    assert read_at > 1e9
    fleet.runs(2, replicas=0)
    fleet.registry.events = Mock(side_effect=RegistryError("no"))
    fleet.step()
    found = metrics()
    assert found['brew_version_up{role="canary",version="2"}'] == 0
    assert found["brew_registry_read_timestamp_seconds"] == read_at
