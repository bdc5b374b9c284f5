"""What the gateway does for a caller: submit, show, cancel, logs and use. `app` offers it over HTTP."""

import json
import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from brew_cluster.gateway.commands import prepare
from brew_cluster.gateway.events import JobEvent, iso_time
from brew_cluster.gateway.executor import Run
from brew_cluster.gateway.job_gateway import JobGateway
from brew_cluster.gateway.queue import dominant_share, plan, quota_refusal
from brew_cluster.gateway.runs import build_run
from brew_cluster.gateway.spec import AttemptState, JobSpec, JobState, LogPart, Submission, TeamUsage
from brew_cluster.gateway.state import Job, LedgerState, month_of
from brew_platform.errors import BrewError, UserError
from brew_platform.identity.keys import Team
from brew_platform.tracing import current_span
from brew_serve.errors import Forbidden, QuotaExceeded, Refusal
from brew_serve.http.error_responses import describe_validation_error
from brew_serve.http.strict_json import parse_json

__all__ = ["Caller", "JobService", "OverQuota", "UnknownJob"]

_LOG = logging.getLogger("brew_cluster")
_LONGEST_LOG_PART = 1_000_000  # characters
_LONGEST_REFUSED = 4_000  # characters of a refused submission that the ledger keeps
_REFUSED_KEYS = 20  # per hour that the ledger keeps; anyone can call, so the rest are only answered


class OverQuota(Refusal, UserError):
    """The job would exceed a quota of its team."""

    status, code = 403, "quota_exceeded"


class UnknownJob(Refusal, UserError):
    """The team has no such job."""

    status, code = 404, "not_found"


@dataclass(frozen=True, kw_only=True)
class Caller:
    """Who calls: the team of the key, with the key's scopes, and the key's id."""

    team: Team
    key_id: str

    @property
    def by(self) -> str:
        """How the ledger names the caller."""
        return f"key {self.key_id}"

    @property
    def is_admin(self) -> bool:
        """Whether the caller sees the jobs of all teams."""
        return "admin" in self.team.scopes


