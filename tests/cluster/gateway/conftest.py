"""A gateway on a store in memory and a fake cluster."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from brew_cluster.gateway.config import GatewayConfig
from brew_cluster.gateway.controller import JobController
from brew_cluster.gateway.job_gateway import JobGateway, TeamTable
from brew_cluster.gateway.ledger import Ledger
from brew_cluster.gateway.service import JobService
from brew_platform.identity.keys import create_key

from ...platform.registry.memory_store import MemoryStore
from .fake_cluster import Clock, FakeCluster


@pytest.fixture(autouse=True)
def other_tests_read_environment() -> Iterator[None]:
    """A gateway's process lets no recipe read environment variables; other tests of this process do."""
    yield
    OmegaConf.clear_resolvers()  # and registers the default ones


@dataclass
class Gateway:
    """Everything of a gateway; `restart` makes a new process of it on the same store and cluster."""

    config: GatewayConfig
    store: Any = field(default_factory=MemoryStore)
    clock: Clock = field(default_factory=Clock)
    cluster: Any = None

    def __post_init__(self) -> None:
        self.cluster = self.cluster or FakeCluster(self.clock)
        self.restart()

    def restart(self) -> None:
        teams = TeamTable(Path(self.config.keys_path))
        self.ledger = Ledger(self.store, self.config.name, clock=self.clock)
        gateway = JobGateway(ledger=self.ledger, executor=self.cluster, config=self.config, teams=teams)
        self.controller = JobController(gateway)
        self.service = JobService(gateway, clock=self.clock, problem=lambda: self.controller.problem)

    def step(self, *, seconds: float = 2.0) -> None:
        self.clock.now += seconds
        self.controller.step()


@pytest.fixture
def keys(tmp_path: Path) -> dict[str, str]:
    """The keys of the teams feed, ads (higher priority), ops (admin) and web (no jobs), by team."""
    path = tmp_path / "keys.yaml"
    return {
        "feed": create_key(path, "feed", scopes={"jobs"}, concurrent_gpus=8, gpu_hours_per_month=100),
        "ads": create_key(path, "ads", scopes={"jobs"}, priority=5),
        "ops": create_key(path, "ops", scopes={"admin"}),
        "web": create_key(path, "web", scopes={"rank"}),
    }


@pytest.fixture
def make_gateway(tmp_path: Path, keys: dict[str, str]) -> Callable[..., Gateway]:
    """A function that makes a gateway of a cluster with 8 GPUs."""

    def make(**changes: Any) -> Gateway:
        settings: dict[str, Any] = {"keys_path": str(tmp_path / "keys.yaml"), "gpus": 8, "cpus": 32}
        objects = {name: changes.pop(name) for name in ("store", "clock", "cluster") if name in changes}
        return Gateway(GatewayConfig(**settings | changes), **objects)

    return make


@pytest.fixture
def gateway(make_gateway: Callable[..., Gateway]) -> Gateway:
    """A gateway of a cluster with 8 GPUs."""
    return make_gateway()
