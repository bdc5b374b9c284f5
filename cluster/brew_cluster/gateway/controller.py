"""The loop of the gateway: it compares the ledger with the cluster, and applies the decisions of the queue.

Each step first writes its event and then acts, and repeats the act until the cluster shows its result. So a gateway can
be killed at any point, and several gateways can run the loop at the same time.
"""

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from brew_cluster.gateway.events import JobEvent, iso_time
from brew_cluster.gateway.executor import ClusterUnavailable, ForeignRun, Run, RunState
from brew_cluster.gateway.job_gateway import JobGateway
from brew_cluster.gateway.queue import Capacity, Start, plan
from brew_cluster.gateway.runs import build_run
from brew_cluster.gateway.state import Job, LedgerState
from brew_cluster.ray.relauncher import FINAL
from brew_platform.errors import BrewError
from brew_platform.identity.keys import Team

__all__ = ["JobController", "end_of"]

_LOG = logging.getLogger("brew_cluster")
GATEWAY = "gateway"


@dataclass(frozen=True, kw_only=True)
class _Active:
    """An attempt that holds resources of the cluster, as the ledger has it."""

    job: str
    attempt: int
    state: str
    is_confirmed: bool
    run: Run


class JobController:
    """Runs the jobs of a ledger.

    Args:
        gateway: The ledger, the cluster, the settings and the teams.
        on_problem: Called with each new value of `problem`.
    """

    def __init__(self, gateway: JobGateway, on_problem: Callable[[str], None] = lambda problem: None) -> None:
        self._gateway, self._ledger, self._executor = gateway, gateway.ledger, gateway.executor
        self._on_problem = on_problem
        self.problem = ""  # why the last step failed; empty if it did not

    def run(self, stop: threading.Event) -> None:
        """Step until `stop` is set. A failure of the store or the cluster is logged, and the next step tries again."""
        while not stop.is_set():
            try:
                self.step()
            except Exception as error:
                self._report(str(error) if isinstance(error, BrewError) else f"{type(error).__name__}: {error}", error)
            stop.wait(self._gateway.config.poll_seconds)

    def step(self) -> None:
        """Look at all active attempts once, and apply what the queue decides.

        Raises:
            StorageError: The store of the ledger failed.
            RegistryError: The ledger is damaged.
        """
        looked_at = self._active()
        problems = [problem for active in looked_at if (problem := self._look_at(active))]
        if not looked_at:  # no look has found out whether the cluster answers
            try:
                self._executor.check()
            except ClusterUnavailable as error:
                problems = [str(error)]
        if not problems:
            self._schedule()
            starting = [active for active in self._active() if active.state == "starting"]
            problems = [problem for active in starting if (problem := self._look_at(active))]
        self._report(problems[0] if problems else "")

    def _schedule(self) -> None:
        """Append what the queue decides."""
        teams, capacity = self._gateway.teams(), self._gateway.capacity
        quantum = self._gateway.config.quantum_seconds
        while event := self._ledger.append(lambda state, now: _next_event(state, teams, capacity, now, quantum)):
            _LOG.info("%s of %s, attempt %d: %s", event.kind, event.job, event.attempt, event.reason)

    def _report(self, problem: str, error: Exception | None = None) -> None:
        if problem == self.problem:
            return
        if problem:
            _LOG.error("the job gateway cannot follow the cluster: %s", problem, exc_info=error)
        self.problem = problem
        self._on_problem(problem)

    def _active(self) -> list[_Active]:
        def collect(state: LedgerState, now: float) -> list[_Active]:
            return [
                _Active(
                    job=job.id,
                    attempt=job.attempt,
                    state=job.state,
                    is_confirmed=job.is_confirmed,
                    run=build_run(job, job.attempt, self._gateway.config),
                )
                for job in state.active_jobs()
            ]

        return self._ledger.read(collect)

    def _look_at(self, active: _Active) -> str:
        """Bring one attempt and the ledger together; return the problem that kept it from that, or an empty text."""
        try:
            found = self._executor.state(active.run)
            if found.status == "missing" and active.state == "starting":
                self._executor.submit(active.run)
                if not self._append(active, lambda job, now: _event(job, "run")) and not self._is_current(active):
                    self._executor.stop(active.run)  # this gateway was slow, and another one has ended the attempt
                return ""
            if found.status == "missing" and not active.is_confirmed:  # another gateway may be about to submit it
                self._executor.stop(active.run)
                return ""
            if found.status == "active" and active.state == "stopping":
                self._executor.stop(active.run)
        except ClusterUnavailable as error:
            return str(error)
        except ForeignRun as error:
            found = RunState(status="failed", exit_code=2, message=str(error))
        if found.status == "active":
            if not active.is_confirmed:
                self._append(active, lambda job, now: _event(job, "run"))
        else:
            self._append(active, lambda job, now: end_of(job, found, now))
        return ""

    def _is_current(self, active: _Active) -> bool:
        def check(state: LedgerState, now: float) -> bool:
            job = state.jobs[active.job]
            return job.is_active and job.attempt == active.attempt

        return self._ledger.read(check)

    def _append(self, active: _Active, make: Callable[[Job, float], JobEvent]) -> bool:
        """Append an event of an attempt, unless the ledger has a later event; return whether it was appended."""

        def decide(state: LedgerState, now: float) -> JobEvent | None:
            job = state.jobs[active.job]
            unchanged = job.is_active and job.attempt == active.attempt and job.is_confirmed == active.is_confirmed
            return make(job, now) if unchanged else None

        event = self._ledger.append(decide)
        if event is not None:
            _LOG.info("%s of %s, attempt %d: %s", event.kind, event.job, event.attempt, event.outcome)
        return event is not None


