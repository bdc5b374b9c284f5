"""Moves jobs from the outbox to the queue and their outcomes back.

One step collects the receipts of sent jobs and then sends the jobs that are due. All state is in the outbox, so the
process may be killed at any point, and several dispatchers may run on one outbox.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from brew_platform.settings import NonNegativeSeconds, PositiveInt, Seconds, Settings
from brew_serve.nearline.outbox import Job, Outbox
from brew_serve.nearline.store import KEPT_SECONDS, NearlineStore
from brew_serve.stores.sqlite_file import Unavailable

__all__ = ["DispatchConfig", "Dispatcher", "Message", "Queue", "messages"]

_LOG = logging.getLogger("brew_serve")
_PRUNE_SECONDS = 3600.0


@dataclass(frozen=True, kw_only=True)
class DispatchConfig(Settings):
    """Sizes and times of the dispatcher."""

    window: PositiveInt = 512  # jobs in the queue at a time; others wait in the outbox, which is durable and ordered
    most_jobs: PositiveInt = 100  # jobs of one member in a message; they share one ranking
    lost_seconds: Seconds = 60.0  # time before a job that no consumer works on is sent again; doubles
    retry_seconds: Seconds = 10.0  # time before a failed job is sent again; doubles
    poll_seconds: Seconds = 0.2  # interval between polls of outbox and receipts
    # How long done jobs are kept, for `Outbox.replay_done` and to detect repeated ids.
    keep_seconds: NonNegativeSeconds = 7 * 86_400
    dead_seconds: NonNegativeSeconds = 90 * 86_400  # how long dead letters are kept


@dataclass(frozen=True, kw_only=True)
class Message:
    """Jobs of one member that a consumer handles together."""

    member_id: str
    jobs: list[Job]


class Queue(Protocol):
    """Carries messages to consumers. It may lose or repeat them; the outbox sends lost ones again."""

    def send(self, message: Message) -> None:
        """Send the message.

        Raises:
            Unavailable: The queue did not accept it.
        """

    def close(self) -> None:
        """Close the connection."""


def messages(jobs: Iterable[Job], most_jobs: int) -> list[Message]:
    """Group jobs by member.

    A job that was sent before gets its own message: if it kills its consumer, no other job is affected.

    Args:
        jobs: Jobs of any members.
        most_jobs: Maximum number of jobs per message.
    """
    alone: list[Message] = []
    by_member: dict[str, list[Job]] = {}
    for job in jobs:
        if job.sends:
            alone.append(Message(member_id=job.member_id, jobs=[job]))
        else:
            by_member.setdefault(job.member_id, []).append(job)
    grouped = [
        Message(member_id=member_id, jobs=own_jobs[start : start + most_jobs])
        for member_id, own_jobs in by_member.items()
        for start in range(0, len(own_jobs), most_jobs)
    ]
    return [*grouped, *alone]


class Dispatcher:
    """Runs `step` in a thread between `start` and `close`. Tests call `step` directly.

    Args:
        outbox: Jobs to send. The caller closes it after the dispatcher.
        queue: Carries messages to the consumers. The caller closes it after the dispatcher.
        store: Receipts of the consumers. The caller closes it after the dispatcher.
        config: Sizes and times.
        clock: Returns seconds since 1970.
    """

    def __init__(
        self,
        outbox: Outbox,
        queue: Queue,
        store: NearlineStore,
        config: DispatchConfig | None = None,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._outbox, self._queue, self._store, self._clock = outbox, queue, store, clock
        self._config = config or DispatchConfig()
        self.problem = ""  # why the last step failed; empty if it did not
        self._seen: dict[str, float] = {}  # when a receipt of a done job was first seen
        self._pruned = 0.0
        self._kick, self._stop = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread."""
        self._thread = threading.Thread(target=self._loop, name="nearline-dispatch", daemon=True)
        self._thread.start()

    def kick(self) -> None:
        """Run the next step now: there are new jobs."""
        self._kick.set()

    def close(self) -> None:
        """Stop the thread; unsent jobs stay in the outbox."""
        self._stop.set()
        self._kick.set()
        if self._thread is not None:
            self._thread.join()

    def step(self) -> int:
        """Collect receipts and send due jobs once.

        Returns:
            Number of messages sent.

        Raises:
            Unavailable: Outbox, store or queue cannot be used now; a later step does the rest.
        """
        now = self._clock()
        try:
            self._collect(now)
        finally:  # messages are sent even if the store is down
            sent = self._send(now)
        if now - self._pruned > _PRUNE_SECONDS:
            keep, dead = self._config.keep_seconds, self._config.dead_seconds
            self._outbox.prune(now - keep, dead_before=now - dead)
            self._store.prune(now - KEPT_SECONDS)
            self._pruned = now
        return sent

    def _collect(self, now: float) -> None:
        sent = self._outbox.enqueued()
        if not sent:
            self._store.check()  # so that `problem` does not wait for a job
            return
        receipts = self._store.receipts(sent)
        dead = {
            id_: (receipt.error or "", receipt.attempts) for id_, receipt in receipts.items() if receipt.state == "dead"
        }
        failed = {id_: receipt for id_, receipt in receipts.items() if receipt.state == "failed"}
        held = [id_ for id_, receipt in receipts.items() if receipt.held and receipt.state is None]
        self._outbox.bury(dead, now)
        for job_id, receipt in failed.items():
            wait = self._config.retry_seconds * 2 ** (receipt.attempts - 1)
            self._outbox.retry({job_id: receipt.error or ""}, due_at=now + wait)
        lost = self._config.lost_seconds
        self._outbox.extend(held, before=now + lost / 4, until=now + lost / 2)
        # After a crash before the next calls, unused receipts stay or a failure is read twice, which is harmless.
        if failed:
            self._store.reset(list(failed))
        if dead:
            self._store.forget(list(dead))
        self._settle({job_id for job_id, receipt in receipts.items() if receipt.state == "done"}, now)

    def _settle(self, done: set[str], now: float) -> None:
        self._seen = {job_id: self._seen.get(job_id, now) for job_id in done}
        settled = [job_id for job_id, since in self._seen.items() if now - since >= self._store.settle_seconds]
        if not settled:
            return
        self._store.confirm()
        # Read again: a replica may have taken over before `confirm`, without these receipts and what they stand for.
        safe = [job_id for job_id, receipt in self._store.receipts(settled).items() if receipt.state == "done"]
        self._outbox.settle(safe, now)
        if safe:
            self._store.forget(safe)

    def _send(self, now: float) -> int:
        jobs = self._outbox.claim(window=self._config.window, now=now, lost_after=self._config.lost_seconds)
        waiting = messages(jobs, self._config.most_jobs)
        for at, message in enumerate(waiting):
            try:
                self._queue.send(message)
            except Exception:
                unsent = [job.job_id for message in waiting[at:] for job in message.jobs]
                self._outbox.release(unsent, due_at=now + self._config.poll_seconds)
                raise
        return len(waiting)

    def _loop(self) -> None:
        while not self._stop.is_set():
            wait = self._config.poll_seconds
            try:
                self.step()
                self.problem = ""
            except Unavailable as error:
                wait = max(wait, 1.0)
                if str(error) != self.problem:  # once per error, not every second
                    _LOG.warning("nearline dispatch is paused: %s", error)
                self.problem = str(error)
            except Exception as error:  # a bug must not end the loop; the outbox keeps all jobs
                wait = max(wait, 5.0)
                self.problem = f"{type(error).__name__}: {error}"
                _LOG.exception("the nearline dispatcher failed; it continues")
            self._kick.wait(wait)
            self._kick.clear()
