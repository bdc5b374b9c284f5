"""Decides which jobs start and which are stopped. Everything here is pure.

Order: teams of a higher priority first; among equal ones the team with the smallest virtual time (see `state`); within
a team jobs of a higher priority first, then those that were submitted first. A job that waits for GPUs or CPUs of the
cluster keeps later jobs from taking them, so large jobs are not overtaken for ever. A job that waits for a quota of its
team keeps nobody waiting.

Preemption: a job that waits for the cluster stops jobs of teams of a lower priority, and those of its own team with a
lower priority; a job that waits for its team's quota of GPUs stops only the latter. A job that waits for the cluster
also stops jobs of teams of equal priority whose virtual time is ahead of its own team's by more than a quantum, if they
have run for at least a quantum. Jobs are stopped only if that frees enough.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from brew_cluster.gateway.state import Job, LedgerState, month_of
from brew_platform.identity.keys import Team

__all__ = ["Capacity", "Plan", "Start", "Stop", "Waiting", "dominant_share", "plan", "quota_refusal"]

_HOUR = 3_600.0
_WILL_FREE = ", which stopping jobs will free"


@dataclass(frozen=True, kw_only=True)
class Capacity:
    """What jobs can use of the cluster together."""

    gpus: int
    cpus: int


@dataclass(frozen=True, kw_only=True)
class Start:
    """Start the next attempt of a job."""

    job: Job


@dataclass(frozen=True, kw_only=True)
class Stop:
    """Stop the running attempt of a job."""

    job: Job
    reason: str
    then: str  # queued or failed


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """A job that stays in the queue."""

    job: Job
    reason: str  # a sentence


@dataclass(kw_only=True)
class Plan:
    """What to do now, and the queue that remains, the next job first."""

    decisions: list[Start | Stop] = field(default_factory=list)
    waiting: list[Waiting] = field(default_factory=list)


def dominant_share(gpus: int, cpus: int, capacity: Capacity) -> float:
    """Return the larger of the shares of the cluster's GPUs and CPUs, 0 to 1 (Ghodsi et al., NSDI 2011)."""
    return max(gpus / capacity.gpus if capacity.gpus else 0.0, cpus / capacity.cpus)


def quota_refusal(state: LedgerState, team: Team, *, gpus: int, max_seconds: int | None, now: float) -> str | None:
    """Return why a team's quotas do not allow a new job, or None. A job that only has to wait is allowed.

    Args:
        state: Of the ledger.
        team: Of the job.
        gpus: That the job uses.
        max_seconds: After which the job is stopped; None: not known.
        now: Unix time, in seconds.
    """
    if team.concurrent_gpus is not None and gpus > team.concurrent_gpus:
        return (
            f"the job needs {gpus} GPUs, but team {team.name} can use {team.concurrent_gpus} at a time; pass a smaller "
            f"--gpus, or ask the operators for a larger quota."
        )
    if team.gpu_hours_per_month is None or not gpus:
        return None
    used = state.gpu_seconds(team.name, month_of(now), now) / _HOUR
    left = max(0.0, team.gpu_hours_per_month - used)
    needed = gpus * (max_seconds or 0) / _HOUR
    if left <= 0 or needed > left:
        need = f" and the job may use {needed:.1f} ({gpus} GPUs for max_seconds={max_seconds})" if needed else ""
        return (
            f"team {team.name} has used {used:.1f} of its {team.gpu_hours_per_month:g} GPU-hours of "
            f"{month_of(now)} (UTC){need}; submit it next month, make it smaller, or ask the operators for a larger "
            f"quota."
        )
    return None


def plan(state: LedgerState, teams: Mapping[str, Team], capacity: Capacity, *, now: float, quantum: float) -> Plan:
    """Decide what starts and stops now.

    Args:
        state: Of the ledger.
        teams: Those that have keys, by name. Jobs of other teams do not start.
        capacity: Of the cluster.
        now: Unix time, in seconds.
        quantum: Seconds that a job runs before a team of the same priority can take its place.

    Returns:
        The plan. Its decisions can be applied in any order, and computing it again after each gives the rest.
    """
    planner = _Planner(state, teams, capacity, now, quantum)
    planner.stop_by_limits()
    planner.fill()
    return planner.plan


