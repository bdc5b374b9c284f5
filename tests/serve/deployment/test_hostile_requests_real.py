"""Requests that are made to be expensive, beside health probes, on a running service."""

import json
import threading
import time
from collections.abc import Iterator
from http.client import HTTPConnection
from typing import Any

import pytest
from bench.limits.requests import HOSTILE, Names, body_of, normal_ranking

from brew_data.schema import Tables
from brew_platform.ports import free_port
from brew_serve.version import LoadedVersion

from ..running_ray import RAY, running_ray
from ..served_registry import write_served_registry

pytestmark = [*RAY, pytest.mark.faults]

NAMES = Names(fields=["title", "company"])
MOST_SECONDS = 0.2  # of a probe


@pytest.fixture(scope="module")
def port(version: LoadedVersion, tables: Tables, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    from brew_serve.deployment.online_service import build_app, serve_http

    config = write_served_registry(tmp_path_factory.mktemp("hostile"), [version.folder], tables, cpus=0.4)
    with running_ray():
        serve_http(build_app(config), port=(port := free_port()))
        yield port


def send(port: int, path: str, body: bytes) -> tuple[int, Any]:
    connection = HTTPConnection("127.0.0.1", port, timeout=120)
    connection.request("POST", path, body, {"content-type": "application/json"})
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, json.loads(content)


class Probes:
    """Sends `GET /health` and `GET /ready` until it is left, and records the seconds until each answer."""

    def __init__(self, port: int) -> None:
        self.seconds: list[float] = []
        self.statuses: set[int] = set()
        self._port, self._stop = port, threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        connection = HTTPConnection("127.0.0.1", self._port, timeout=120)
        while not self._stop.wait(0.02):
            for path in ("/health", "/ready"):
                start = time.perf_counter()
                connection.request("GET", path)
                answer = connection.getresponse()
                answer.read()
                self.seconds.append(time.perf_counter() - start)
                self.statuses.add(answer.status)

    def __enter__(self) -> "Probes":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


@pytest.mark.parametrize("name", HOSTILE)
def test_probes_are_answered_at_once_beside_an_expensive_request(port: int, name: str) -> None:
    path, content = HOSTILE[name](NAMES)
    body = body_of(content)
    with Probes(port) as probes:
        time.sleep(0.1)
        status, answer = send(port, path, body)
    assert probes.statuses == {200}
    assert max(probes.seconds) < MOST_SECONDS, f"{name}: {sorted(probes.seconds)[-5:]}"
    assert status in (200, 400, 503), answer


def test_small_expensive_requests_at_once_delay_neither_probes_nor_rankings(port: int) -> None:
    path, content = normal_ranking(NAMES)
    ranking = body_of(content)
    status, first = send(port, path, ranking)
    assert status == 200, first
    hostile = [(path, body_of(content)) for path, content in (make(NAMES) for make in HOSTILE.values())]
    threads = [threading.Thread(target=send, args=(port, *request)) for request in hostile if len(request[1]) < 1e6]
    with Probes(port) as probes:
        for thread in threads:
            thread.start()
        status, again = send(port, path, ranking)
        for thread in threads:
            thread.join()
    assert status == 200, again
    assert {item["id"]: item["score"] for item in again["ranking"]} == pytest.approx(
        {item["id"]: item["score"] for item in first["ranking"]}, abs=1e-5
    )
    assert probes.statuses == {200}
    assert max(probes.seconds) < MOST_SECONDS, sorted(probes.seconds)[-5:]
