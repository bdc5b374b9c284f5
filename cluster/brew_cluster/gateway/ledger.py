"""The ledger of the gateway: a create-only log of events in an object store, which any number of gateways append to.

Whatever depends on earlier events (whether a job is accepted, starts or has ended) is decided inside the append, so two
gateways cannot both decide it. A gateway that is killed leaves an event or none.
"""

import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

from brew_cluster.gateway.events import JobEvent, iso_time
from brew_cluster.gateway.state import LedgerState
from brew_platform.errors import UserError
from brew_platform.registry.snapshot_log import EVERY, SnapshotLog
from brew_platform.storage.base import ObjectStore

__all__ = ["Ledger"]

T = TypeVar("T")

_KEPT_SNAPSHOTS = 2  # each has all earlier events
_MOST_SKEW = 60.0  # seconds between the clocks of the gateway and the store


class _NothingToAppend(Exception):
    """The decision inside an append was that no event follows."""


class Ledger:
    """The ledger of one cluster. Threads can share it.

    Args:
        store: The object store.
        name: Of the ledger; gateways with the same store and name share it.
        clock: Unix time, in seconds.

    All methods raise StorageError if the store fails, and RegistryError if the ledger is damaged.
    """

    def __init__(self, store: ObjectStore, name: str, *, clock: Callable[[], float] = time.time) -> None:
        self._log = SnapshotLog(store, f"jobs/{name}/events", snapshots=f"jobs/{name}/snapshots")
        self._clock = clock
        self._lock = threading.RLock()
        self._state = LedgerState()

    def read(self, function: Callable[[LedgerState, float], T]) -> T:
        """Return what a function computes from the state of now; it must neither change nor keep the state.

        Args:
            function: Gets the state and the Unix time.
        """
        with self._lock:
            return function(self._advance(), self._clock())

    def append(self, decide: Callable[[LedgerState, float], JobEvent | None]) -> JobEvent | None:
        """Append the event that follows from the state, if any.

        Args:
            decide: Gets the state after all earlier events and the Unix time, and returns the event, of which number,
                time and write_id are filled in, or None. It is called again if another gateway appends meanwhile.

        Returns:
            The event as it is stored; None if `decide` returned None.
        """
        write_id = secrets.token_hex(16)

        def make(number: int) -> dict[str, Any]:
            now = self._clock()
            event = decide(self._advance(number - 1), now)
            if event is None:
                raise _NothingToAppend
            return replace(event, number=number, time=iso_time(now), write_id=write_id).document()

        with self._lock:
            try:
                number, document = self._log.append(make, write_id=write_id)
            except _NothingToAppend:
                return None
            if number % EVERY == 0:
                for old in self._log.snapshot_numbers()[:-_KEPT_SNAPSHOTS]:
                    self._log.delete_snapshot(old)
            self._advance()
            return JobEvent.from_document(number, document)

    def check_clock(self) -> None:
        """Compare the clock with that of the store, by an object that is deleted again.

        Raises:
            UserError: They differ by more than a minute; quotas and the order of jobs depend on the time.
            StorageError: The store failed.
        """
        key = f"{self._log.prefix.rpartition('/')[0]}/clock/{secrets.token_hex(16)}"
        self._log.store.put_if_absent(key, b"")
        ahead = self._clock() - self._log.store.modified(key).timestamp()
        self._log.store.delete(key)
        if abs(ahead) > _MOST_SKEW:
            raise UserError(
                f"the clock of this machine is {abs(ahead):,.0f} s {'ahead of' if ahead > 0 else 'behind'} that of the "
                f"store, and GPU-hours and the order of jobs depend on it. Set the clock, for example with NTP."
            )

    def events(self, *, after: int = 0, limit: int = 1_000) -> list[JobEvent]:
        """Return the events after a number, oldest first, at most `limit`."""
        with self._lock:
            documents = self._log.documents()[after : after + limit]
        return [JobEvent.from_document(number, document) for number, document in enumerate(documents, after + 1)]

    def _advance(self, until: int | None = None) -> LedgerState:
        """Fold the events that are new, up to a number."""
        documents = self._log.documents()
        for number in range(self._state.number + 1, (len(documents) if until is None else until) + 1):
            self._state.apply(JobEvent.from_document(number, documents[number - 1]))
        return self._state