class _Planner:
    def __init__(
        self, state: LedgerState, teams: Mapping[str, Team], capacity: Capacity, now: float, quantum: float
    ) -> None:
        self.state, self.teams, self.now, self.quantum = state, teams, max(now, state.now), quantum
        self.plan = Plan()
        jobs = state.open_jobs()
        self.active = state.active_jobs()
        self.queued = [job for job in jobs if job.state == "queued"]
        self.stopping = {job.id for job in self.active if job.state == "stopping"}
        self.has = {"GPUs": capacity.gpus, "CPUs": capacity.cpus}
        self.free = dict(self.has)
        for job in self.active:
            _add(self.free, job, sign=-1)
        names = {job.team for job in jobs}
        # A job is charged a quantum when it starts, as in fair queueing, and what it really ran once that is more.
        self.charged = {name: state.virtual_time(name, self.now, least=quantum) for name in names}
        self.virtual = dict(self.charged)  # with a quantum of each job that the plan has passed
        self.gpus = {name: state.active_gpus(name) for name in names}
        self.has_hours = {name: self._has_hours(name) for name in names}

    def priority(self, team: str) -> int:
        return self.teams[team].priority if team in self.teams else 0

    def stop_by_limits(self) -> None:
        """Stop jobs that have run for too long, or whose team has used up its GPU-hours."""
        for job in self.active:
            limit = job.spec.max_seconds
            if job.id in self.stopping:
                continue
            if limit is not None and job.seconds(self.now) >= limit:
                self._stop(
                    job, f"it ran for its max_seconds, {limit:,}; submit it again with more to continue", "failed"
                )
            elif job.spec.gpus and not self.has_hours[job.team]:
                self._stop(job, self._hours_reason(job.team), "queued")

    def fill(self) -> None:
        """Go through the queue in its order: start what fits, and stop others for what does not."""
        lines: dict[str, list[Job]] = {}
        for job in sorted(self.queued, key=lambda job: (-job.spec.priority, job.number)):
            lines.setdefault(job.team, []).append(job)
        scarce: set[str] = set()  # resources that an earlier job waits for
        while lines:
            team = min(lines, key=lambda name: (-self.priority(name), self.virtual[name], name))
            job = lines[team].pop(0)
            if not lines[team]:
                del lines[team]
            if reason := self._quota_reason(job):
                self.plan.waiting.append(Waiting(job=job, reason=reason))
                continue
            needs = _needs(job)
            lacking = {name: need - self.free[name] for name, need in needs.items() if need > self.free[name]}
            behind = sorted(name for name in scarce if needs[name])
            if behind:
                reason = f"waits behind an earlier job for {' and '.join(behind)}"
                self.plan.waiting.append(Waiting(job=job, reason=reason))
            elif lacking:
                scarce |= lacking.keys()
                frees_enough = self._free_resources(job, lacking)
                reason = f"waits for {' and '.join(f'{need} {name}' for name, need in sorted(lacking.items()))} more"
                reason += _WILL_FREE if frees_enough else ""
                self.plan.waiting.append(Waiting(job=job, reason=reason))
            else:
                self.plan.decisions.append(Start(job=job))
                self.gpus[team] += job.spec.gpus
                _add(self.free, job, sign=-1)
            self.virtual[team] += job.rate * self.quantum / job.weight

    def _free_resources(self, job: Job, lacking: Mapping[str, int], *, own: bool = False) -> bool:
        """Stop jobs so that `job` can start; return whether enough jobs stop.

        Args:
            job: That waits.
            lacking: What it lacks.
            own: Stop only jobs of its team.
        """
        freed = {"GPUs": 0, "CPUs": 0}
        for other in self.active:
            if other.id in self.stopping and (other.team == job.team or not own):
                _add(freed, other)
        if _covers(freed, lacking):
            return True
        chosen: list[tuple[Job, str]] = []
        for victim, reason in self._victims(job, lacking):
            if own and victim.team != job.team:
                continue
            chosen.append((victim, reason))
            _add(freed, victim)
            if _covers(freed, lacking):
                break
        else:
            return False
        for victim, reason in reversed(chosen):  # an earlier, smaller one may not be needed any more
            _add(freed, victim, sign=-1)
            if _covers(freed, lacking):
                continue
            _add(freed, victim)
            self._stop(victim, reason, "queued")
        return True

    def _victims(self, job: Job, lacking: Mapping[str, int]) -> Sequence[tuple[Job, str]]:
        """Return the jobs that `job` may stop, the first to be stopped first, with the reason."""
        found: list[tuple[tuple[float, ...], Job, str]] = []
        mine = self.priority(job.team)
        margin = job.rate * self.quantum / job.weight
        for other in self.active:
            if other.id in self.stopping or not any(_needs(other)[name] for name in lacking):
                continue
            theirs = self.priority(other.team)
            ahead = self.charged[other.team] - self.charged[job.team]
            if other.team == job.team and other.spec.priority < job.spec.priority:
                reason = f"preempted by {job.id} of the same team, which has a higher priority"
            elif theirs < mine:
                reason = f"preempted by {job.id} of team {job.team}, which has a higher priority"
            elif other.team != job.team and theirs == mine and ahead > margin and self._ran_a_quantum(other):
                reason = f"preempted by {job.id} of team {job.team}, which has had less than its share of the cluster"
            else:
                continue
            rank = (theirs, other.spec.priority, -ahead, -other.attempts[-1].started, -other.number)
            found.append((rank, other, reason))
        return [(other, reason) for _, other, reason in sorted(found, key=lambda entry: entry[0])]

    def _ran_a_quantum(self, job: Job) -> bool:
        return job.attempts[-1].seconds(self.now) >= self.quantum

    def _stop(self, job: Job, reason: str, then: str) -> None:
        self.stopping.add(job.id)
        self.plan.decisions.append(Stop(job=job, reason=reason, then=then))

    def _quota_reason(self, job: Job) -> str | None:
        """Return why a job cannot start whatever ends on the cluster, or None."""
        team = self.teams.get(job.team)
        if team is None:
            return f"team {job.team} has no API key any more; ask the operators for one"
        limit = team.concurrent_gpus
        if job.spec.gpus and not self.has_hours[job.team]:
            return self._hours_reason(job.team)
        if job.spec.gpus and limit is not None and (over := self.gpus[job.team] + job.spec.gpus - limit) > 0:
            frees_enough = self._free_resources(job, {"GPUs": over}, own=True)
            used = f"team {team.name} uses {self.gpus[job.team]} of the {limit} that it can use at a time"
            return f"needs {job.spec.gpus} GPUs; {used}{_WILL_FREE if frees_enough else ''}"
        for name, need in _needs(job).items():
            if need > self.has[name]:  # the operators have made the cluster smaller
                return f"needs {need} {name}, and jobs on this cluster can use {self.has[name]} together; cancel it"
        return None

    def _has_hours(self, name: str) -> bool:
        team = self.teams.get(name)
        if team is None or team.gpu_hours_per_month is None:
            return True
        return self.state.gpu_seconds(name, month_of(self.now), self.now) < team.gpu_hours_per_month * _HOUR

    def _hours_reason(self, name: str) -> str:
        limit, month = self.teams[name].gpu_hours_per_month, month_of(self.now)
        return f"team {name} has used up its {limit:g} GPU-hours of {month}; it continues next month"


def _needs(job: Job) -> dict[str, int]:
    return {"GPUs": job.spec.gpus, "CPUs": job.spec.cpus}


def _add(resources: dict[str, int], job: Job, *, sign: int = 1) -> None:
    for name, count in _needs(job).items():
        resources[name] += sign * count


def _covers(freed: Mapping[str, int], lacking: Mapping[str, int]) -> bool:
    return all(freed[name] >= need for name, need in lacking.items())
