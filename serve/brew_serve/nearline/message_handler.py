"""Handles a nearline message: adds the events to the member's history and recomputes the member's rankings.

Delivery is at least once: a message may arrive twice, late, or out of order, and the consumer may be killed at any
point. Every write is keyed (events by id, slates and rankings by `newness`), so that repeating it changes nothing.
"""

import logging
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

from brew_data.prompts.compiler import Entity, PastInteraction
from brew_platform.calibration_map import CalibrationMap
from brew_platform.console.logging import PrivateId
from brew_platform.errors import UserError
from brew_platform.tracing import start_span
from brew_serve.context.base import Context, MemberEvent, Snapshot, UnknownId
from brew_serve.nearline.job_holds import JobHolds
from brew_serve.nearline.outbox import Job
from brew_serve.nearline.store import CandidateSlate, NearlineStore, Outcome, StoredRanking
from brew_serve.ranking.calibration import require_calibration
from brew_serve.ranking.response import ranking_fields
from brew_serve.ranking.scoring import Scorer

__all__ = ["NearlineWorker"]

_LOG = logging.getLogger("brew_serve")
_EVENT_IDS = 100  # ids of the newest events that are stored with a ranking


class NearlineWorker:
    """Handles jobs with one model version.

    Args:
        number: Version number in the registry.
        scorer: Scorer of the version, the same as for online requests.
        context: Member context: stores events, returns histories.
        store: Slates, rankings and receipts.
        run: Runs a coroutine of the scorer and returns its result.
        holds: Keeps the jobs from being sent again while they are handled; None: they are sent again when they take
            longer than `lost_seconds`.
        calibration: Calibration map of the version; None if it has none.
        most_attempts: Attempts after which a job that kills its consumer becomes dead.
        clock: Returns seconds since 1970.
    """

    def __init__(
        self,
        number: int,
        scorer: Scorer,
        context: Context,
        store: NearlineStore,
        run: Callable[[Coroutine[Any, Any, Any]], Any],
        *,
        holds: JobHolds | None = None,
        calibration: CalibrationMap | None = None,
        most_attempts: int = 5,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._holds, self._calibration = holds, calibration
        self._number, self._scorer, self._context, self._store = number, scorer, context, store
        self._run, self._most_attempts, self._clock = run, most_attempts, clock

    def handle(self, member_id: str, jobs: Sequence[Job]) -> None:
        """Handle jobs of one member and write a receipt for each.

        A UserError concerns one job: that job becomes dead, and the others continue. Any other error marks all
        unfinished jobs as failed.

        Raises:
            Unavailable: No receipt could be written; the dispatcher sends the jobs again after `lost_seconds`.
        """
        job_ids = [job.job_id for job in jobs]
        size = {"brew360.version": self._number, "brew360.jobs": len(jobs)}
        with (
            start_span("nearline", size, parent="", kind="consumer"),
            nullcontext() if self._holds is None else self._holds.hold(job_ids),
        ):
            self._store.settle(self._attempt(member_id, jobs))

    def _attempt(self, member_id: str, jobs: Sequence[Job]) -> dict[str, Outcome]:
        """Do the jobs that are open, and return an outcome of each."""
        receipts = self._store.begin([job.job_id for job in jobs], self._clock())
        outcomes: dict[str, Outcome] = {}
        todo = []
        for job in jobs:
            receipt = receipts[job.job_id]
            if receipt.attempts > self._most_attempts:
                reason = receipt.error or "the consumer exited during this job without reporting"
                outcomes[job.job_id] = Outcome(state="dead", error=reason)
            elif receipt.state not in ("done", "dead"):
                todo.append(job)
        try:
            self._do(member_id, todo, outcomes)
        except Exception as error:
            _LOG.warning("nearline work for %s failed: %s", PrivateId(member_id), error)
            reason = f"{type(error).__name__}: {error}"
            for job in todo:
                last = receipts[job.job_id].attempts >= self._most_attempts
                outcomes.setdefault(job.job_id, Outcome(state="dead" if last else "failed", error=reason))
        return outcomes

    def _do(self, member_id: str, jobs: Sequence[Job], outcomes: dict[str, Outcome]) -> None:
        try:
            profile, _ = self._context.member(member_id)
        except UnknownId as error:
            outcomes |= {job.job_id: Outcome(state="dead", error=str(error)) for job in jobs}
            return
        events: dict[str, MemberEvent] = {}
        for job in jobs:
            if job.kind == "event":
                try:
                    events[job.job_id] = self._readable(profile, _event(job))
                except UserError as error:
                    outcomes[job.job_id] = Outcome(state="dead", error=str(error))
        slates: list[CandidateSlate] = []
        if events:
            self._context.record(list(events.values()))
            slates = self._store.slates(member_id)  # read after the events are recorded: see `_rank_and_keep`
        for job in jobs:
            if job.kind == "rank":
                try:
                    self._rank_and_keep(_slate(job))
                    outcomes[job.job_id] = Outcome(state="done")
                except UserError as error:
                    outcomes[job.job_id] = Outcome(state="dead", error=str(error))
        for slate in slates:
            try:
                self._rank(slate)
            except UserError as error:  # the event is recorded; the stored ranking stays
                _LOG.warning("the ranking of %s for %s is not updated: %s", slate.task, PrivateId(member_id), error)
        outcomes |= {job_id: Outcome(state="done") for job_id in events}

    def _readable(self, profile: Mapping[str, object], event: MemberEvent) -> MemberEvent:
        """Return the event if a turn can be compiled from it; otherwise it would break all later prompts."""
        entity = event.entity or self._context.entity(event.entity_id)
        past = PastInteraction(entity=entity, surface=event.surface, action=event.action, timestamp=event.timestamp)
        self._scorer.compiler.turn(profile, past)
        return event

    def _rank_and_keep(self, slate: CandidateSlate) -> None:
        """Rank a requested slate, then store it. A slate that cannot be ranked is not stored.

        Another consumer may record an event before the slate is stored, and then finds no slate to rank again. The loop
        therefore reads the revision again after the slate is stored: either that consumer sees the slate, or this loop
        sees its event.
        """
        seen = ""
        while seen < (revision := self._context.snapshot(slate.member_id).revision):
            self._rank(slate)
            self._store.put_slate(slate)
            seen = revision

    def _rank(self, slate: CandidateSlate) -> None:
        """Rank a slate, unless the stored ranking includes the same events or belongs to a newer slate.

        This holds for rankings of any model version, so a job that runs on two versions is stored once.
        """
        snapshot = self._context.snapshot(slate.member_id)
        newness = f"{slate.newness}.{snapshot.revision}"
        stored = self._store.ranking(slate.task, slate.member_id)
        if stored is None or stored.newness < newness:
            self._store.put_ranking(self._ranking(slate, snapshot, newness))

    def _ranking(self, slate: CandidateSlate, snapshot: Snapshot, newness: str) -> StoredRanking:
        suite = self._scorer.compiler.suite
        task = suite.task(slate.task)
        calibration = require_calibration(self._calibration, task, self._number) if slate.calibrated else None
        entity_type = suite.surface(task.surface).entity_type
        known = self._context.entities([candidate for candidate in slate.candidates if isinstance(candidate, str)])
        candidates = [
            (candidate, known[candidate])
            if isinstance(candidate, str)
            else (candidate["id"], Entity(entity_type=entity_type, fields=candidate["fields"]))
            for candidate in slate.candidates
        ]
        ranking = self._run(
            self._scorer.rank(task, snapshot.profile, snapshot.history, candidates, own_words=slate.instruction)
        )
        fields = ranking_fields(ranking, task, slate.top_k, calibration)
        return StoredRanking(
            task=slate.task,
            member_id=slate.member_id,
            request_id=slate.request_id,
            newness=newness,
            version=self._number,
            computed_at=int(self._clock() * 1e6),
            events=len(snapshot.events),
            event_ids=snapshot.events[-_EVENT_IDS:],
            answer={
                "ranking": [item.model_dump() for item in fields["ranking"]],
                "calibrated": fields["calibrated"],
                "usage": fields["usage"].model_dump(),
                "truncated": fields["truncated"].model_dump(),
            },
        )


def _event(job: Job) -> MemberEvent:
    values = dict(job.payload)
    entity = values.pop("entity", None)
    return MemberEvent(member_id=job.member_id, entity=None if entity is None else Entity(**entity), **values)


def _slate(job: Job) -> CandidateSlate:
    assert job.task is not None
    return CandidateSlate(task=job.task, member_id=job.member_id, requested_at=job.accepted_at, **job.payload)