def _next_event(
    state: LedgerState, teams: Mapping[str, Team], capacity: Capacity, now: float, quantum: float
) -> JobEvent | None:
    """Return the event of the first decision of the queue, or None."""
    decisions = plan(state, teams, capacity, now=now, quantum=quantum).decisions
    if not decisions:
        return None
    decision = decisions[0]
    if isinstance(decision, Start):
        return _event(decision.job, "start", attempt=decision.job.attempt + 1)
    return _event(decision.job, "stop", reason=decision.reason, then=decision.then)


def end_of(job: Job, found: RunState, now: float) -> JobEvent:
    """Decide what follows the end of an attempt.

    An attempt that failed is repeated as often as the job's `retries` say, unless its exit code says that a repetition
    cannot help: 2 (invalid input) and 130 (interrupted), as for `brew360 train`. A lost attempt counts as failed.

    Args:
        job: Before the end.
        found: What the cluster says; not active.
        now: Unix time, in seconds.
    """
    ended = iso_time(min(now, found.ended) if found.ended is not None else now)

    def event(outcome: str, then: str, reason: str) -> JobEvent:
        return _event(job, "end", outcome=outcome, then=then, reason=reason, ended=ended)

    if found.status == "succeeded":
        return event("succeeded", "succeeded", "")
    if job.state == "stopping":
        return event("cancelled" if job.then == "cancelled" else "preempted", job.then, job.reason)
    if found.status == "stopped":
        return event("cancelled", "cancelled", "it was stopped on the cluster, not through the gateway")
    if found.status == "missing":
        outcome, why = "lost", "the cluster does not know it any more: its head node was restarted"
    elif found.exit_code is None:
        outcome, why = "lost", found.message or "its driver was lost"
    else:
        outcome, why = "failed", f"exit code {found.exit_code}: {found.message}"
    is_final = found.exit_code is not None and found.exit_code in FINAL
    if is_final or job.failures >= job.spec.retries:
        retried = f" after {job.spec.retries} retries" if job.failures and not is_final else ""
        return event(outcome, "failed", f"{why}{retried}")
    return event(outcome, "queued", f"attempt {job.attempt} {outcome}: {why}")


def _event(job: Job, kind: str, *, attempt: int | None = None, **fields: str) -> JobEvent:
    return JobEvent(
        number=0,
        kind=kind,
        team=job.team,
        time="",
        by=GATEWAY,
        job=job.id,
        attempt=job.attempt if attempt is None else attempt,
        **fields,  # type: ignore[arg-type]
    )
