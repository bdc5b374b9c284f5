"""The ledger of the gateway: a create-only log of events in an object store, which any number of gateways append to.

    jobs/<name>/events/, snapshots/                         the first segment of the log
    jobs/<name>/bases/<number>.json                         state after an event: the base of the next segment
    jobs/<name>/segments/<number>/events/, snapshots/       the segment after that event
    jobs/<name>/audit/<first>-<last>.jsonl.gz               events of a segment that is no longer read

Whatever depends on earlier events (whether a job is accepted, starts or has ended) is decided inside the append, so two
gateways cannot both decide it. A gateway that is killed leaves an event or none.

The last event of a full segment is `close`, after which gateways append to the next segment only. A start reads the
newest base and its segment, so neither its duration nor the number of objects depends on the age of the ledger.
"""

import gzip
import json
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any, TypeVar

from brew_cluster.gateway.base import base_of, state_of
from brew_cluster.gateway.events import JobEvent, iso_time
from brew_cluster.gateway.state import LedgerState
from brew_platform.errors import RegistryError, UserError
from brew_platform.registry.snapshot_log import EVERY, SnapshotLog
from brew_platform.storage.base import ObjectStore

__all__ = ["Ledger"]

T = TypeVar("T")

SEGMENT = 8_192  # events, after which a segment is closed
_KEPT_SNAPSHOTS = 2  # each has all earlier events of its segment
_MOST_SKEW = 60.0  # seconds between the clocks of the gateway and the store
_DAY = 86_400.0  # seconds
# A gateway that has not looked for so long starts again: its segment may have been archived. It is shorter than the
# shortest time after which that happens.
_LONGEST_PAUSE = _DAY / 24


class _NothingToAppend(Exception):
    """The decision inside an append was that no event follows."""


class _Closed(Exception):
    """The segment has been closed."""


