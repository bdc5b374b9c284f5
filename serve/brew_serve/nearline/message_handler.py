"""What a nearline consumer does with a message: adds events to the member's history, and ranks their slates anew.

At-least-once: a message may come twice, late, or with others in any order, and work may end anywhere. Every write is
keyed (events by their id, slates and rankings by how new they are), so that doing it again changes nothing.

Owns: that work and its outcome. Does not own: the queue, nor how an outcome reaches the outbox (`nearline.dispatch`).
"""

import logging
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

from brew_data.prompts.compiler import Entity, Past
from brew_platform.errors import UserError
from brew_serve.context.base import Context, MemberEvent, Snapshot, UnknownId
from brew_serve.nearline.outbox import Job
from brew_serve.nearline.store import CandidateSlate, NearlineStore, Outcome, StoredRanking
from brew_serve.ranking.response import ranking_fields
from brew_serve.ranking.scoring import Scorer

__all__ = ["NearlineWorker"]

_LOG = logging.getLogger("brew_serve")
_EVENT_IDS = 100  # told with a ranking


class NearlineWorker:
    """Does jobs with one model version.

    Args:
        number: of the version, in the registry.
        scorer: of the version; the one that online requests use.
        context: where events go and histories come from.
        store: of slates, rankings and receipts.
        run: runs a coroutine of the scorer and waits for it.
        most_attempts: after as many that ended without a word (the consumer died), a job is given up.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        number: int,
        scorer: Scorer,
        context: Context,
        store: NearlineStore,
        run: Callable[[Coroutine[Any, Any, Any]], Any],
        *,
        most_attempts: int = 5,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._number, self._scorer, self._context, self._store = number, scorer, context, store
        self._run, self._most_attempts, self._clock = run, most_attempts, clock

    def handle(self, member_id: str, jobs: Sequence[Job]) -> None:
        """Does jobs of one member, and leaves a receipt for each.

        What a job itself is wrong about (UserError) makes it dead and stops no other; any other failure makes all that
        are not done yet failed.

        Raises:
            Unavailable: no receipt could be written; the jobs are sent again when their time is up.
        """
        receipts = self._store.begin([job.job_id for job in jobs], self._clock())
        outcomes: dict[str, Outcome] = {}
        todo = []
        for job in jobs:
            receipt = receipts[job.job_id]
            if receipt.attempts > self._most_attempts:
                told = receipt.error or "the consumer ended while it worked on this, and left no word"
                outcomes[job.job_id] = Outcome(state="dead", error=told)
            elif receipt.state not in ("done", "dead"):
                todo.append(job)
        try:
            self._do(member_id, todo, outcomes)
        except Exception as error:
            _LOG.warning("nearline work for %s failed: %s", member_id, error)
            told = f"{type(error).__name__}: {error}"
            for job in todo:
                last = receipts[job.job_id].attempts >= self._most_attempts
                outcomes.setdefault(job.job_id, Outcome(state="dead" if last else "failed", error=told))
        self._store.settle(outcomes)

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
            slates = self._store.slates(member_id)  # read after the events are in: see `_rank_and_keep`
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
            except UserError as error:  # the event is in; what it cannot be shown in stays as it is
                _LOG.warning("the ranking of %s for %s is not renewed: %s", slate.task, member_id, error)
        outcomes |= {job_id: Outcome(state="done") for job_id in events}

    def _readable(self, profile: Mapping[str, object], event: MemberEvent) -> MemberEvent:
        """The event, if the model can read it: a turn that it cannot read would spoil all of the member's prompts."""
        entity = event.entity or self._context.entity(event.entity_id)
        past = Past(entity=entity, surface=event.surface, action=event.action, timestamp=event.timestamp)
        self._scorer.compiler.turn(profile, past)
        return event

    def _rank_and_keep(self, slate: CandidateSlate) -> None:
        """Ranks what was asked for, and then keeps the slate: one that cannot be ranked must not spoil later events.

        Another consumer may record an event meanwhile, and see no slate to rank anew. So we look again once the slate
        is there: either that consumer sees the slate, or we see its event.
        """
        seen = ""
        while seen < (revision := self._context.snapshot(slate.member_id).revision):
            self._rank(slate)
            self._store.put_slate(slate)
            seen = revision

    def _rank(self, slate: CandidateSlate) -> None:
        """Ranks a slate, unless the ranking that is there has seen all that this one would, or is of a newer slate.

        Whichever version made that one: work that is done twice while versions change is not told by two of them.
        """
        snapshot = self._context.snapshot(slate.member_id)
        newness = f"{slate.newness}.{snapshot.revision}"
        stored = self._store.ranking(slate.task, slate.member_id)
        if stored is None or stored.newness < newness:
            self._store.put_ranking(self._ranking(slate, snapshot, newness))

    def _ranking(self, slate: CandidateSlate, snapshot: Snapshot, newness: str) -> StoredRanking:
        suite = self._scorer.compiler.suite
        task = suite.task(slate.task)
        entity_type = suite.surface(task.surface).entity_type
        candidates = [
            (one, self._context.entity(one))
            if isinstance(one, str)
            else (one["id"], Entity(entity_type=entity_type, fields=one["fields"]))
            for one in slate.candidates
        ]
        ranking = self._run(
            self._scorer.rank(task, snapshot.profile, snapshot.history, candidates, own_words=slate.instruction)
        )
        fields = ranking_fields(ranking, slate.top_k)
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
