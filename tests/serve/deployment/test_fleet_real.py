"""The fleet for real, under load: aliases that move, versions that do not load, SIGKILL, and more replicas and fewer.

One service for all of it, on a Ray of two CPUs. Every answer must be right for the version that it names, whatever
happens meanwhile: its scores are compared with those of the same version when nothing happened.
Each test starts from the state that the previous one left: run the whole file.
"""

import json
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.client import HTTPConnection
from typing import Any

import httpx
import psutil
import pytest

from brew_data.schema import Tables
from brew_platform.ports import free_port
from brew_platform.registry.registry import Registry
from brew_serve.version import LoadedVersion

from ..running_ray import RAY, running_ray
from ..served_registry import write_served_registry

pytestmark = [*RAY, pytest.mark.faults]

MEMBERS = 6
TARGET_TOKENS = 1_200


@dataclass(frozen=True, kw_only=True)
class Answer:
    sent_at: float  # seconds, of time.monotonic
    done: float
    status: int
    retry_after: str | None
    error: str
    version: int
    scores: dict[str, float]


def request(member: int, candidates: int, title: str = "pilot") -> dict[str, Any]:
    return {
        "task": "job_apply",
        "member": {"profile": {"title": f"nurse {member}", "location": "berlin"}, "history": []},
        "candidates": [{"id": f"c{n}", "fields": {"title": f"{title} {n}"}} for n in range(candidates)],
    }


class Service:
    """A service of version 1; its registry also has version 2 with other weights, and version 3 without weights."""

    def __init__(self, url: str, registry: Registry) -> None:
        self.url, self.registry = url, registry
        self._right: dict[tuple[int, int, int], dict[str, float]] = {}  # by version, member and candidates

    def rank(self, http: httpx.Client, member: int, candidates: int = 8) -> Answer:
        sent_at = time.monotonic()
        answer = http.post(f"{self.url}/v1/rank", json=request(member, candidates))
        content = answer.json()
        scores = {item["id"]: item["score"] for item in content.get("ranking", [])}
        found = Answer(
            sent_at=sent_at,
            done=time.monotonic(),
            status=answer.status_code,
            retry_after=answer.headers.get("retry-after"),
            error=content.get("error", ""),
            version=content.get("version", 0),
            scores=scores,
        )
        if found.status == 200:
            right = self._right.setdefault((found.version, member, candidates), scores)
            assert scores == pytest.approx(right, abs=1e-5), f"wrong scores of version {found.version}"
        return found

    def status(self) -> dict[int, tuple[str, str, int]]:
        """Return role, state and number of replicas by version."""
        status = httpx.get(f"{self.url}/v1/status", timeout=10, trust_env=False).json()
        return {
            version["version"]: (version["role"], version["state"], version["replicas"])
            for version in status["versions"]
        }

    def replicas(self) -> int:
        """Return the number of production replicas that answer."""
        return next(count for role, _, count in self.status().values() if role == "production")

    def metric(self, line: str, label: str = "") -> float:
        """Return the sum of the metrics that start with `line` and contain `label`."""
        text = httpx.get(f"{self.url}/metrics", timeout=10, trust_env=False).text
        return sum(
            float(text_line.split()[-1])
            for text_line in text.splitlines()
            if text_line.startswith(line) and label in text_line
        )


class Load:
    """Threads that send requests until they are stopped, and record every response."""

    def __init__(self, service: Service, threads: int = 2, candidates: int = 8) -> None:
        self.answers: list[Answer] = []
        self.errors: list[BaseException] = []
        self._service, self._candidates, self._stop = service, candidates, threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(n,)) for n in range(threads)]

    def _run(self, number: int) -> None:
        try:
            with httpx.Client(timeout=60, trust_env=False) as http:
                while not self._stop.is_set():
                    answer = self._service.rank(http, number % MEMBERS, self._candidates)
                    self.answers.append(answer)
                    if answer.status != 200:
                        time.sleep(0.2)
        except BaseException as error:
            self.errors.append(error)

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        assert not self.errors, self.errors

    @property
    def failed(self) -> list[Answer]:
        return [answer for answer in self.answers if answer.status != 200]