class Ledger:
    """The ledger of one cluster. Threads can share it.

    Args:
        store: The object store.
        name: Of the ledger; gateways with the same store and name share it.
        kept_days: How long jobs that have ended stay in the state, and events stay objects of their own; at least 1.
        clock: Unix time, in seconds.

    All methods raise StorageError if the store fails, and RegistryError if the ledger is damaged.
    """

    def __init__(
        self, store: ObjectStore, name: str, *, kept_days: float = 90, clock: Callable[[], float] = time.time
    ) -> None:
        self._store, self._prefix = store, f"jobs/{name}"
        self._kept_seconds = kept_days * _DAY
        self._clock = clock
        self._lock = threading.RLock()
        self._log: SnapshotLog | None = None  # of the segment
        self._start = 0  # number of the event before the segment
        self._state = LedgerState()
        self._looked = 0.0

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
        with self._lock:
            event = self._append(decide)
            if event is not None and event.number - self._start >= SEGMENT:
                self._append(lambda state, now: JobEvent(number=0, kind="close", team="", time="", by="gateway"))
            self._advance()
            return event

    def events(self, *, after: int = 0, limit: int = 1_000) -> list[JobEvent]:
        """Return the events after a number, oldest first, at most `limit`; archived ones too."""
        with self._lock:
            self._advance()
            found: list[JobEvent] = []
            for start, end in self._parts():
                if (end is None or end > after) and len(found) < limit:
                    documents = self._documents(start, end)[max(0, after - start) :][: limit - len(found)]
                    first = max(after, start) + 1
                    found += [
                        JobEvent.from_document(number, document) for number, document in enumerate(documents, first)
                    ]
            return found

    def archive(self) -> int:
        """Compress the events of segments that were closed more than `kept_days` ago, and delete their objects.

        A call that was killed is completed by the next one, of any gateway.

        Returns:
            The number of segments that were archived.
        """
        with self._lock:
            self._advance()  # a closed segment is not the present one after that, so that no lock is needed
        archived = {end for _, end in self._archives()}
        count = 0
        for start, end in pairwise([0, *self._bases()]):
            if end not in archived:
                closed = self._store.modified(self._base_key(end)).timestamp()
                if closed + self._kept_seconds > self._clock():
                    break
                lines = [json.dumps(document, sort_keys=True) for document in self._documents(start, end)]
                text = "".join(f"{line}\n" for line in lines)
                self._store.put_if_absent(self._archive_key(start, end), gzip.compress(text.encode(), mtime=0))
                count += 1
            log = self._segment(start)
            for key in [*self._store.list(f"{log.prefix}/"), *self._store.list(f"{log.snapshots}/")]:
                self._store.delete(key)
            if start:
                self._store.delete(self._base_key(start))
        return count

    def check_clock(self) -> None:
        """Compare the clock with that of the store, by an object that is deleted again.

        Raises:
            UserError: They differ by more than a minute; quotas and the order of jobs depend on the time.
            StorageError: The store failed.
        """
        key = f"{self._prefix}/clock/{secrets.token_hex(16)}"
        self._store.put_if_absent(key, b"")
        ahead = self._clock() - self._store.modified(key).timestamp()
        self._store.delete(key)
        if abs(ahead) > _MOST_SKEW:
            raise UserError(
                f"the clock of this machine is {abs(ahead):,.0f} s {'ahead of' if ahead > 0 else 'behind'} that of the "
                f"store, and GPU-hours and the order of jobs depend on it. Set the clock, for example with NTP."
            )

    def _append(self, decide: Callable[[LedgerState, float], JobEvent | None]) -> JobEvent | None:
        write_id = secrets.token_hex(16)

        def make(number: int) -> dict[str, Any]:
            now = self._clock()
            state = self._fold(number - 1)
            if state.is_closed:
                raise _Closed
            event = decide(state, now)
            if event is None:
                raise _NothingToAppend
            return replace(event, number=state.number + 1, time=iso_time(now), write_id=write_id).document()

        if self._log is None or self._is_late():
            self._advance()
        while True:
            assert self._log is not None
            try:
                number, document = self._log.append(make, write_id=write_id)
            except _NothingToAppend:
                return None
            except _Closed:
                self._advance()
                continue
            if number % EVERY == 0:
                for old in self._log.snapshot_numbers()[:-_KEPT_SNAPSHOTS]:
                    self._log.delete_snapshot(old)
            return JobEvent.from_document(self._start + number, document)

    def _advance(self) -> LedgerState:
        """Fold the events that are new, also of segments that follow."""
        if self._log is None or self._is_late():
            self._open(max(self._bases(), default=0))
        self._looked = self._clock()
        while True:
            assert self._log is not None
            state = self._fold(len(self._log.documents()))
            if not state.is_closed:
                return state
            base = json.dumps(base_of(state, kept_seconds=self._kept_seconds), separators=(",", ":"))
            self._store.put_if_absent(self._base_key(state.number), base.encode())
            self._open(state.number)

    def _is_late(self) -> bool:
        return self._clock() - self._looked > _LONGEST_PAUSE

    def _open(self, start: int) -> None:
        """Go to the beginning of a segment."""
        state = LedgerState()
        if start:
            try:
                document = json.loads(self._store.get(self._base_key(start)))
            except ValueError:
                document = {}
            state = state_of(document if isinstance(document, dict) else {})
        self._log, self._start, self._state = self._segment(start), start, state

    def _fold(self, until: int) -> LedgerState:
        """Fold the events up to a number within the segment."""
        assert self._log is not None
        documents = self._log.documents()
        for number in range(self._state.number - self._start, until):
            self._state.apply(JobEvent.from_document(self._start + number + 1, documents[number]))
        return self._state

    def _parts(self) -> list[tuple[int, int | None]]:
        """Return the numbers before the first and of the last event of each archive and segment; None: it is open."""
        archives = self._archives()
        since = max((end for _, end in archives), default=0)
        starts = [since, *(number for number in self._bases() if number > since)]
        return [*archives, *pairwise([*starts, None])]  # type: ignore[list-item]  # only the last is None

    def _documents(self, start: int, end: int | None) -> list[dict[str, Any]]:
        """Return the documents of a segment, from its archive if it has one."""
        if start == self._start and self._log is not None:
            return list(self._log.documents())
        key = self._archive_key(start, end or 0)
        if self._store.exists(key):
            try:
                documents = [json.loads(line) for line in gzip.decompress(self._store.get(key)).splitlines()]
            except (OSError, EOFError, ValueError) as error:
                raise RegistryError(f"{key} is damaged ({error}). Restore it from a backup of the store.") from error
        else:
            documents = list(self._segment(start).documents())
        if len(documents) != (end or 0) - start:
            raise RegistryError(
                f"the job ledger has {len(documents):,} of the {(end or 0) - start:,} events after {start:,}. Restore "
                f"the objects from a backup of the store."
            )
        return documents

    def _segment(self, start: int) -> SnapshotLog:
        folder = f"{self._prefix}/segments/{start:020d}" if start else self._prefix
        return SnapshotLog(self._store, f"{folder}/events", snapshots=f"{folder}/snapshots")

    def _bases(self) -> list[int]:
        """Return the numbers after which segments begin, but 0, ascending."""
        return [int(key[-25:-5]) for key in self._store.list(f"{self._prefix}/bases/")]

    def _archives(self) -> list[tuple[int, int]]:
        """Return the numbers before the first and of the last event of each archive, ascending."""
        names = [key.rpartition("/")[2].removesuffix(".jsonl.gz") for key in self._store.list(f"{self._prefix}/audit/")]
        return [(int(first) - 1, int(last)) for first, last in (name.split("-") for name in names)]

    def _base_key(self, number: int) -> str:
        return f"{self._prefix}/bases/{number:020d}.json"

    def _archive_key(self, start: int, end: int) -> str:
        return f"{self._prefix}/audit/{start + 1:020d}-{end:020d}.jsonl.gz"
