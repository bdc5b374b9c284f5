"""The loop of the gateway: a kill at every call, several gateways, lost and foreign jobs, a cluster that is down."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bench.platform.faulty_store import FaultyStore
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from brew_cluster.gateway.controller import JobController, end_of
from brew_cluster.gateway.executor import ClusterUnavailable, ForeignRun, Run, RunState
from brew_cluster.gateway.job_gateway import JobGateway, TeamTable
from brew_cluster.gateway.ledger import Ledger
from brew_cluster.gateway.service import Caller, JobService
from brew_cluster.gateway.state import fold
from brew_platform.errors import StorageError
from brew_platform.identity.keys import Team

from ...platform.registry.memory_store import MemoryStore
from .conftest import Gateway
from .fake_cluster import Clock, Crash, CrashingCalls, FakeCluster

FEED = Caller(team=Team(name="feed", concurrent_gpus=8), key_id="0" * 8)
ADS = Caller(team=Team(name="ads", priority=5), key_id="1" * 8)
MakeGateway = Callable[..., Gateway]
ACTS = ("step", "submit", "cancel", "end", "fail")


def body(number: int, gpus: int) -> bytes:
    job = f'{{"kind": "entrypoint", "entrypoint": "x", "gpus": {gpus}, "retries": 1}}'
    return f'{{"job": {job}, "request_id": "{number:016d}"}}'.encode()


def work(make: Callable[[], tuple[JobService, JobController]], clock: Clock, cluster: FakeCluster) -> None:
    """Submit jobs that preempt, cancel, fail and succeed. Each act is repeated until it succeeds, as callers do.

    Args:
        make: Starts a gateway, after each crash another one.
    """
    service, controller = make()

    def insist(act: Callable[[], Any]) -> Any:
        nonlocal service, controller
        while True:
            try:
                return act()
            except (Crash, StorageError):
                service, controller = make()

    def step() -> None:
        clock.now += 2
        insist(lambda: controller.step())

    for number, gpus in enumerate((8, 2)):
        insist(lambda number=number, gpus=gpus: service.submit(FEED, body(number, gpus)))
    step()
    insist(lambda: service.submit(ADS, body(7, 8)))
    for _ in range(3):
        step()
    urgent = insist(lambda: service.jobs(ADS, all_teams=False, ended=False))[0].id
    cluster.end(f"brew360-{urgent}-1", "failed", exit_code=1)
    for _ in range(3):
        step()
    cluster.end(f"brew360-{urgent}-2", "succeeded")
    for _ in range(3):
        step()
    newest, oldest = insist(lambda: service.jobs(FEED, all_teams=False, ended=False))
    insist(lambda: service.cancel(FEED, newest.id))
    step()
    cluster.end(f"brew360-{oldest.id}-2", "succeeded")
    for _ in range(3):
        step()


def check(store: MemoryStore, cluster: FakeCluster, clock: Clock) -> None:
    """Every job has its one end, every attempt ran once, and the cluster runs nothing that the ledger does not have."""
    state = fold(Ledger(store, "brew360", clock=clock).events())
    assert sorted((job.team, job.state) for job in state.jobs.values()) == [
        ("ads", "succeeded"), ("feed", "cancelled"), ("feed", "succeeded"),
    ]  # fmt: skip
    assert all(len(job.attempts) == 2 for job in state.jobs.values() if job.state == "succeeded")
    assert cluster.active() == []
    assert len(set(cluster.starts)) == len(cluster.starts)
    attempts = {f"brew360-{job.id}-{attempt.number}" for job in state.jobs.values() for attempt in job.attempts}
    assert set(cluster.starts) <= attempts


@pytest.mark.parametrize("segment", [8_192, 5])
def test_a_kill_at_any_call_loses_no_job_and_runs_none_twice(
    make_gateway: MakeGateway, monkeypatch: pytest.MonkeyPatch, segment: int
) -> None:
    monkeypatch.setattr("brew_cluster.gateway.ledger.SEGMENT", segment)
    config, calls = make_gateway().config, 0
    at = 0
    while at <= calls:
        store, clock, shared = MemoryStore(), Clock(), {"calls": 0, "at": at}
        cluster = FakeCluster(clock)

        def make(store: Any = store, cluster: Any = cluster, clock: Clock = clock, shared: Any = shared) -> Any:

            ledger = Ledger(CrashingCalls(store, shared, ("put_if_absent",)), config.name, clock=clock)
            executor: Any = CrashingCalls(cluster, shared, ("submit", "state", "stop"))
            teams = TeamTable(Path(config.keys_path))
            parts = JobGateway(ledger=ledger, executor=executor, config=config, teams=teams)
            return JobService(parts, clock=clock), JobController(parts)

        work(make, clock, cluster)
        check(store, cluster, clock)
        calls, at = shared["calls"] if at == 0 else calls, at + 1
    assert calls > 70


@pytest.mark.parametrize("kind", ["fail", "lose", "forget"])
def test_a_fault_of_the_store_at_any_call_changes_nothing(make_gateway: MakeGateway, kind: str) -> None:

    config, at, calls = make_gateway().config, 0, 1
    while at < calls:
        store, clock = MemoryStore(), Clock()
        cluster = FakeCluster(clock)
        faulty = FaultyStore(store, at=at, kind=kind)

        def make(faulty: Any = faulty, cluster: Any = cluster, clock: Clock = clock) -> Any:
            ledger, teams = Ledger(faulty, config.name, clock=clock), TeamTable(Path(config.keys_path))
            parts = JobGateway(ledger=ledger, executor=cluster, config=config, teams=teams)
            return JobService(parts, clock=clock), JobController(parts)

        work(make, clock, cluster)
        check(store, cluster, clock)
        calls, at = len(faulty.calls) if at == 0 else calls, at + 7  # a sample: reads are alike
    assert calls > 40


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(st.integers(0, 2), st.sampled_from(["step", "submit", "cancel", "end", "fail"])), max_size=40),
    st.sampled_from([4, 8_192]),
)
def test_gateways_that_run_at_the_same_time_agree(
    make_gateway: MakeGateway, acts: list[tuple[int, str]], segment: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("brew_cluster.gateway.ledger.SEGMENT", segment)
        run_together(make_gateway, acts)


def run_together(make_gateway: MakeGateway, acts: list[tuple[int, str]]) -> None:
    """Apply acts to three gateways, and require that they agree at the end."""
    first = make_gateway()
    gateways = [first, *(make_gateway(store=first.store, clock=first.clock, cluster=first.cluster) for _ in range(2))]
    for number, (index, act) in enumerate(acts):
        gateway = gateways[index]
        if act == "submit":
            gateway.service.submit((FEED, ADS)[number % 2], body(number, number % 9))
        elif act == "cancel" and (jobs := gateway.service.jobs(FEED, all_teams=False, ended=False)):
            gateway.service.cancel(FEED, jobs[number % len(jobs)].id)
        elif act in ("end", "fail") and (active := first.cluster.active()):
            status = "succeeded" if act == "end" else "failed"
            first.cluster.end(active[number % len(active)], status, exit_code=int(act == "fail"))
        else:
            gateway.step()
    for _ in range(200):
        if not first.ledger.read(lambda state, now: state.open_jobs()):
            break
        gateways[_ % 3].step()
        for run in first.cluster.active():
            first.cluster.end(run, "succeeded")
    states = [fold(gateway.ledger.events()) for gateway in gateways]
    assert all(job.ended is not None for job in states[0].jobs.values())
    assert len(set(first.cluster.starts)) == len(first.cluster.starts)
    assert states[0].jobs == states[1].jobs == states[2].jobs
    assert states[0].teams == gateways[2].ledger.read(lambda state, now: state.teams)


def test_a_gateway_that_was_slow_stops_what_it_submitted_too_late(gateway: Gateway) -> None:
    """It submits an attempt that another gateway has meanwhile ended, on a cluster that forgot the first submission."""
    gateway.service.submit(FEED, body(1, 1))
    gateway.step()
    [active] = gateway.controller._active()
    gateway.cluster.runs.clear()  # the cluster's head node was restarted
    gateway.step()
    gateway.step()
    slow = type(active)(job=active.job, attempt=1, state="starting", is_confirmed=False, run=active.run)
    assert gateway.controller._look_at(slow) == ""
    assert gateway.cluster.active() == ["brew360-job-1-2"]


def test_a_lost_attempt_is_repeated_as_the_next_one(gateway: Gateway) -> None:
    job = gateway.service.submit(FEED, body(1, 1)).id
    for attempt in (1, 2):
        gateway.step()
        assert gateway.cluster.active() == [f"brew360-{job}-{attempt}"]
        gateway.cluster.runs.clear()
    gateway.step()
    state = gateway.service.show(FEED, job)
    assert (state.state, [attempt.outcome for attempt in state.attempts]) == ("failed", ["lost", "lost"])
    assert state.reason == "the cluster does not know it any more: its head node was restarted after 1 retries"


def test_while_the_cluster_is_down_nothing_starts_and_nothing_is_charged(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = gateway.service.submit(FEED, body(1, 1)).id
    with monkeypatch.context() as patch:

        def fail(run: Run) -> RunState:
            raise ClusterUnavailable("Ray is down")

        patch.setattr(gateway.cluster, "state", fail)
        for _ in range(3):
            gateway.step(seconds=1_000)
        assert gateway.controller.problem == "Ray is down"
        state = gateway.service.show(FEED, job)
        assert (state.state, state.reason, state.gpu_seconds) == ("starting", "Ray is down", 0)
        waiting = gateway.service.submit(FEED, body(2, 1))
        assert (waiting.state, waiting.reason) == ("queued", "Ray is down")
    gateway.step()
    assert gateway.controller.problem == ""
    state = gateway.service.show(FEED, job)
    assert (state.state, state.gpu_seconds) == ("running", 0)


def test_a_cluster_that_is_down_is_noticed_without_active_jobs(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    problems: list[str] = []
    monkeypatch.setattr(gateway.controller, "_on_problem", problems.append)
    with monkeypatch.context() as patch:

        def fail() -> None:
            raise ClusterUnavailable("Ray is down")

        patch.setattr(gateway.cluster, "check", fail)
        gateway.step()
        assert gateway.controller.problem == "Ray is down"
        waiting = gateway.service.submit(FEED, body(1, 1))
        gateway.step()
        assert gateway.service.show(FEED, waiting.id).state == "queued"
    gateway.step()
    assert problems == ["Ray is down", ""]
    assert gateway.service.show(FEED, waiting.id).state == "running"


def test_a_foreign_job_of_the_same_id_fails_the_job(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    job = gateway.service.submit(FEED, body(1, 1)).id

    def find(run: Run) -> RunState:
        raise ForeignRun("the cluster has a Ray job of this id")

    monkeypatch.setattr(gateway.cluster, "state", find)
    gateway.step()
    state = gateway.service.show(FEED, job)
    assert (state.state, state.reason) == ("failed", "exit code 2: the cluster has a Ray job of this id")


def test_a_stop_that_takes_long_keeps_the_resources(gateway: Gateway) -> None:
    gateway.service.submit(FEED, body(1, 8))
    gateway.step()
    gateway.cluster.stops_take_effect = False
    urgent = gateway.service.submit(ADS, body(2, 8)).id
    for _ in range(3):
        gateway.step()
    assert gateway.cluster.active() == ["brew360-job-1-1"]
    assert gateway.service.show(ADS, urgent).reason == "waits for 8 GPUs more, which stopping jobs will free"
    gateway.cluster.end("brew360-job-1-1", "succeeded")  # it ended by itself meanwhile
    gateway.step()
    assert gateway.service.show(FEED, "job-1").state == "succeeded"
    assert gateway.cluster.active() == [f"brew360-{urgent}-1"]


def test_a_change_of_the_key_file_changes_the_quotas(gateway: Gateway, caplog: pytest.LogCaptureFixture) -> None:

    path = Path(gateway.config.keys_path)
    teams = TeamTable(path)
    assert teams()["feed"].concurrent_gpus == 8
    path.write_text(path.read_text().replace("concurrent_gpus: 8", "concurrent_gpus: 16"))
    assert teams()["feed"].concurrent_gpus == 16
    path.write_text("teams: 3")
    assert teams()["feed"].concurrent_gpus == 16
    assert "the quotas stay unchanged" in caplog.text


def test_a_loop_goes_on_after_a_failure(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:

    stop, steps = threading.Event(), []

    def step() -> None:
        steps.append(1)
        if len(steps) == 2:
            stop.set()
        raise StorageError("no space")

    monkeypatch.setattr(gateway.controller, "step", step)
    gateway.config.poll_seconds = 0.05
    gateway.controller.run(stop)
    assert len(steps) == 2
    assert gateway.controller.problem == "no space"


def test_the_end_of_an_attempt_is_the_clusters_time(gateway: Gateway) -> None:
    """A gateway that was down for long does not charge the team for it."""
    job = gateway.service.submit(FEED, body(1, 2)).id
    gateway.step()
    gateway.clock.now += 100
    gateway.cluster.end(f"brew360-{job}-1", "succeeded")
    gateway.restart()
    gateway.step(seconds=50_000)
    assert gateway.service.show(FEED, job).gpu_seconds == 200
    found = gateway.ledger.read(lambda state, now: end_of(state.jobs[job], RunState(status="stopped"), now))
    assert found.then == "cancelled"
