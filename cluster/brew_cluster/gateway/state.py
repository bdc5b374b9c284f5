"""The jobs and the use of each team that follow from the events of the ledger.

`LedgerState.apply` folds one event; nothing here depends on a clock or a store, so all gateways compute the same.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime

from brew_cluster.gateway.events import JobEvent, timestamp
from brew_cluster.gateway.spec import ENDED, JobSpec
from brew_platform.errors import RegistryError

__all__ = ["WAIT_BOUNDS", "Attempt", "Job", "LedgerState", "TeamRecord", "fold", "month_of"]

ACTIVE = ("starting", "running", "stopping")
WAIT_BOUNDS = (10.0, 60.0, 300.0, 1_800.0, 7_200.0, 28_800.0, 86_400.0, math.inf)  # seconds


@dataclass
class Attempt:
    """One run of a job. Times are Unix seconds."""

    number: int
    started: float
    is_confirmed: bool = False  # the cluster has had it; until then nothing is charged
    ended: float | None = None
    outcome: str = "running"
    reason: str = ""

    def seconds(self, now: float) -> float:
        """How long it has run."""
        if not self.is_confirmed and self.outcome in ("running", "preempted", "cancelled"):
            return 0.0
        return max(0.0, (now if self.ended is None else self.ended) - self.started)


@dataclass
class Job:
    """A job that was accepted."""

    id: str
    team: str
    spec: JobSpec
    number: int  # of the event that accepted it: the order of submission
    accepted: float
    nonce: str  # unique; part of the signed metadata
    traceparent: str  # of the submission; empty without tracing
    rate: float
    weight: float
    state: str = "queued"
    reason: str = ""
    then: str = ""  # the state after it has stopped
    ended: float | None = None
    attempts: list[Attempt] = field(default_factory=list)

    @property
    def attempt(self) -> int:
        """Number of the newest attempt; 0 before the first."""
        return len(self.attempts)

    @property
    def is_confirmed(self) -> bool:
        """Whether the cluster has had the newest attempt."""
        return bool(self.attempts) and self.attempts[-1].is_confirmed

    @property
    def is_active(self) -> bool:
        """Whether it holds resources of the cluster."""
        return self.state in ACTIVE

    @property
    def failures(self) -> int:
        """Number of attempts that failed or were lost."""
        return sum(attempt.outcome in ("failed", "lost") for attempt in self.attempts)

    def seconds(self, now: float) -> float:
        """How long all attempts have run."""
        return sum(attempt.seconds(now) for attempt in self.attempts)


@dataclass
class TeamRecord:
    """What a team has used."""

    virtual: float = 0.0  # seconds of the whole cluster, divided by the weight, of the attempts that have ended
    gpu_seconds: Counter[str] = field(default_factory=Counter)  # by month, of the attempts that have ended
    ended: Counter[str] = field(default_factory=Counter)  # jobs, by final state
    refused: Counter[str] = field(default_factory=Counter)  # submissions, by kind of refusal
    preempted: int = 0  # attempts
    waits: Counter[float] = field(default_factory=Counter)  # jobs that started, by the upper bound of their wait
    wait_seconds: float = 0.0  # in the queue, of all these jobs


class LedgerState:
    """All jobs and teams after a number of events.

    Attributes:
        number: Of the last event; 0 before the first.
        now: Time of the latest event. Later events with an earlier time, from a gateway with a slow clock, count as
            written then.
        jobs: By id, in the order of submission.
        teams: By name.
        requests: The id of the job that a request submitted, by the team and the id of the request.
        is_closed: No event follows in the segment of the ledger.
    """

    def __init__(self) -> None:
        self.number = 0
        self.now = 0.0
        self.jobs: dict[str, Job] = {}
        self.teams: dict[str, TeamRecord] = {}
        self.requests: dict[tuple[str, str], str] = {}
        self.is_closed = False
        self._open: dict[str, Job] = {}  # jobs that have not ended
        self._open_of: Counter[str] = Counter()  # their number, by team
        self._active: dict[str, Job] = {}  # jobs that hold resources of the cluster

    def open_jobs(self) -> list[Job]:
        """Return the jobs that have not ended, in the order of submission."""
        return list(self._open.values())

    def active_jobs(self) -> list[Job]:
        """Return the jobs that hold resources of the cluster."""
        return list(self._active.values())

    def job_of_request(self, team: str, request_id: str) -> str | None:
        """Return the id of the job that a request submitted, or None."""
        return self.requests.get((team, request_id))

    def virtual_time(self, team: str, now: float, *, least: float = 0.0) -> float:
        """Return the seconds of the whole cluster that a team has used, divided by its weight.

        It is the virtual time of start-time fair queueing (Goyal, Vin and Cheng, SIGCOMM 1996), with the dominant share
        of a job (Ghodsi et al., NSDI 2011) as its rate. A team that returns after a pause starts at the virtual time of
        the teams that are busy, so a pause saves up nothing.

        Args:
            team: Name of the team.
            now: Unix time, in seconds.
            least: Seconds that a running attempt counts at least.
        """
        record = self.teams.get(team)
        running = sum(
            job.rate * max(least, job.attempts[-1].seconds(now)) / job.weight
            for job in self._active.values()
            if job.team == team
        )
        return (record.virtual if record else 0.0) + running

    def gpu_seconds(self, team: str, month: str, now: float) -> float:
        """Return the GPU-seconds of a team in a month, YYYY-MM, with those of running attempts until `now`."""
        record = self.teams.get(team)
        total = float(record.gpu_seconds[month]) if record else 0.0
        for job in self._active.values():
            if job.team == team and job.spec.gpus:
                parts = _by_month(job.attempts[-1], now)
                total += sum(job.spec.gpus * seconds for name, seconds in parts if name == month)
        return total

    def active_gpus(self, team: str) -> int:
        """Return the GPUs that a team's jobs hold now."""
        return sum(job.spec.gpus for job in self._active.values() if job.team == team)

    def add(self, job: Job, request_id: str) -> None:
        """Add a job in any state, as a later one than those that are there."""
        self.jobs[job.id] = job
        self.requests[job.team, request_id] = job.id
        if job.ended is None:
            self._open[job.id] = job
            self._open_of[job.team] += 1
        if job.is_active:
            self._active[job.id] = job

    def apply(self, event: JobEvent) -> None:
        """Fold the next event.

        Raises:
            RegistryError: The event does not follow from the earlier ones: the ledger is damaged.
        """
        if event.number != self.number + 1:
            raise RegistryError(f"event {event.number} of the job ledger follows event {self.number}; one is missing.")
        time = max(self.now, timestamp(event.time))
        if event.kind == "accept":
            self._accept(event, time)
        elif event.kind == "refuse":
            self._record(event.team).refused[event.outcome] += 1
        elif event.kind == "close":
            self.is_closed = True
        else:
            self._change(event, time)
        self.number, self.now = event.number, time

    def _accept(self, event: JobEvent, time: float) -> None:
        record = self._record(event.team)
        if not self._open_of[event.team]:
            busy = [team for team, count in self._open_of.items() if count]
            if busy:
                floor = min(self.virtual_time(team, time) for team in busy)
            else:
                floor = max(other.virtual for other in self.teams.values())
            record.virtual = max(record.virtual, floor)
        job = Job(
            id=event.job,
            team=event.team,
            spec=JobSpec.model_validate(dict(event.spec or {})),
            number=event.number,
            accepted=time,
            nonce=event.write_id,
            rate=event.rate,
            weight=event.weight,
            traceparent=event.traceparent,
        )
        self.add(job, event.request_id)

    def _change(self, event: JobEvent, time: float) -> None:
        job = self._open.get(event.job)
        if job is None:
            raise RegistryError(f"event {event.number} of the job ledger changes {event.job}, which is not open.")
        job.reason = event.reason
        if event.kind == "start":
            job.state, job.then = "starting", ""
            if not job.attempts:
                record = self._record(job.team)
                record.waits[next(bound for bound in WAIT_BOUNDS if time - job.accepted <= bound)] += 1
                record.wait_seconds += time - job.accepted
            job.attempts.append(Attempt(event.attempt, time))
            self._active[job.id] = job
        elif event.kind == "run":
            job.attempts[-1].is_confirmed, job.attempts[-1].started = True, time
            job.state = "running" if job.state == "starting" else job.state
        elif event.kind in ("stop", "cancel") and job.is_active:
            job.state, job.then = "stopping", "cancelled" if event.kind == "cancel" else event.then
        elif event.kind == "cancel":
            self._end(job, "cancelled", time)
        else:
            attempt = job.attempts[-1]
            attempt.ended = min(max(timestamp(event.ended), attempt.started), time)
            attempt.outcome, attempt.reason = event.outcome, event.reason
            self._charge(job, attempt, time)
            if event.outcome == "preempted":
                self._record(job.team).preempted += 1
            job.then, job.state = "", event.then
            del self._active[job.id]
            if event.then in ENDED:
                self._end(job, event.then, time)

    def _charge(self, job: Job, attempt: Attempt, time: float) -> None:
        record = self._record(job.team)
        record.virtual += job.rate * attempt.seconds(time) / job.weight
        for month, seconds in _by_month(attempt, time):
            record.gpu_seconds[month] += job.spec.gpus * seconds  # type: ignore[assignment]  # floats

    def _end(self, job: Job, state: str, time: float) -> None:
        job.state, job.ended = state, time
        self._record(job.team).ended[state] += 1
        del self._open[job.id]
        self._open_of[job.team] -= 1

    def _record(self, team: str) -> TeamRecord:
        return self.teams.setdefault(team, TeamRecord())


def fold(events: Iterable[JobEvent]) -> LedgerState:
    """Return the state after all events, which begin with the first."""
    state = LedgerState()
    for event in events:
        state.apply(event)
    return state


def month_of(time: float) -> str:
    """Return the month of a Unix time in UTC, YYYY-MM."""
    return datetime.fromtimestamp(time, UTC).strftime("%Y-%m")


def _by_month(attempt: Attempt, now: float) -> Iterator[tuple[str, float]]:
    """Yield each month in which an attempt ran, with the seconds in it."""
    start, end = attempt.started, attempt.started + attempt.seconds(now)
    while start < end:
        first = datetime.fromtimestamp(start, UTC)
        year, month = (first.year + 1, 1) if first.month == 12 else (first.year, first.month + 1)
        until = min(end, datetime(year, month, 1, tzinfo=UTC).timestamp())
        yield month_of(start), until - start
        start = until
