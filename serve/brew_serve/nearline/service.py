"""Ingress of the nearline plane, without HTTP and Ray: stores events and requests in the outbox, returns rankings."""

import time
import uuid
from collections.abc import Callable
from urllib.parse import quote

from brew_data.prompts.suite import TaskSuite
from brew_platform.errors import UserError
from brew_serve.context.base import UnknownId
from brew_serve.nearline.config import NearlineConfig
from brew_serve.nearline.dispatcher import Dispatcher
from brew_serve.nearline.outbox import Job, Outbox
from brew_serve.nearline.store import NearlineStore
from brew_serve.schemas.nearline import (
    EventBatch,
    EventsAccepted,
    NearlineRanking,
    NearlineRankRequest,
    RankAccepted,
    SeenEvents,
    micros_of,
    time_of,
)

__all__ = ["NearlineService"]

_AHEAD_SECONDS = 3600.0  # clock skew allowed for events; an event dated next year would stay the newest until then


class NearlineService:
    """The ingress of the nearline plane; `NearlineService.open` makes one from its settings.

    Its methods block for a synced write or a read: call them in a thread.

    Args:
        outbox, store, dispatcher: closed by `close`, the dispatcher first.
        suite: the tasks of the version that is served now.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        outbox: Outbox,
        store: NearlineStore,
        dispatcher: Dispatcher,
        suite: Callable[[], TaskSuite],
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.outbox = outbox
        self._store, self._dispatcher, self._suite, self._clock = store, dispatcher, suite, clock

    @staticmethod
    def open(config: NearlineConfig, suite: Callable[[], TaskSuite]) -> "NearlineService":
        """Opens outbox, store and queue, and begins to dispatch.

        Raises:
            UserError: a file is something else.
        """
        from brew_serve.nearline.celery_queue import CeleryQueue

        outbox, store = config.open_outbox(), config.open_store()
        dispatcher = Dispatcher(outbox, CeleryQueue(config), store, config.dispatch)
        dispatcher.start()
        return NearlineService(outbox, store, dispatcher, suite)

    def events(self, batch: EventBatch) -> EventsAccepted:
        """Takes all of the events or none; when it returns, they are on the disk.

        Raises:
            UserError: an event's surface or action is unknown, it lies in the future, or its id was given before with
                other contents.
            Overloaded: too much is waiting.
            Unavailable: the disk failed.
        """
        suite = self._suite()
        latest = int((self._clock() + _AHEAD_SECONDS) * 1e6)
        for at, event in enumerate(batch.events):
            try:
                suite.surface(event.surface).label(event.action)
            except UserError as error:
                raise UserError(f"events.{at}: {error}") from error
            if micros_of(event.timestamp) > latest:
                raise UserError(
                    f"events.{at}: timestamp {event.timestamp.isoformat()} lies in the future; send what happened."
                )
        accepted = self._accept(
            [
                Job(job_id=f"event:{event.event_id}", kind="event", member_id=event.member_id, payload=event.payload())
                for event in batch.events
            ]
        )
        return EventsAccepted(accepted=accepted[0], known=accepted[1])

    def rank(self, request: NearlineRankRequest) -> RankAccepted:
        """Takes the request; when it returns, it is on the disk.

        Raises:
            UserError: an unknown task, or its id was given before with other contents.
            Overloaded, Unavailable: as `events`.
        """
        task = self._suite().task(request.task)
        request_id = request.request_id or uuid.uuid4().hex
        self._accept(
            [
                Job(
                    job_id=f"rank:{request_id}",
                    kind="rank",
                    member_id=request.member_id,
                    task=task.name,
                    payload=request.payload(request_id),
                )
            ]
        )
        return RankAccepted(request_id=request_id, result=_path(task.name, request.member_id))

    def ranking(self, task: str, member_id: str) -> NearlineRanking:
        """The latest ranking.

        Raises:
            UnknownId: there is none; why, as far as it is known.
            UserError: an unknown task.
            Unavailable: the store cannot be read now.
        """
        self._suite().task(task)
        waiting = self.outbox.waiting(member_id, task)
        stored = self._store.ranking(task, member_id)
        if stored is None:
            raise UnknownId(self._why_none(task, member_id, any(job.job_id.startswith("rank:") for job in waiting)))
        # Jobs that were just done may not be settled yet.
        shown = {f"event:{id_}" for id_ in stored.event_ids} | {f"rank:{stored.request_id}"}
        unseen = [job.accepted_at for job in waiting if job.job_id not in shown]
        return NearlineRanking(
            version=stored.version,
            task=task,
            member_id=member_id,
            request_id=stored.request_id,
            computed_at=time_of(stored.computed_at),
            staleness_seconds=max(0.0, self._clock() - min(unseen) / 1e6) if unseen else 0.0,
            waiting=len(unseen),
            events=SeenEvents(count=stored.events, newest=stored.event_ids),
            **stored.answer,
        )

    def close(self) -> None:
        """Ends the dispatcher; what it has not sent stays in the outbox."""
        self._dispatcher.close()
        self.outbox.close()
        self._store.close()

    def _accept(self, jobs: list[Job]) -> tuple[int, int]:
        accepted = self.outbox.accept(jobs, self._clock())
        self._dispatcher.kick()
        return accepted.new, accepted.known

    def _why_none(self, task: str, member_id: str, waits: bool) -> str:
        if waits:
            return f"the ranking of {task} for member {member_id!r} is being computed; ask again in a moment."
        for letter in self.outbox.dead_letters(member_id=member_id):
            if letter.job.task == task:
                return f"the ranking of {task} for member {member_id!r} was given up: {letter.error}"
        return f"there is no ranking of {task} for member {member_id!r}; ask for one with POST /v1/nearline/rank."


def _path(task: str, member_id: str) -> str:
    return f"/v1/nearline/rankings/{quote(task, safe='')}/{quote(member_id, safe='')}"
