"""Records what is in use, so that garbage collection does not delete it, and keeps publications and collections apart.

    <prefix>/holds/<id>-<renewal>.json    versions in use, or a publication; ends when deleted, or with its lease
    <prefix>/collections/<id>.json        a garbage collection that runs; ends when deleted, or after `LIMIT_SECONDS`

A publication first writes its hold and then waits until no collection runs. A collection first writes its object and
then stops if a publication runs. So at least one of two at the same time sees the other, and a collection never deletes
a blob that a publication found in the store and is about to use.

Leases are counted from the time at which the store created the object, so clocks of hosts do not matter. A process that
is killed leaves its hold until the lease ends.
"""

import json
import logging
import math
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta

from brew_platform.errors import RegistryError, StorageError
from brew_platform.storage.base import ObjectStore

__all__ = ["LEASE_SECONDS", "LIMIT_SECONDS", "Hold", "HoldRecord", "Holds", "RunningCollection"]

LEASE_SECONDS = 3_600.0  # of a hold; it is renewed after a third
LIMIT_SECONDS = 900.0  # of a collection; it stops deleting after a third, because a request can be repeated for minutes
_POLL_SECONDS = 0.5
_LOG = logging.getLogger("brew_platform")


@dataclass(frozen=True, kw_only=True)
class HoldRecord:
    """A hold as the store has it."""

    key: str
    holder: str  # who, in words
    versions: tuple[int, ...]  # in use
    publishes: bool  # whether it is a publication
    expires: datetime  # by the clock of the store


@dataclass(frozen=True, kw_only=True)
class RunningCollection:
    """A garbage collection of this process."""

    now: datetime  # when it began, by the clock of the store
    ends: float  # until when it can delete, by `_seconds`

    def has_time(self) -> bool:
        """Return whether it can still delete. Publications wait for it longer than that."""
        return _seconds() < self.ends


class Hold:
    """One use of the registry by this process. It must be updated at least once per `LEASE_SECONDS`.

    Args:
        store: The object store.
        prefix: The common prefix of the keys, without a slash at the end.
        name: Unique, of letters and digits.
        holder: Who uses it, in words.
        publishes: Whether it is a publication.
    """

    def __init__(self, store: ObjectStore, prefix: str, *, name: str, holder: str, publishes: bool = False) -> None:
        self._store, self._prefix, self._name = store, prefix, name
        self._holder, self._publishes = holder, publishes
        self._versions: tuple[int, ...] = ()
        self._keys: list[str] = []  # that exist, oldest first
        self._renewals = 0
        self._written = -math.inf

    def update(self, versions: Collection[int] = ()) -> None:
        """Set the versions that are in use. Writes only if they changed, or if a third of the lease has passed.

        Raises:
            StorageError: The store failed.
        """
        used, now = tuple(sorted(versions)), _seconds()
        if used == self._versions and now - self._written < LEASE_SECONDS / 3:
            return
        if not self._keys and not used and not self._publishes:
            return
        document = {
            "holder": self._holder,
            "versions": used,
            "publishes": self._publishes,
            "seconds": LEASE_SECONDS,
        }
        key = f"{self._prefix}/holds/{self._name}-{self._renewals}.json"
        self._renewals += 1
        self._keys.append(key)  # also if the store fails, because the object may exist
        self._store.put_if_absent(key, json.dumps(document).encode())
        self._versions, self._written = used, now
        # The previous object stays: a listing that runs now can miss a new key and a deleted one at the same time.
        while len(self._keys) > 2:
            self._store.delete(self._keys[0])
            del self._keys[0]

    def require_valid(self) -> None:
        """Check that the lease has not ended.

        Raises:
            StorageError: This process was stopped for so long that garbage collection may have deleted what it uses.
        """
        if _seconds() - self._written > LEASE_SECONDS * 0.9:
            raise StorageError(
                f"{self._holder}: nothing was recorded, because this process or the store stopped for longer than "
                f"{LEASE_SECONDS / 60:.0f} minutes, and garbage collection may have removed files meanwhile. Run the "
                f"same command again."
            )

    def wait_for_collections(self, *, sleep: Callable[[float], object] = time.sleep) -> None:
        """Wait until the garbage collections end that run now; those that begin later respect this hold.

        Raises:
            StorageError: The store failed.
        """
        collections = f"{self._prefix}/collections/"
        running = {key: _created(self._store, key) for key in self._store.list(collections)}
        if not self._keys or not any(running.values()):
            return
        _LOG.info("%s waits for a garbage collection", self._holder)
        now, start = self._store.modified(self._keys[-1]), _seconds()
        limits = {
            key: start + (created - now).total_seconds() + LIMIT_SECONDS for key, created in running.items() if created
        }
        while any(limit > _seconds() for limit in limits.values()):
            sleep(_POLL_SECONDS)
            limits = {key: limit for key, limit in limits.items() if self._store.exists(key)}

    def release(self) -> None:
        """End the hold. If the store fails, the hold ends with its lease."""
        for key in self._keys:
            with suppress(StorageError):
                self._store.delete(key)
        self._keys = []


