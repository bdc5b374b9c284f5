"""A canary whose replicas are dead: production answers, follows promotions, and survives a restart of its gateway."""

import hashlib
import math
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from brew_platform.ports import free_port
from brew_platform.registry.registry import Registry
from brew_serve.version import LoadedVersion

from ..running_ray import RAY, running_ray
from ..served_registry import write_served_registry

pytestmark = [*RAY, pytest.mark.faults]

BODY = {
    "task": "job_apply",
    "member": {"profile": {"title": "nurse"}},
    "candidates": [{"id": "a", "fields": {"title": "pilot"}}],
}


class Service:
    """A service of version 1. Version 2 is the canary, version 3 has NaN in its head, and version 4 is a good one."""

    def __init__(self, url: str, registry: Registry, root: Path) -> None:
        self.url, self.registry, self.root = url, registry, root

    def get(self, path: str) -> httpx.Response:
        return httpx.get(f"{self.url}{path}", timeout=30, trust_env=False)

    def rank(self) -> httpx.Response:
        return httpx.post(f"{self.url}/v1/rank", json=BODY, timeout=30, trust_env=False)

    def states(self) -> dict[int, tuple[str, str]]:
        answer = self.get("/v1/status")
        if answer.status_code != 200:
            return {}
        return {version["version"]: (version["role"], version["state"]) for version in answer.json()["versions"]}

    def lost(self, version: int) -> float:
        """Return the number of requests that a version did not answer."""
        lines = [line for line in self.get("/metrics").text.splitlines() if line.startswith("brew_lost_total{")]
        return sum(float(line.split()[-1]) for line in lines if f'version="{version}"' in line)

    def remove_weights(self, version: int) -> None:
        """Remove a version's weights from the store and from the cache, so that it can never start again."""
        digest = hashlib.sha256((self.root / f"source{version}/model.safetensors").read_bytes()).hexdigest()
        (blob,) = [path for path in (self.root / "store").rglob("*") if digest in path.name]
        blob.unlink()
        (folder,) = (self.root / "versions").glob(f"brew360-{version}-*")
        shutil.rmtree(folder)


def until(found: Callable[[], Any], seconds: float = 60.0) -> Any:
    """Call `found` until it returns a true value, and return that."""
    end = time.monotonic() + seconds
    while not (result := found()):
        assert time.monotonic() < end, "this took too long"
        time.sleep(0.2)
    return result


def replicas(name: str) -> list[psutil.Process]:
    """Return the processes of the replicas of an application, such as brew360-v2."""
    found = []
    for child in psutil.Process().children(recursive=True):
        try:
            if any(f"ServeReplica:{name}:" in part for part in child.cmdline()):
                found.append(child)
        except psutil.Error:
            continue
    return found


@pytest.fixture(scope="module")
def service(version: LoadedVersion, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    from safetensors.torch import load_file, save_file

    from brew_serve.deployment.online_service import build_app, serve_http
    from brew_serve.engines.config import EngineConfig

    root = tmp_path_factory.mktemp("domains")
    folders = []
    for number in range(1, 5):
        folder = shutil.copytree(version.folder, root / f"source{number}")
        weights = folder / "model.safetensors"
        tensors = load_file(weights)
        tensors["lm_head.weight"][0, 0] = math.nan if number == 3 else number
        save_file(tensors, weights, {"format": "pt"})
        folders.append(folder)
    config = write_served_registry(root, folders, engine=EngineConfig(kind="torch"), follow_seconds=0.3, cpus=0.3)
    with running_ray():
        yield Service(serve_http(build_app(config), port=free_port()), config.open_registry(), root)


def test_a_dead_canary_stops_neither_promotions_nor_a_restarted_gateway(service: Service) -> None:
    service.registry.append("canary", 2, author="test", share=1.0)
    until(lambda: service.rank().json().get("version") == 2)
    service.remove_weights(2)
    for process in replicas("brew360-v2"):
        process.kill()
    until(lambda: service.states().get(2) == ("canary", "down"), 30)
    answers = [service.rank() for _ in range(5)]
    assert {(answer.status_code, answer.json().get("version")) for answer in answers} == {(200, 1)}
    assert service.lost(2) >= 5
    assert service.get("/ready").status_code == 200

    (gateway,) = [process for process in replicas("brew360") if "Gateway" in " ".join(process.cmdline())]
    gateway.kill()
    gateway.wait(10)
    until(lambda: [p for p in replicas("brew360") if "Gateway" in " ".join(p.cmdline())], 30)
    until(lambda: service.get("/ready").status_code == 200, 30)
    assert service.rank().json()["version"] == 1

    service.registry.promote(4, force=True, reason="test", author="test")
    until(lambda: service.rank().json().get("version") == 4)
    assert service.states()[2] == ("canary", "down")
    service.registry.append("canary", 2, author="test", share=0)
    until(lambda: set(service.states()) == {4}, 30)


def test_a_version_that_computes_nan_never_gets_a_request(service: Service) -> None:
    service.registry.promote(3, force=True, reason="test", author="test")
    (failed,) = until(lambda: [event for event in service.registry.events() if event.kind == "failed"])
    assert (failed.version, failed.alias) == (3, "production")
    assert "version 3 of brew360 cannot answer: the model computed nan" in failed.note
    assert service.rank().json()["version"] == 4
    assert service.get("/ready").status_code == 200
