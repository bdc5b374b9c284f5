"""The queue as a pure function: order, quotas, preemption, and a simulation of busy teams."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brew_cluster.gateway.events import JobEvent, iso_time
from brew_cluster.gateway.queue import Capacity, Start, Stop, dominant_share, plan, quota_refusal
from brew_cluster.gateway.spec import JobSpec
from brew_cluster.gateway.state import LedgerState, month_of
from brew_platform.identity.keys import Team

NOW = 1_780_000_000.0
QUANTUM = 600.0


class Simulation:
    """A ledger in memory whose decisions are applied at once; every attempt runs until `end` or a stop."""

    def __init__(self, *teams: Team, gpus: int = 8, cpus: int = 64) -> None:
        self.state = LedgerState()
        self.teams = {team.name: team for team in teams}
        self.capacity = Capacity(gpus=gpus, cpus=cpus)
        self.now = NOW

    def event(self, kind: str, team: str, **fields: Any) -> None:
        number = self.state.number + 1
        self.state.apply(
            JobEvent(
                number=number, kind=kind, team=team, time=iso_time(self.now), by="x", write_id=str(number), **fields
            )
        )

    def submit(self, team: str, **spec: Any) -> str:
        job = JobSpec(kind="entrypoint", entrypoint="true", **spec)
        name = f"job-{self.state.number + 1}"
        self.event(
            "accept", team, job=name, spec=job.model_dump(mode="json"), request_id=name, weight=self.teams[team].weight,
            rate=dominant_share(job.gpus, job.cpus, self.capacity),
        )  # fmt: skip
        return name

    def step(self) -> list[str]:
        """Apply all decisions; stopped attempts end at once. Return what was started."""
        started = []
        while decisions := self.plan().decisions:
            job = decisions[0].job
            if isinstance(decisions[0], Start):
                self.event("start", job.team, job=job.id, attempt=job.attempt + 1)
                self.event("run", job.team, job=job.id, attempt=job.attempt)
                started.append(job.id)
            else:
                assert isinstance(decisions[0], Stop)
                self.event("stop", job.team, job=job.id, attempt=job.attempt, then=decisions[0].then)
                outcome = "preempted"
                self.end(job.id, outcome, decisions[0].then)
        return started

    def plan(self) -> Any:
        return plan(self.state, self.teams, self.capacity, now=self.now, quantum=QUANTUM)

    def end(self, job: str, outcome: str = "succeeded", then: str = "succeeded") -> None:
        found = self.state.jobs[job]
        self.event(
            "end", found.team, job=job, attempt=found.attempt, outcome=outcome, then=then, ended=iso_time(self.now)
        )

    def waiting(self) -> dict[str, str]:
        return {waiting.job.id: waiting.reason for waiting in self.plan().waiting}

    def queued_gpus(self, team: str) -> int:
        jobs = self.state.open_jobs()
        return sum(job.spec.gpus for job in jobs if job.team == team and job.state == "queued")

    def running(self) -> set[str]:
        return {job.id for job in self.state.open_jobs() if job.is_active}


def test_jobs_of_one_team_start_in_order_of_priority_and_submission() -> None:
    queue = Simulation(Team(name="a"), gpus=2)
    first, second, urgent = (queue.submit("a", gpus=1, priority=priority) for priority in (0, 0, 5))
    assert queue.step() == [urgent, first]
    assert queue.waiting() == {second: "waits for 1 GPUs more"}
    queue.end(first)
    assert queue.step() == [second]


def test_teams_share_by_weight_whatever_they_submit() -> None:
    queue = Simulation(Team(name="a"), Team(name="b", weight=3), gpus=4)
    for _ in range(20):
        queue.submit("a", gpus=1)
    for _ in range(20):
        queue.submit("b", gpus=1)
    started = queue.step()
    assert [queue.state.jobs[job].team for job in started].count("b") == 3


def test_a_team_that_returns_does_not_get_the_time_that_it_did_not_use() -> None:
    queue = Simulation(Team(name="a"), Team(name="b"), gpus=1)
    long = queue.submit("a", gpus=1)
    queue.step()
    queue.now += 10_000
    jobs = [queue.submit("a", gpus=1), queue.submit("b", gpus=1), queue.submit("b", gpus=1)]
    queue.end(long)
    assert queue.step() == [jobs[0]]  # both teams are at the same virtual time
    queue.now += 60
    queue.end(jobs[0])
    assert queue.step() == [jobs[1]]


def test_a_large_job_is_not_overtaken_by_small_ones_but_jobs_without_gpus_pass() -> None:
    queue = Simulation(Team(name="a"), gpus=8)
    running = queue.submit("a", gpus=6)
    queue.step()
    large, small, data = queue.submit("a", gpus=8), queue.submit("a", gpus=1), queue.submit("a", cpus=4)
    assert queue.step() == [data]
    assert queue.waiting() == {large: "waits for 6 GPUs more", small: "waits behind an earlier job for GPUs"}
    queue.end(running)
    assert queue.step() == [large]


def test_a_job_that_waits_for_its_quota_keeps_nobody_waiting() -> None:
    queue = Simulation(Team(name="a", concurrent_gpus=4), Team(name="b"), gpus=8)
    queue.submit("a", gpus=4)
    queue.step()
    mine, theirs = queue.submit("a", gpus=2), queue.submit("b", gpus=2)
    assert queue.step() == [theirs]
    assert queue.waiting()[mine] == "needs 2 GPUs; team a uses 4 of the 4 that it can use at a time"


def test_a_team_of_higher_priority_preempts_only_as_many_jobs_as_it_needs() -> None:
    queue = Simulation(Team(name="a"), Team(name="b", priority=1), gpus=8)
    jobs = [queue.submit("a", gpus=2) for _ in range(4)]
    queue.step()
    urgent = queue.submit("b", gpus=3)
    assert queue.step() == [urgent]
    assert queue.running() == {urgent, *jobs[:2]}  # the newest were stopped
    assert [queue.state.jobs[job].state for job in jobs[2:]] == ["queued", "queued"]
    assert queue.state.teams["a"].preempted == 2
    queue.end(urgent)
    assert queue.step() == jobs[2:]
    assert queue.state.jobs[jobs[2]].attempt == 2


def test_nobody_is_preempted_without_need_or_by_an_equal() -> None:
    queue = Simulation(Team(name="a", priority=1), Team(name="b"), Team(name="c"), gpus=8)
    queue.submit("a", gpus=6)
    running = queue.submit("b", gpus=2)
    queue.step()
    queue.submit("c", gpus=4)  # stopping b would not be enough
    queue.submit("b", gpus=2)
    assert queue.step() == []
    assert running in queue.running()


def test_a_higher_priority_of_a_job_preempts_jobs_of_its_own_team_only() -> None:
    queue = Simulation(Team(name="a"), Team(name="b"), gpus=2)
    own, other = queue.submit("a", gpus=1), queue.submit("b", gpus=1)
    queue.step()
    urgent = queue.submit("a", gpus=1, priority=9)
    assert queue.step() == [urgent]
    assert queue.running() == {urgent, other}
    assert queue.state.jobs[own].state == "queued"


def test_a_higher_priority_also_preempts_within_the_quota_of_the_team() -> None:
    queue = Simulation(Team(name="a", concurrent_gpus=2), Team(name="b"), gpus=8)
    own, other = queue.submit("a", gpus=2), queue.submit("b", gpus=2)
    queue.step()
    urgent = queue.submit("a", gpus=1, priority=1)
    assert queue.step() == [urgent]
    assert queue.running() == {urgent, other}
    assert queue.waiting()[own].startswith("needs 2 GPUs; team a uses 1 of the 2")


def test_a_job_that_no_longer_fits_keeps_nobody_waiting() -> None:
    queue = Simulation(Team(name="a"), gpus=8)
    large, small = queue.submit("a", gpus=8), queue.submit("a", gpus=1)
    queue.capacity = Capacity(gpus=4, cpus=64)
    assert queue.step() == [small]
    assert queue.waiting() == {large: "needs 8 GPUs, and jobs on this cluster can use 4 together; cancel it"}


def test_a_team_that_runs_alone_gives_way_after_a_quantum() -> None:
    queue = Simulation(Team(name="a"), Team(name="b"), gpus=8)
    first = queue.submit("a", gpus=8)
    queue.step()
    queue.now += QUANTUM / 2
    second = queue.submit("b", gpus=8)
    assert queue.step() == []
    queue.now += 2 * QUANTUM
    assert queue.step() == [second]
    queue.now += 10
    assert queue.step() == []  # first does not come back at once
    queue.now += 3 * QUANTUM
    assert queue.step() == [first]


def test_the_gpu_hours_of_a_month_stop_jobs_and_the_next_month_continues_them() -> None:
    queue = Simulation(Team(name="a", gpu_hours_per_month=8), gpus=8)
    queue.now = 1_780_000_000.0
    job = queue.submit("a", gpus=8)
    queue.step()
    queue.now += 3_599
    assert queue.step() == []
    queue.now += 1
    queue.step()
    assert "used up its 8 GPU-hours of 2026-05" in queue.waiting()[job]
    state = queue.state
    assert state.gpu_seconds("a", "2026-05", queue.now) == pytest.approx(8 * 3_600)
    queue.now += 10 * 86_400
    assert month_of(queue.now) == "2026-06"
    assert queue.step() == [job]


def test_a_job_that_runs_over_the_end_of_a_month_counts_in_both() -> None:
    queue = Simulation(Team(name="a"), gpus=8)
    queue.now = 1_780_272_000.0 - 100  # before 2026-06-01
    job = queue.submit("a", gpus=2)
    queue.step()
    queue.now += 300
    for _ in range(2):
        used = [queue.state.gpu_seconds("a", month, queue.now) for month in ("2026-05", "2026-06")]
        assert used == pytest.approx([200, 400])
        if job in queue.running():
            queue.end(job)


def test_max_seconds_counts_all_attempts_and_fails_the_job() -> None:
    queue = Simulation(Team(name="a"), gpus=8)
    job = queue.submit("a", gpus=1, max_seconds=100)
    queue.step()
    queue.now += 60
    queue.end(job, "failed", "queued")
    queue.step()
    queue.now += 39
    queue.step()
    assert job in queue.running()
    queue.now += 1
    queue.step()
    assert queue.state.jobs[job].state == "failed"


def test_jobs_of_a_team_without_keys_do_not_start() -> None:
    queue = Simulation(Team(name="a"))
    job = queue.submit("a", gpus=1)
    queue.teams = {}
    assert queue.step() == []
    assert queue.waiting() == {job: "team a has no API key any more; ask the operators for one"}


@pytest.mark.parametrize(
    ("team", "spec", "words"),
    [
        (Team(name="a", concurrent_gpus=4), {"gpus": 5}, "needs 5 GPUs, but team a can use 4 at a time"),
        (Team(name="a", gpu_hours_per_month=0), {"gpus": 1}, "has used 0.0 of its 0 GPU-hours of 2026-05"),
        (Team(name="a", gpu_hours_per_month=9), {"gpus": 2, "max_seconds": 18_000}, "the job may use 10.0"),
        (Team(name="a", gpu_hours_per_month=10), {"gpus": 2, "max_seconds": 18_000}, None),
        (Team(name="a", gpu_hours_per_month=0), {"gpus": 0}, None),
        (Team(name="a"), {"gpus": 100}, None),
    ],
)
def test_quotas_refuse_what_they_can_never_allow(team: Team, spec: dict[str, Any], words: str | None) -> None:
    why = quota_refusal(LedgerState(), team, **{"max_seconds": None, **spec}, now=NOW)
    assert why is None if words is None else words in str(why)


JOBS = st.tuples(
    st.sampled_from("abc"),
    st.integers(0, 8),
    st.integers(1, 16),
    st.integers(0, 2),
    st.sampled_from([None, 100, 600]),
)
ACTIONS = st.lists(st.one_of(JOBS, st.integers(1, 8), st.just("end")), max_size=30)


@given(
    ACTIONS,
    st.lists(st.integers(0, 2), min_size=3, max_size=3),
    st.lists(st.sampled_from([None, 2, 8]), min_size=3, max_size=3),
    st.sampled_from([None, 0.5]),
)
def test_no_team_exceeds_its_quotas_and_no_job_is_lost(
    actions: list[Any], priorities: list[int], limits: list[int | None], hours: float | None
) -> None:
    teams = [
        Team(name=name, priority=priority, concurrent_gpus=limit, gpu_hours_per_month=hours)
        for name, priority, limit in zip("abc", priorities, limits, strict=True)
    ]
    queue = Simulation(*teams, gpus=8, cpus=32)
    submitted = set()
    for action in [*actions, *["end"] * 5]:
        if action == "end":
            for job in sorted(queue.running())[:1]:
                queue.end(job)
        elif isinstance(action, int):
            for _ in range(action):  # the controller looks every 50 s
                queue.now += 50
                queue.step()
        else:
            team, gpus, cpus, priority, seconds = action
            if not quota_refusal(queue.state, queue.teams[team], gpus=gpus, max_seconds=seconds, now=queue.now):
                submitted.add(queue.submit(team, gpus=gpus, cpus=cpus, priority=priority, max_seconds=seconds))
        queue.step()
        active = [queue.state.jobs[job] for job in queue.running()]
        assert sum(job.spec.gpus for job in active) <= 8
        assert sum(job.spec.cpus for job in active) <= 32
        for name, team in queue.teams.items():
            gpus = queue.state.active_gpus(name)
            assert team.concurrent_gpus is None or gpus <= team.concurrent_gpus
            if hours is not None:
                used = queue.state.gpu_seconds(name, month_of(queue.now), queue.now)
                assert used <= hours * 3_600 + 8 * 50  # one look late
        waiting = {waiting.job.id for waiting in queue.plan().waiting}
        ended = {job.id for job in queue.state.jobs.values() if job.ended is not None}
        assert submitted == waiting | queue.running() | ended
        assert not waiting & queue.running()


@settings(max_examples=20)
@given(
    st.lists(st.tuples(st.integers(1, 8), st.integers(100, 8_000)), min_size=1, max_size=4),
    st.lists(st.tuples(st.integers(1, 8), st.integers(100, 8_000)), min_size=1, max_size=4),
    st.sampled_from([0.5, 1.0, 3.0]),
)
def test_two_busy_teams_get_shares_by_weight_within_a_bound(
    kinds_a: list[tuple[int, int]], kinds_b: list[tuple[int, int]], weight: float
) -> None:
    """Whatever jobs two teams submit: their virtual times stay within two quanta of the whole cluster of each other."""
    queue = Simulation(Team(name="a"), Team(name="b", weight=weight), gpus=8, cpus=1_000)
    lengths: dict[str, int] = {}
    counts = {"a": 0, "b": 0}
    for _ in range(150):
        for name, kinds in (("a", kinds_a), ("b", kinds_b)):
            while queue.queued_gpus(name) < 8:
                gpus, seconds = kinds[counts[name] % len(kinds)]
                counts[name] += 1
                lengths[queue.submit(name, gpus=gpus)] = seconds
        queue.step()
        queue.now += 200
        for job in sorted(queue.running()):
            if queue.state.jobs[job].seconds(queue.now) >= lengths[job]:
                queue.end(job)
    virtual = [queue.state.virtual_time(name, queue.now) for name in "ab"]
    assert abs(virtual[0] - virtual[1]) <= 2 * (QUANTUM + 200) / min(weight, 1.0)
