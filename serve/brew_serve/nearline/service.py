"""Ingress of the nearline service, without HTTP and Ray: stores events and requests in the outbox, returns rankings."""

import time
import uuid
from collections.abc import Callable
from urllib.parse import quote, urlencode

from brew_data.privacy.pseudonyms import Pseudonyms
from brew_data.prompts.suite import TaskSuite
from brew_platform.errors import UserError
from brew_serve.context.base import UnknownId
from brew_serve.nearline.bounded_threads import BoundedThreads
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

_THREADS = 8  # of each pool
_WAITING = 256  # calls that wait for a thread of a pool; more are refused with 503
_AHEAD_SECONDS = 3600.0  # clock skew allowed for events; an event dated next year would stay the newest until then


class NearlineService:
    """The ingress of the nearline service; `NearlineService.open` creates it from settings.

    The methods block on disk or network, so call them in a thread: of `writing` (`events` and `rank`, which need the
    outbox only) or of `reading` (`ranking`, which needs the store). While the store hangs, events are still accepted.

    Args:
        outbox: Stores accepted jobs; closed by `close`.
        store: Slates, rankings and receipts; closed by `close`.
        dispatcher: Sends the jobs of the outbox; closed first by `close`.
        suite: Returns the tasks of the version that is served now.
        pseudonyms: Of the members in the member context; None: they have their ids. What is stored has pseudonyms, too.
        clock: Returns seconds since 1970.
    """

    def __init__(
        self,
        outbox: Outbox,
        store: NearlineStore,
        dispatcher: Dispatcher,
        suite: Callable[[], TaskSuite],
        *,
        pseudonyms: Pseudonyms | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.outbox = outbox
        self.writing = BoundedThreads("nearline-write", threads=_THREADS, waiting=_WAITING)
        self.reading = BoundedThreads("nearline-read", threads=_THREADS, waiting=_WAITING)
        self._store, self._dispatcher, self._suite, self._clock = store, dispatcher, suite, clock
        self._stored_id: Callable[[str], str] = str if pseudonyms is None else pseudonyms.of

    @staticmethod
    def open(
        config: NearlineConfig, suite: Callable[[], TaskSuite], pseudonyms: Pseudonyms | None = None
    ) -> "NearlineService":
        """Open outbox, store and queue, and start the dispatcher.

        Args:
            config: Settings of the nearline service.
            suite: Returns the tasks of the version that is served now.
            pseudonyms: Of the members in the member context; None: they have their ids.

        Raises:
            UserError: A file is not a SQLite database.
        """
        from brew_serve.nearline.celery_queue import CeleryQueue

        outbox, store = config.open_outbox(), config.open_store()
        dispatcher = Dispatcher(outbox, CeleryQueue(config), store, config.dispatch)
        dispatcher.start()
        return NearlineService(outbox, store, dispatcher, suite, pseudonyms=pseudonyms)

    def events(self, batch: EventBatch) -> EventsAccepted:
        """Accept all events or none. They are durable when this returns.

        Raises:
            UserError: The surface or the action of an event is unknown, its timestamp is in the future, or its id was
                used before with other content.
            Overloaded: Too many jobs are open.
            Unavailable: The disk failed.
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
                    f"events.{at}: timestamp {event.timestamp.isoformat()} is in the future. Send past events only."
                )
        accepted = self._accept(
            [
                Job(
                    job_id=f"event:{event.event_id}",
                    kind="event",
                    member_id=self._stored_id(event.member_id),
                    payload=event.payload(),
                )
                for event in batch.events
            ]
        )
        return EventsAccepted(accepted=accepted[0], known=accepted[1])

    def rank(self, request: NearlineRankRequest) -> RankAccepted:
        """Accept a ranking request. It is durable when this returns.

        Raises:
            UserError: The task is unknown, or the request id was used before with other content.
            Overloaded: Too many jobs are open.
            Unavailable: The disk failed.
        """
        task = self._suite().task(request.task)
        request_id = request.request_id or uuid.uuid4().hex
        self._accept(
            [
                Job(
                    job_id=f"rank:{request_id}",
                    kind="rank",
                    member_id=self._stored_id(request.member_id),
                    task=task.name,
                    payload=request.payload(request_id),
                )
            ]
        )
        return RankAccepted(request_id=request_id, result=_path(task.name, request.member_id))

    def ranking(self, task: str, member_id: str) -> NearlineRanking:
        """Return the latest ranking of a member on a task, with its staleness.

        Raises:
            UnknownId: There is no ranking; the message says why, if that is known.
            UserError: The task is unknown.
            Unavailable: The store cannot be read now.
        """
        self._suite().task(task)
        stored_id = self._stored_id(member_id)
        waiting = self.outbox.waiting(stored_id, task)
        stored = self._store.ranking(task, stored_id)
        if stored is None:
            raise UnknownId(
                self._explain_missing(task, member_id, any(job.job_id.startswith("rank:") for job in waiting))
            )
        # Jobs that the ranking includes can still be open in the outbox, until the dispatcher reads their receipts.
        included = {f"event:{id_}" for id_ in stored.event_ids} | {f"rank:{stored.request_id}"}
        unseen = [job.accepted_at for job in waiting if job.job_id not in included]
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

    @property
    def problem(self) -> str:
        """Why jobs are not sent to the consumers now; empty if they are. Events are accepted in any case."""
        return self._dispatcher.problem

    def close(self) -> None:
        """Stop the dispatcher and the threads, and close the stores. Unsent jobs stay in the outbox."""
        self._dispatcher.close()
        self.writing.close()
        self.reading.close()
        self.outbox.close()
        self._store.close()

    def _accept(self, jobs: list[Job]) -> tuple[int, int]:
        accepted = self.outbox.accept(jobs, self._clock())
        self._dispatcher.kick()
        return accepted.new, accepted.known

    def _explain_missing(self, task: str, member_id: str, requested: bool) -> str:
        if requested:
            return f"the ranking of {task} for member {member_id!r} is being computed; try again in a moment."
        for letter in self.outbox.dead_letters(member_id=self._stored_id(member_id)):
            if letter.job.task == task:
                return f"the ranking of {task} for member {member_id!r} failed: {letter.error}"
        return f"there is no ranking of {task} for member {member_id!r}; request it with POST /v1/nearline/rank."


def _path(task: str, member_id: str) -> str:
    """Return the address of a ranking. Both ids are in the query: a path gives `/`, `.` and `..` a meaning."""
    return f"/v1/nearline/rankings?{urlencode({'task': task, 'member_id': member_id}, quote_via=quote, safe='')}"
