"""Keeps the jobs that a consumer works on from being sent again, however long they take."""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from brew_serve.nearline.store import NearlineStore
from brew_serve.stores.sqlite_file import Unavailable

__all__ = ["JobHolds"]

_LOG = logging.getLogger("brew_serve")


class JobHolds:
    """The holds of one consumer process, which renews them in a thread between `start` and `close`.

    A hold ends by itself when the process ends, so its jobs are then sent again.

    Args:
        store: Records the holds.
        seconds: Lifetime of a hold that is not renewed; it is renewed after a third of it.
        job_seconds: Time after which a job counts as hung, and its hold is not renewed.
        clock: Returns seconds of a monotonic clock.
    """

    def __init__(
        self,
        store: NearlineStore,
        *,
        seconds: float,
        job_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store, self._seconds, self._job_seconds, self._clock = store, seconds, job_seconds, clock
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._held: dict[int, tuple[list[str], float]] = {}  # job ids, and the time when they count as hung
        self._thread: threading.Thread | None = None

    @contextmanager
    def hold(self, job_ids: Sequence[str]) -> Iterator[None]:
        """Hold the jobs while the block runs.

        Raises:
            Unavailable: The store cannot be used now.
        """
        self._store.hold(job_ids, self._seconds)
        entry = (list(job_ids), self._clock() + self._job_seconds)
        with self._lock:
            self._held[id(entry)] = entry
        try:
            yield
        finally:
            with self._lock:
                del self._held[id(entry)]

    def renew(self) -> None:
        """Renew all holds once.

        Raises:
            Unavailable: The store cannot be used now.
        """
        now = self._clock()
        with self._lock:
            job_ids = [job_id for ids, hung_at in self._held.values() if now < hung_at for job_id in ids]
        if job_ids:
            self._store.hold(job_ids, self._seconds)

    def start(self) -> None:
        """Start the thread."""
        self._thread = threading.Thread(target=self._loop, name="nearline-holds", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop the thread."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _loop(self) -> None:
        while not self._stop.wait(self._seconds / 3):
            try:
                self.renew()
            except Unavailable as error:
                _LOG.warning("the holds of nearline jobs are not renewed: %s", error)
            except Exception:  # a bug must not end the thread
                _LOG.exception("the holds of nearline jobs are not renewed")