class Holds:
    """The holds and running collections of one registry.

    Args:
        store: The object store.
        prefix: The common prefix of the keys, without a slash at the end.
        new_id: Returns a unique string of letters and digits.
    """

    def __init__(self, store: ObjectStore, prefix: str, *, new_id: Callable[[], str]) -> None:
        self._store, self._prefix, self._new_id = store, prefix, new_id

    def open(self, holder: str) -> Hold:
        """Return a hold of versions that the caller updates and releases."""
        return Hold(self._store, self._prefix, name=self._new_id(), holder=holder)

    @contextmanager
    def hold(
        self, holder: str, *, versions: Collection[int] = (), publishes: bool = False, required: bool = True
    ) -> Iterator[Hold]:
        """Hold versions, or mark a publication, during a block. A thread renews the lease.

        Args:
            holder: Who, in words.
            versions: The versions in use.
            publishes: Whether the block publishes.
            required: Raise if the hold cannot be written; otherwise the block runs without one, because a job may have
                credentials that can only read.

        Raises:
            StorageError: The store failed.
        """
        hold = Hold(self._store, self._prefix, name=self._new_id(), holder=holder, publishes=publishes)
        stop = threading.Event()

        def renew() -> None:
            while not stop.wait(LEASE_SECONDS / 10):
                try:
                    hold.update(versions)
                except StorageError as error:
                    _LOG.warning("the hold of %s is not renewed: %s", holder, error)

        thread = threading.Thread(target=renew, name="registry-hold", daemon=True)
        try:
            try:
                hold.update(versions)
                hold.wait_for_collections()
                thread.start()
            except StorageError as error:
                if required:
                    raise
                _LOG.warning("the use of a version by %s is not recorded: %s", holder, error)
            yield hold
        finally:
            stop.set()
            if thread.is_alive():
                thread.join()
            hold.release()

    def active(self, now: datetime) -> list[HoldRecord]:
        """Return the holds whose lease has not ended.

        Args:
            now: By the clock of the store.

        Raises:
            RegistryError: A hold is damaged.
            StorageError: The store failed.
        """
        return [record for record in self.records() if record.expires > now]

    def records(self) -> list[HoldRecord]:
        """Return all holds, also ended ones whose process was killed."""
        records = []
        for key in self._store.list(f"{self._prefix}/holds/"):
            created = _created(self._store, key)
            document = None if created is None else _read(self._store, key)
            if created is not None and document is not None:
                records.append(_parse(key, document, created))
        return records

    def delete(self, record: HoldRecord) -> None:
        """Delete a hold that has ended."""
        self._store.delete(record.key)

    @contextmanager
    def collection(self, author: str) -> Iterator["RunningCollection"]:
        """Mark a garbage collection during a block."""
        key = f"{self._prefix}/collections/{self._new_id()}.json"
        start = _seconds()
        try:
            self._store.put_if_absent(key, json.dumps({"author": author}).encode())
            yield RunningCollection(now=self._store.modified(key), ends=start + LIMIT_SECONDS / 3)
        finally:
            with suppress(StorageError):
                self._store.delete(key)

    def delete_ended_collections(self, now: datetime) -> None:
        """Delete the objects of collections that were killed."""
        for key in self._store.list(f"{self._prefix}/collections/"):
            created = _created(self._store, key)
            if created is not None and created + timedelta(seconds=2 * LIMIT_SECONDS) < now:
                self._store.delete(key)


def _created(store: ObjectStore, key: str) -> datetime | None:
    """Return when an object was created; None if it has been deleted since it was listed."""
    try:
        return store.modified(key)
    except StorageError:
        if store.exists(key):
            raise
        return None


def _read(store: ObjectStore, key: str) -> bytes | None:
    """Return the content of an object; None if it has been deleted since it was listed."""
    try:
        return store.get(key)
    except StorageError:
        if store.exists(key):
            raise
        return None


def _parse(key: str, content: bytes, created: datetime) -> HoldRecord:
    try:
        document = json.loads(content)
        return HoldRecord(
            key=key,
            holder=str(document["holder"]),
            versions=tuple(int(number) for number in document["versions"]),
            publishes=bool(document["publishes"]),
            expires=created + timedelta(seconds=float(document["seconds"])),
        )
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise RegistryError(
            f"{key} is damaged ({error!r}), so that it is not known what is in use. Delete that object if no service "
            f"and no job runs that wrote it."
        ) from error


def _seconds() -> float:
    """Return a clock that also counts the time in which the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
