"""Moves jobs from the outbox to the queue, and their outcomes back: the loop that makes an accepted job certain to end.

One step collects the receipts of what was sent, and then sends what is due. All that it must remember is in the outbox,
so it may be killed anywhere, and several may run on one outbox.

Owns: that loop and its rules. Does not own: the queue (`Queue`), nor the work (`nearline.work`).
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from brew_platform.errors import ConfigError
from brew_serve.nearline.outbox import Job, Outbox
from brew_serve.nearline.store import KEPT_SECONDS, NearlineStore
from brew_serve.stores.sqlite_file import Unavailable

__all__ = ["DispatchConfig", "Dispatcher", "Message", "Queue", "messages"]

_LOG = logging.getLogger("brew_serve")
_PRUNE_SECONDS = 3600.0


@dataclass(frozen=True, kw_only=True)
class DispatchConfig:
    """When things are sent, and sent again."""

    window: int = 512  # jobs in the queue at a time; the rest waits in the outbox, where nothing is lost or overtaken
    most_jobs: int = 100  # of one member in a message: they share one ranking
    lost_seconds: float = 60.0  # without an outcome, then a job is sent again; longer than its work takes; doubles
    retry_seconds: float = 10.0  # before a job that failed is sent again; doubles
    poll_seconds: float = 0.2  # between looks at outbox and receipts
    keep_seconds: float = 7 * 86_400  # done jobs stay for `Outbox.replay_done`, and their ids are known that long

    def __post_init__(self) -> None:
        if min(self.window, self.most_jobs) < 1:
            raise ConfigError(f"{self}: window and most_jobs must be 1 or more.")
        if min(self.lost_seconds, self.retry_seconds, self.poll_seconds) <= 0 or self.keep_seconds < 0:
            raise ConfigError(f"{self}: give times greater than 0, and keep_seconds of 0 or more.")


@dataclass(frozen=True, kw_only=True)
class Message:
    """Jobs of one member that a consumer does together."""

    member_id: str
    jobs: list[Job]


class Queue(Protocol):
    """Carries messages to consumers: each at least once, it is hoped; the outbox makes up for the rest."""

    def send(self, message: Message) -> None:
        """Hands the message over.

        Raises:
            Unavailable: it was not taken.
        """

    def close(self) -> None:
        """Ends the connection."""


def messages(jobs: Iterable[Job], most_jobs: int) -> list[Message]:
    """Groups jobs by member, at most `most_jobs` each.

    A job that was sent before goes alone: should it be one that kills its consumer, it takes no other along again.
    """
    alone: list[Message] = []
    by_member: dict[str, list[Job]] = {}
    for job in jobs:
        if job.sends:
            alone.append(Message(member_id=job.member_id, jobs=[job]))
        else:
            by_member.setdefault(job.member_id, []).append(job)
    grouped = [
        Message(member_id=member_id, jobs=mine[start : start + most_jobs])
        for member_id, mine in by_member.items()
        for start in range(0, len(mine), most_jobs)
    ]
    return [*grouped, *alone]


class Dispatcher:
    """Steps by itself in a thread between `start` and `close`; tests call `step`.

    Args:
        outbox, queue, store: the caller's, who closes them after this.
        clock: seconds since 1970.
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
        self._seen: dict[str, float] = {}  # when a receipt of a done job was first seen
        self._pruned = 0.0
        self._kick, self._stop = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begins to step in a thread."""
        self._thread = threading.Thread(target=self._loop, name="nearline-dispatch", daemon=True)
        self._thread.start()

    def kick(self) -> None:
        """There is something to send: do not wait for the next look."""
        self._kick.set()

    def close(self) -> None:
        """Ends the thread; what is not sent stays in the outbox."""
        self._stop.set()
        self._kick.set()
        if self._thread is not None:
            self._thread.join()

    def step(self) -> int:
        """Collects and sends once.

        Returns:
            How many messages were sent.

        Raises:
            Unavailable: outbox, store or queue cannot be used now; what was not done is done by a later step.
        """
        now = self._clock()
        try:
            self._collect(now)
        finally:  # a store that is down holds up no message
            sent = self._send(now)
        if now - self._pruned > _PRUNE_SECONDS:
            self._outbox.prune(now - self._config.keep_seconds)
            self._store.prune(now - KEPT_SECONDS)
            self._pruned = now
        return sent

    def _collect(self, now: float) -> None:
        sent = self._outbox.enqueued()
        receipts = self._store.receipts(sent) if sent else {}
        done = {job_id for job_id, receipt in receipts.items() if receipt.state == "done"}
        self._seen = {job_id: self._seen.get(job_id, now) for job_id in done}
        settled = [job_id for job_id, since in self._seen.items() if now - since >= self._store.settle_seconds]
        dead = {id_: (one.error or "", one.attempts) for id_, one in receipts.items() if one.state == "dead"}
        failed = {id_: one for id_, one in receipts.items() if one.state == "failed"}
        self._outbox.settle(settled, now)
        self._outbox.bury(dead, now)
        for job_id, receipt in failed.items():
            wait = self._config.retry_seconds * 2 ** (receipt.attempts - 1)
            self._outbox.retry({job_id: receipt.error or ""}, due_at=now + wait)
        # Last: a crash before leaves receipts that nobody misses, or a failure that is read once more.
        if failed:
            self._store.reset(list(failed))
        if settled or dead:
            self._store.forget([*settled, *dead])

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
        told = ""
        while not self._stop.is_set():
            wait = self._config.poll_seconds
            try:
                self.step()
                told = ""
            except Unavailable as error:
                wait = max(wait, 1.0)
                if str(error) != told:  # once, not every second until it is mended
                    told = str(error)
                    _LOG.warning("nearline work waits: %s", error)
            except Exception:  # a bug must not end the only loop that sends; the outbox keeps all
                wait = max(wait, 5.0)
                _LOG.exception("the nearline dispatcher failed, and goes on")
            self._kick.wait(wait)
            self._kick.clear()