class JobService:
    """The jobs of a ledger, for callers. Threads can share it.

    Args:
        gateway: The ledger, the cluster, the settings and the teams.
        problem: Returns why nothing can start now; empty if it can.
        clock: Seconds, for the limits per minute.
    """

    def __init__(
        self,
        gateway: JobGateway,
        *,
        problem: Callable[[], str] = str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.gateway, self.ledger, self.config = gateway, gateway.ledger, gateway.config
        self._problem = problem
        self._rates = _Rates(clock)

    def submit(self, caller: Caller, body: bytes) -> JobState:
        """Accept or refuse a job; the ledger keeps both.

        Args:
            caller: Who submits it.
            body: JSON of a `Submission`.

        Raises:
            UserError: The submission is invalid, or the job does not fit on the cluster.
            OverQuota: A quota of the team does not allow it.
            QuotaExceeded: The team has submitted too many jobs in the last minute.
        """
        if wait := self._rates.take(caller.team.name, self.config.max_submissions_per_minute):
            raise QuotaExceeded(
                f"team {caller.team.name} has submitted {self.config.max_submissions_per_minute} jobs within a minute; "
                f"try again in {wait:.0f} s.",
                wait,
            )
        try:
            submission = _parse(body)
            if caller.team.name.startswith("."):
                raise UserError(f"team {caller.team.name} cannot have a folder of that name; ask for another team.")
            spec = prepare(submission.job, self.gateway.capacity)
        except UserError as error:
            self._refuse(caller, body, str(error))
            raise
        event = self.ledger.append(lambda state, now: self._decide(state, now, caller, spec, submission.request_id))
        if event is not None and event.kind == "refuse":
            raise OverQuota(event.reason)

        def find(state: LedgerState, now: float) -> str:
            id_ = state.job_of_request(caller.team.name, submission.request_id)
            assert id_ is not None
            return id_

        return self.show(caller, event.job if event is not None else self.ledger.read(find))

    def refuse_key(self, team: str, key_id: str, why: str) -> None:
        """Keep in the ledger that a key was refused, up to 20 per hour.

        Args:
            team: Of the key; empty if the key is unknown.
            key_id: Of the key; empty if there is none.
            why: The sentence of the response.
        """
        if not self._rates.take("", _REFUSED_KEYS, seconds=3_600):
            try:
                self.ledger.append(
                    lambda state, now: _refusal(team, f"key {key_id}" if key_id else "no key", "key", why, None)
                )
            except BrewError as error:  # the caller, whom nobody knows, is answered 401 and not where the store is
                _LOG.error("the refusal of a key was not kept: %s", error)

    def show(self, caller: Caller, job: str) -> JobState:
        """Return the state of a job.

        Raises:
            UnknownJob: The caller's team has no such job.
        """

        def describe(state: LedgerState, now: float) -> JobState:
            found = _find(state, caller, job)
            return self._describe(found, self._places(state, now) if found.state == "queued" else {}, now)

        return self.ledger.read(describe)

    def jobs(self, caller: Caller, *, all_teams: bool, ended: bool) -> list[JobState]:
        """Return jobs, the newest first.

        Args:
            caller: Whose jobs.
            all_teams: Of all teams.
            ended: Also those that have ended.

        Raises:
            Forbidden: `all_teams` needs the scope `admin`.
        """
        if all_teams and not caller.is_admin:
            raise Forbidden("the jobs of all teams are for keys with the scope admin; leave out --all-teams.")

        def describe(state: LedgerState, now: float) -> list[JobState]:
            places = self._places(state, now)
            found = state.jobs.values() if ended else state.open_jobs()
            mine = [job for job in found if all_teams or job.team == caller.team.name]
            return [self._describe(job, places, now) for job in reversed(mine)]

        return self.ledger.read(describe)

    def cancel(self, caller: Caller, job: str) -> JobState:
        """Cancel a job; one that has ended stays as it is.

        Raises:
            UnknownJob: The caller's team has no such job.
        """

        def decide(state: LedgerState, now: float) -> JobEvent | None:
            found = _find(state, caller, job)
            if found.ended is not None or found.then == "cancelled":
                return None
            reason = f"cancelled by {caller.by} of team {caller.team.name}"
            return JobEvent(
                number=0, kind="cancel", team=found.team, time="", by=caller.by, job=found.id, attempt=found.attempt,
                reason=reason,
            )  # fmt: skip

        self.ledger.append(decide)
        return self.show(caller, job)

    def log_part(self, caller: Caller, job: str, *, attempt: int, offset: int) -> LogPart:
        """Return the log of an attempt from a character on, at most a million characters.

        Raises:
            UnknownJob: The caller's team has no such job, or it has no such attempt.
            ClusterUnavailable: The cluster does not answer.
        """

        def find(state: LedgerState, now: float) -> tuple[Run | None, LogPart]:
            found = _find(state, caller, job)
            count = found.attempt
            if attempt > max(count, 1):
                raise UnknownJob(f"{job} has {count} attempts, and no number {attempt}; pass one of 1 to {count}.")
            # Read before the log, so that the end of the log is in it.
            has_ended = count > 0 and found.attempts[attempt - 1].ended is not None
            empty = LogPart(
                attempt=attempt if count else 0, offset=offset, text="", is_complete=has_ended,
                state=_state(found.state), attempts=count,
            )  # fmt: skip
            return build_run(found, attempt, self.config) if count else None, empty

        run, empty = self.ledger.read(find)
        if run is None:
            return empty
        text = self.gateway.executor.logs(run, offset)
        part = text[:_LONGEST_LOG_PART]
        return empty.model_copy(update={"text": part, "is_complete": empty.is_complete and part == text})

    def usage(self, caller: Caller) -> TeamUsage:
        """Return what the caller's team uses, and its quotas."""
        team = caller.team

        def measure(state: LedgerState, now: float) -> TeamUsage:
            mine = [job for job in state.open_jobs() if job.team == team.name]
            return TeamUsage(
                team=team.name,
                month=month_of(now),
                gpu_hours=state.gpu_seconds(team.name, month_of(now), now) / 3_600,
                gpu_hours_per_month=team.gpu_hours_per_month,
                running_gpus=state.active_gpus(team.name),
                concurrent_gpus=team.concurrent_gpus,
                queued=sum(job.state == "queued" for job in mine),
                running=sum(job.is_active for job in mine),
            )

        return self.ledger.read(measure)

    def _decide(
        self, state: LedgerState, now: float, caller: Caller, spec: JobSpec, request_id: str
    ) -> JobEvent | None:
        """Return the event that accepts or refuses a job; None if the request was accepted before."""
        team = caller.team
        if state.job_of_request(team.name, request_id) is not None:
            return None
        queued = sum(job.team == team.name and job.state == "queued" for job in state.open_jobs())
        why = quota_refusal(state, team, gpus=spec.gpus, max_seconds=spec.max_seconds, now=now)
        if queued >= self.config.max_queued_jobs:
            why = (
                f"team {team.name} has {queued} jobs in the queue, which is the limit; submit it when some have ended."
            )
        document = spec.model_dump(mode="json", exclude_defaults=True)
        if why is not None:
            return _refusal(team.name, caller.by, "quota", why, document)
        return JobEvent(
            number=0, kind="accept", team=team.name, time="", by=caller.by, job=f"job-{state.number + 1}",
            spec=document, request_id=request_id, weight=team.weight, traceparent=current_span().traceparent,
            rate=dominant_share(spec.gpus, spec.cpus, self.gateway.capacity),
        )  # fmt: skip

    def _refuse(self, caller: Caller, body: bytes, why: str) -> None:
        sent = {"sent": body[:_LONGEST_REFUSED].decode("utf-8", "replace")}
        self.ledger.append(lambda state, now: _refusal(caller.team.name, caller.by, "invalid", why, sent))

    def _places(self, state: LedgerState, now: float) -> dict[str, tuple[int, str]]:
        """Return the position in the queue and the reason to wait of each queued job."""
        queue = plan(state, self.gateway.teams(), self.gateway.capacity, now=now, quantum=self.config.quantum_seconds)
        return {waiting.job.id: (place, waiting.reason) for place, waiting in enumerate(queue.waiting, 1)}

    def _describe(self, job: Job, places: Mapping[str, tuple[int, str]], now: float) -> JobState:
        position, reason = places.get(job.id, (None, "")) if job.state == "queued" else (None, job.reason)
        problem = self._problem()
        if problem and (job.state == "starting" or (job.state == "queued" and not reason)):
            reason = problem
        if job.state == "queued" and job.reason:
            reason = f"{reason}. Before: {job.reason}" if reason else job.reason
        attempts = [
            AttemptState(
                number=attempt.number,
                started=iso_time(attempt.started),
                ended=None if attempt.ended is None else iso_time(attempt.ended),
                outcome=_state(attempt.outcome),
                reason=attempt.reason,
                gpu_seconds=round(job.spec.gpus * attempt.seconds(now), 3),
            )
            for attempt in job.attempts
        ]
        return JobState(
            id=job.id,
            team=job.team,
            state=_state(job.state),
            spec=job.spec,
            command=job.spec.text,
            accepted=iso_time(job.accepted),
            ended=None if job.ended is None else iso_time(job.ended),
            position=position,
            reason=reason,
            attempts=attempts,
            gpu_seconds=round(sum(attempt.gpu_seconds for attempt in attempts), 3),
        )


class _Rates:
    """Limits of calls per minute or hour, by name: token buckets."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._used: dict[str, tuple[float, float]] = {}  # calls that count, at a time

    def take(self, name: str, most: int, *, seconds: float = 60.0) -> float:
        """Count one of at most `most` calls per `seconds`; return 0, or how many seconds it must wait."""
        with self._lock:
            now = self._clock()
            used, since = self._used.get(name, (0.0, now))
            used = max(0.0, used - (now - since) * most / seconds)
            if used + 1 > most:
                return (used + 1 - most) * seconds / most
            self._used[name] = (used + 1, now)
            return 0.0


def _parse(body: bytes) -> Submission:
    value = parse_json(body)
    try:
        return Submission.model_validate(value)
    except ValidationError as error:
        errors = [{**details, "loc": ("body", *details["loc"])} for details in error.errors(include_url=False)]
        raise UserError(describe_validation_error(errors)) from error


def _refusal(team: str, by: str, kind: str, why: str, spec: Mapping[str, Any] | None) -> JobEvent:
    return JobEvent(number=0, kind="refuse", team=team, time="", by=by, outcome=kind, reason=why, spec=spec)


def _find(state: LedgerState, caller: Caller, job: str) -> Job:
    found = state.jobs.get(job)
    if found is None or (found.team != caller.team.name and not caller.is_admin):
        raise UnknownJob(
            f"team {caller.team.name} has no job {json.dumps(job[:100])}; `brew360 jobs list --ended` shows its jobs."
        )
    return found


def _state(state: str) -> Any:
    return state
