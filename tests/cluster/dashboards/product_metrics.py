"""The metrics of all parts of brew360, as the code of each part exports them after some activity.

Names come from the code, so a metric that is renamed there is missed by the rules and dashboards that use its old name.
"""

import random
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from fastapi.testclient import TestClient
from prometheus_client import CollectorRegistry, Gauge, generate_latest

from brew_cluster.gateway.app import create_app
from brew_cluster.releases.metrics import METRICS_FILE, write_metrics
from brew_platform.registry.events import Event
from brew_serve.deployment.fleet_metrics import FleetCollector
from brew_serve.engines.base import EngineUsage
from brew_serve.metrics import Meters, merged
from brew_serve.nearline.metrics import NearlineCollector
from brew_serve.nearline.outbox import Job, Outbox
from brew_serve.schemas.status import FleetStatus, VersionStatus
from brew_train.telemetry import prometheus as training
from brew_train.telemetry.goodput import CAUSES, Goodput
from brew_train.telemetry.recorder import MEASURES

from ..gateway.conftest import Gateway

__all__ = ["Product", "metric_names"]


class Product:
    """A service, a run, a job gateway and a release. Each call of `text` follows more activity.

    Args:
        folder: For the files of the outbox and the release.
        gateway: A job gateway with the team `feed`.
        key: Of an operator of the job gateway.
        job_key: Of the team `feed`.
        clock: Seconds since 1970.
    """

    def __init__(self, folder: Path, gateway: Gateway, *, key: str, job_key: str, clock: Any) -> None:
        self._clock, self._rng, self._calls = clock, random.Random(1), 0
        self._folder = folder
        self._front, self._replica = Meters(), Meters(self._usage)
        self._outbox = Outbox(folder / "outbox.sqlite")
        self._front.add(NearlineCollector(self._outbox.backlog, lambda: "", clock=clock))
        jobs = [Job(job_id=f"event:{n}", kind="event", member_id="m", payload={}) for n in range(3)]
        self._outbox.accept(jobs, clock() - 40)
        self._fleet = FleetCollector(
            lambda: FleetStatus(
                model="brew360",
                alias="production",
                versions=[
                    VersionStatus(version=3, role="production", share=1.0, replicas=2, state="up"),
                    VersionStatus(version=4, role="canary", share=0.1, replicas=1, state="up"),
                ],
            ),
            self._events,
            lambda: clock() - 2,
        )
        self._jobs = TestClient(create_app(gateway.service, gateway.controller))
        self._gateway, self._key = gateway, key
        self._job_key = job_key

    def text(self) -> str:
        """Return the metrics in Prometheus' text format."""
        self._calls += 1
        self._serve()
        service = merged({"g1": self._front.text(), "r1": self._replica.text(), "controller": self._fleet.text()})
        self._submit()
        self._gateway.step()
        jobs = self._jobs.get("/metrics", headers={"authorization": f"Bearer {self._key}"}).text
        return "".join([service.decode(), jobs, self._release(), self._training()])

    def close(self) -> None:
        self._outbox.close()

    def _usage(self) -> EngineUsage:
        return EngineUsage(prompts=self._calls, prompt_tokens=5_000 * self._calls, cached_tokens=3_000 * self._calls)

    def _events(self) -> list[Event]:
        kinds = ["promote", "canary"] * (1 + self._calls // 5)
        return [
            Event(number=n, kind=kind, version=n, alias=None, author="t", time="")
            for n, kind in enumerate(kinds, start=1)
        ]

    def _serve(self) -> None:
        front, replica = self._front, self._replica
        for team in ("feed", "ads"):
            for _ in range(self._rng.randrange(20, 40)):
                front.requests.labels("/v1/rank", "200", team).inc()
                front.request_seconds.labels("/v1/rank").observe(self._rng.uniform(0.02, 0.2))
            front.requests.labels("/v1/events", "202", team).inc(3)
            front.waiting.labels(team).set(self._rng.randrange(5))
        for stage in ("queue", "receive", "prepare", "score", "answer"):
            replica.stage_seconds.labels(stage).observe(self._rng.uniform(0.001, 0.05))
        replica.items.labels("job_apply", "3").inc(200)
        replica.score.labels("job_apply", "3").observe(self._rng.random())
        replica.invalid.labels("4").inc(0)
        replica.unscored.labels("job_apply").inc(1)
        replica.answer_rows.labels("written").inc(200)
        replica.answer_rows.labels("dropped").inc(0)
        front.shed.labels("quota").inc()
        replica.outstanding_tokens.set(self._rng.randrange(20_000))
        replica.tokens_per_second.set(20_000)
        front.lost.labels("4").inc(0)
        front.shadow.labels("5", "compared").inc()
        front.shadow_difference.labels("5").observe(0.001)

    def _submit(self) -> None:
        """Submit a job that waits, one that runs and one that is refused, and end those of the time before."""
        for run in self._gateway.cluster.active():
            self._gateway.cluster.end(run, "succeeded")
        headers = {"authorization": f"Bearer {self._job_key}"}
        for number, gpus in enumerate((8, 8, 1_000)):
            job = {"kind": "entrypoint", "entrypoint": "x", "gpus": gpus}
            body = {"job": job, "request_id": f"{self._calls:08d}{number:08d}"}
            self._jobs.post("/v1/jobs", headers=headers, json=body)

    def _release(self) -> str:
        release: Any = SimpleNamespace(
            name="spring", steps=[SimpleNamespace(name="train")], read_output=lambda _: {"number": 4}
        )
        state = SimpleNamespace(seconds=40.0, state="done")
        with patch("brew_cluster.releases.metrics.step_state", lambda step: state):
            write_metrics(release, self._folder)
        return (self._folder / METRICS_FILE).read_text()

    def _training(self) -> str:
        """Return the gauges of a run, in the format of Ray's endpoint."""
        registry = CollectorRegistry()

        class RayGauge:
            def __init__(self, name: str, description: str, tag_keys: tuple[str, ...]) -> None:
                self._gauge = Gauge(f"ray_{name}", description, [*tag_keys, "WorkerId"], registry=registry)

            def set(self, value: float, tags: dict[str, str]) -> None:
                self._gauge.labels(**tags, WorkerId="w1").set(value)

        seconds = 20.0 * self._calls
        row: dict[str, Any] = dict.fromkeys(MEASURES, 1.0)
        row |= {"time": self._clock(), "stage": "cpt", "attempt": "a", "skipped": False, "evaluation": {"loss": 2.0}}
        lost = dict.fromkeys(CAUSES, 0.0) | {"data": seconds * 0.1}
        goodput = Goodput(
            held_seconds=seconds,
            productive_seconds=seconds * 0.9,
            lost=lost,
            restarts=0,
            repeated_steps=0,
            skipped_steps=0,
        )
        with patch.object(training, "Gauge", RayGauge):
            sink = training.PrometheusSink(run="spring", team="feed")
            sink.step(row, goodput)
            sink.close()
        return generate_latest(registry).decode()


def metric_names(text: str) -> Iterator[str]:
    """Yield the names of the series of a text, also of metrics that have no series yet."""
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split()
            yield from (f"{name}{part}" for part in ("_bucket", "_sum", "_count")) if kind == "histogram" else (name,)
