"""The log of a model's events: who decided what about which version, and when.

Whatever depends on earlier events is decided inside the append, so that two processes cannot both decide it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from brew_platform.errors import RegistryError, UserError
from brew_platform.registry.decisions import Decision
from brew_platform.registry.events import Event
from brew_platform.registry.snapshot_log import SnapshotLog
from brew_platform.settings import require_name
from brew_platform.storage.base import ObjectStore

__all__ = ["EventLog", "Fault"]


@dataclass(frozen=True, kw_only=True)
class Fault:
    """An object of a registry that is missing or damaged."""

    version: int | None  # None: an event or a snapshot
    name: str  # path of the file in the version; "manifest" for the manifest; "event 3", "snapshot 256"
    problem: str


class EventLog:
    """The events of one model, create-only, with snapshots.

    Args:
        store: The object store.
        prefix: The common prefix of the keys, without a slash at the end.
        clock: Returns the current time with a time zone.
        new_id: Returns a unique string of letters and digits.
    """

    def __init__(
        self, store: ObjectStore, prefix: str, *, clock: Callable[[], datetime], new_id: Callable[[], str]
    ) -> None:
        self._log = SnapshotLog(store, f"{prefix}/events", snapshots=f"{prefix}/snapshots")
        self._clock, self._new_id = clock, new_id
        self._seen: list[Event] = []  # a cache: events never change; replaced as a whole

    def events(self) -> list[Event]:
        """Return all events, oldest first.

        What this process has read before is not read again. The first call reads the newest snapshot and the events
        after it.
        """
        documents, seen = self._log.documents(), self._seen
        if len(seen) < len(documents):
            new = enumerate(documents[len(seen) :], len(seen) + 1)
            seen = [*seen, *(Event.from_document(number, document) for number, document in new)]
            self._seen = seen
        return list(seen)

    def append(self, decide: Callable[[list[Event]], Decision], *, alias: str | None, **fields: Any) -> Event:
        """Write an event.

        Args:
            decide: All events before it -> the decision. Called again if another process wrote an event meanwhile.
            alias: The alias of the event.
            **fields: Its other fields.

        Raises:
            UserError: `alias` is not a valid name.
            RegistryError: The refusal.
        """
        if alias is not None and require_name("alias", alias).isdecimal():
            raise UserError(f"{alias!r} is not a valid alias name: it is the number of a version. Use a letter in it.")
        write_id, time = self._new_id(), self.time()
        decision: Decision | None = None

        def make(slot: int) -> dict[str, Any]:
            nonlocal decision
            decision = decide(self.events()[: slot - 1])
            values = {**fields, "kind": decision.kind, "version": decision.version, "gates": decision.gates}
            if decision.refusal:
                why = "" if decision.by_gates else decision.refusal
                values |= {"kind": "blocked", "note": "; ".join(filter(None, [fields["note"], why]))}
            return Event(number=slot, alias=alias, time=time, **values).document()

        number, document = self._log.append(make, write_id=write_id)
        if decision is not None and decision.refusal:
            raise RegistryError(f"{decision.refusal} Event {number} records it. {decision.remedy}".rstrip())
        return Event.from_document(number, document)

    def check(self) -> tuple[list[Event], list[Fault]]:
        """Read every event from its own object, and compare the newest snapshot with them.

        Returns:
            The events that can be read, and the faults.
        """
        documents, events, faults = {}, [], []
        for number in self._log.numbers():
            try:
                documents[number] = self._log.read(number)
                events.append(Event.from_document(number, documents[number]))
            except RegistryError as error:
                faults.append(Fault(version=None, name=f"event {number}", problem=str(error)))
        for number in self._log.snapshot_numbers()[-1:]:
            if problem := self._log.check_snapshot(number, documents):
                faults.append(Fault(version=None, name=f"snapshot {number}", problem=problem))
        return events, faults

    def created(self, number: int) -> datetime:
        """Return when an event was written, by the clock of the store."""
        return self._log.created(number)

    def delete_old_snapshots(self, *, keep: int) -> int:
        """Delete all but the newest snapshots of the events, and return how many were deleted."""
        old = self._log.snapshot_numbers()[:-keep]
        for number in old:
            self._log.delete_snapshot(number)
        return len(old)

    def time(self) -> str:
        """Return the present time as events and versions have it."""
        return self._clock().astimezone(UTC).isoformat(timespec="seconds")