def until(found: Callable[[], Any], seconds: float, pause: float = 0.2) -> Any:
    """Call `found` every `pause` seconds until it returns a true value, and return that."""
    end = time.monotonic() + seconds
    while not (result := found()):
        assert time.monotonic() < end, "this took too long"
        time.sleep(pause)
    return result


def processes(part: str) -> list[psutil.Process]:
    """Return the child processes whose name or command contains `part`."""
    found = []
    for child in psutil.Process().children(recursive=True):
        try:
            if part in child.name() or any(part in word for word in child.cmdline()):
                found.append(child)
        except psutil.Error:
            continue
    return found


@pytest.fixture(scope="module")
def service(version: LoadedVersion, tables: Tables, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    from safetensors.torch import load_file, save_file

    from brew_serve.deployment.online_service import build_app, serve_http

    root = tmp_path_factory.mktemp("fleet")
    folders = []
    for number in (1, 2, 3):
        folder = shutil.copytree(version.folder, root / f"v{number}")
        (weights,) = folder.glob("*.safetensors")
        if number == 2:
            tensors = load_file(weights)
            save_file({**tensors, "lm_head.weight": tensors["lm_head.weight"] * 1.5}, weights, {"format": "pt"})
        elif number == 3:
            weights.unlink()
        folders.append(folder)
    config = write_served_registry(
        root,
        folders,
        tables,
        follow_seconds=0.5,
        max_replicas=2,
        target_tokens=TARGET_TOKENS,
        upscale_seconds=1.0,
        downscale_seconds=5.0,
        cpus=0.4,
    )
    with running_ray():
        yield Service(serve_http(build_app(config), port=free_port()), config.open_registry())


def test_traffic_moves_to_a_new_version_without_a_failed_request(service: Service) -> None:
    (old,) = processes("EngineCor")
    with Load(service) as load:
        until(lambda: len(load.answers) > 20, 60)
        service.registry.promote(2, force=True, reason="test", author="test")
        until(lambda: load.answers[-1].version == 2, 180)
        until(lambda: set(service.status()) == {2}, 60)
        count = len(load.answers)
        until(lambda: len(load.answers) > count + 20, 60)
    assert load.failed == []
    assert {answer.version for answer in load.answers} == {1, 2}
    assert {answer.version for answer in load.answers[count:]} == {2}
    assert service.status() == {2: ("production", "up", 1)}
    until(lambda: not old.is_running() and len(processes("EngineCor")) == 1, 60)  # the old one ends once it is drained


def test_the_old_version_keeps_serving_if_the_new_one_does_not_load(service: Service) -> None:
    with Load(service) as load:
        moved = service.registry.promote(3, force=True, reason="test", author="test").number
        (event,) = until(lambda: [event for event in service.registry.events() if event.number > moved], 120)
        until(lambda: set(service.status()) == {2}, 60)
    assert (event.kind, event.version, event.alias) == ("failed", 3, "production")
    assert "has neither model.safetensors nor" in event.note
    assert load.failed == []
    assert {answer.version for answer in load.answers} == {2}
    time.sleep(3)
    assert len(service.registry.events()) == event.number, "it is not tried again"
    assert service.registry.rollback(author="test").version == 2


def test_a_canary_and_a_shadow_get_their_share(service: Service) -> None:
    with Load(service, threads=1) as load:
        service.registry.append("canary", 1, author="test", share=0.5)
        until(lambda: service.status().get(1, ("",))[0] == "canary", 180)
        time.sleep(2)  # until the gateway knows, too
        with httpx.Client(timeout=60, trust_env=False) as http:
            first = [service.rank(http, member) for member in range(20)]
            again = [service.rank(http, member) for member in range(20)]
        assert [answer.version for answer in first] == [answer.version for answer in again]
        assert {answer.version for answer in first} == {1, 2}
        service.registry.append("shadow", 1, author="test", share=1.0)
        service.registry.append("canary", 1, author="test", share=0)
        until(lambda: service.status()[1][0] == "shadow", 30)
        until(lambda: service.metric("brew_shadow_difference_count") > 50, 60)
        service.registry.append("shadow", 1, author="test", share=0)
        until(lambda: set(service.status()) == {2}, 60)
    assert load.failed == []
    assert service.metric("brew_shadow_difference_sum") > 0
    assert service.metric("brew_shadow_total{", 'outcome="lost"') == 0


@pytest.mark.parametrize("victim", ["ServeReplica:brew360-v", "EngineCor"])
def test_killed_processes_are_replaced_and_callers_get_a_retry_time(service: Service, victim: str) -> None:
    (process,) = processes(victim)
    with Load(service, threads=3) as load:
        until(lambda: len(load.answers) > 20, 60)
        process.send_signal(signal.SIGKILL)
        killed = time.monotonic()
        until(lambda: load.failed, 30)
        until(lambda: load.answers[-1].status == 200 and load.answers[-1].sent_at > load.failed[-1].done, 180)
        up = time.monotonic()
        count = len(load.answers)
        until(lambda: len(load.answers) > count + 20, 60)
    assert {answer.status for answer in load.failed} == {503}, load.failed
    assert all(int(answer.retry_after or 0) >= 1 for answer in load.failed)
    assert all(killed - 1 < answer.done < up for answer in load.failed)
    assert all(answer.done - answer.sent_at < 10 for answer in load.failed), "no request waits for a restart"
    assert process.pid not in [child.pid for child in processes(victim)]
    print(f"\n{victim}: {len(load.failed)} of {len(load.answers)} refused, up again after {up - killed:.1f} s")


def test_replicas_follow_the_load_without_errors(service: Service) -> None:
    with Load(service, threads=14, candidates=40) as load:
        until(lambda: service.replicas() == 2, 240)
        count = len(load.answers)
        until(lambda: len(load.answers) > count + 60, 120)
        both = _replicas(service)
    assert load.failed == []
    assert len(both) == 2, "both replicas did some of the work"
    with Load(service, threads=1) as load:
        until(lambda: service.replicas() == 1, 180)
        time.sleep(2)
    assert load.failed == []
    until(lambda: len(processes("EngineCor")) == 1, 60)


def test_client_disconnects_free_the_engine(service: Service) -> None:
    """The last test: its load can start another replica."""
    before = service.metric("brew_engine_prompts_total{")
    url = httpx.URL(service.url)
    callers = [HTTPConnection(url.host, url.port or 80) for _ in range(4)]
    for member, caller in enumerate(callers):
        long = request(member, 1_000, title="nurse, welder, teacher, chef, pilot, editor, engineer, scientist " * 3)
        caller.request("POST", "/v1/rank", json.dumps(long), {"content-type": "application/json"})
    until(lambda: service.metric("brew_engine_prompts_total{") > before, 30, pause=0.01)
    for caller in callers:
        caller.close()
    until(lambda: service.metric("brew_outstanding_tokens{") == 0, 20)
    computed = service.metric("brew_engine_prompts_total{") - before
    assert 0 < computed < 3_500, "of 4,000, those that were being computed when the callers left"
    with httpx.Client(timeout=60, trust_env=False) as http:
        assert service.rank(http, 0).status == 200


def _replicas(service: Service) -> set[str]:
    """Return the replicas that have scored candidates."""
    text = httpx.get(f"{service.url}/metrics", timeout=10, trust_env=False).text
    lines = [
        text_line
        for text_line in text.splitlines()
        if text_line.startswith("brew_items_total{") and float(text_line.split()[-1]) > 0
    ]
    return {text_line.split('replica="')[1].split('"')[0] for text_line in lines}
