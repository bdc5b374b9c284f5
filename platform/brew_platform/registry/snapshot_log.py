"""A log whose readers keep what they have read, and start from a snapshot of its first documents.

Every `EVERY` documents, the writer that appends also writes `<snapshots>/<20 digits>.json` with all documents up to
that number. A reader that starts reads the newest snapshot and the documents after it; later it looks only for the next
document. Snapshots are copies: a damaged one is not used, and they can be deleted.
"""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from brew_platform.errors import RegistryError, StorageError
from brew_platform.registry.log import NumberedLog
from brew_platform.storage.base import ObjectStore

__all__ = ["EVERY", "SnapshotLog"]

EVERY = 256  # documents between two snapshots
FORMAT_VERSION = 1
_PAGE = 1_000  # keys that a store lists per request

_LOG = logging.getLogger("brew_platform")


class SnapshotLog(NumberedLog):
    """A NumberedLog with a cache in this process and snapshots in the store.

    Args:
        store: The object store.
        prefix: The common prefix of the documents' keys, without a slash at the end.
        snapshots: The common prefix of the snapshots' keys, without a slash at the end.
    """

    def __init__(self, store: ObjectStore, prefix: str, *, snapshots: str) -> None:
        super().__init__(store, prefix)
        self.snapshots = snapshots
        self._documents: list[dict[str, Any]] = []  # replaced as a whole, so that threads can read it
        self._newest_snapshot = 0

    def documents(self) -> Sequence[dict[str, Any]]:
        """Return all documents; the document at index 0 has number 1.

        Raises:
            RegistryError: A document is damaged, or missing although a later one exists.
            StorageError: The store failed.
        """
        known = self._documents
        read: list[dict[str, Any]] = []
        if not known:
            known = self._read_snapshot()
            read = [self.read(number) for number in self._numbers_after(len(known))]
        while self.exists(len(known) + len(read) + 1):
            read.append(self.read(len(known) + len(read) + 1))
        if read or not self._documents:
            self._documents = [*known, *read]
        return self._documents

    def newest(self) -> int:
        return len(self.documents())

    def append(self, make: Callable[[int], Mapping[str, Any]], *, write_id: str) -> tuple[int, dict[str, Any]]:
        number, document = super().append(make, write_id=write_id)
        newest = number // EVERY * EVERY
        if newest > self._newest_snapshot:
            try:
                self._write_snapshot(newest)
            except (RegistryError, StorageError) as error:  # the document is written; the next writer tries again
                _LOG.warning("no snapshot %d of %s was written: %s", newest, self.prefix, error)
        return number, document

    def snapshot_numbers(self) -> list[int]:
        """Return the number of the last document of each snapshot, ascending."""
        names = [key.removeprefix(f"{self.snapshots}/") for key in self.store.list(f"{self.snapshots}/")]
        return [int(name[:20]) for name in names if len(name) == 25 and name[:20].isdecimal()]

    def delete_snapshot(self, number: int) -> None:
        """Delete a snapshot. Readers use another one, or read all documents."""
        self.store.delete(self._snapshot_key(number))

    def check_snapshot(self, number: int, documents: Mapping[int, Mapping[str, Any]]) -> str | None:
        """Compare a snapshot with the documents themselves; return what is wrong with it, or None.

        Args:
            number: Of the snapshot.
            documents: What can be read of the log, by number.
        """
        copies = self._parse_snapshot(number)
        if copies is None:
            return f"{self._snapshot_key(number)} is damaged. Delete that object; it is only a copy."
        for position, copy in enumerate(copies, 1):
            if position not in documents:
                return f"{self._key(position)} cannot be read, but {self._snapshot_key(number)} has its content"
            if documents[position] != copy:
                return f"{self._snapshot_key(number)} differs from {self._key(position)}. Delete the snapshot."
        return None

    def _numbers_after(self, number: int) -> list[int]:
        """Return the numbers of all documents after `number`, listing no earlier page."""
        found: list[int] = []
        page = (number + 1) // _PAGE
        while True:
            listed = self._listed(f"{page:017d}")
            found += [other for other in listed if other > number]
            if (page + 1) * _PAGE - 1 not in listed:
                break
            page += 1
        for expected, other in enumerate(found, number + 1):
            if other != expected:
                raise RegistryError(
                    f"{self._key(expected)} is gone from the store, although {self._key(other)} exists. Restore it "
                    f"from a backup of the store."
                )
        return found

    def _read_snapshot(self) -> list[dict[str, Any]]:
        """Return the documents of the newest valid snapshot; empty if there is none."""
        for number in reversed(self.snapshot_numbers()):
            documents = self._parse_snapshot(number)
            if documents is not None:
                self._newest_snapshot = number
                return documents
            _LOG.warning("snapshot %s is damaged and is not used", self._snapshot_key(number))
        return []

    def _parse_snapshot(self, number: int) -> list[dict[str, Any]] | None:
        try:
            content = json.loads(self.store.get(self._snapshot_key(number)))
        except ValueError:
            return None
        except StorageError:
            if self.store.exists(self._snapshot_key(number)):
                raise
            return None  # garbage collection has just deleted it
        valid = isinstance(content, dict) and content.get("format_version") == FORMAT_VERSION
        documents = content.get("documents") if valid else None
        if not isinstance(documents, list) or len(documents) != number:
            return None
        return documents if all(isinstance(document, dict) for document in documents) else None

    def _write_snapshot(self, number: int) -> None:
        content = {"format_version": FORMAT_VERSION, "documents": list(self.documents()[:number])}
        text = json.dumps(content, separators=(",", ":"), sort_keys=True)
        self.store.put_if_absent(self._snapshot_key(number), text.encode())
        self._newest_snapshot = number

    def _snapshot_key(self, number: int) -> str:
        return f"{self.snapshots}/{number:020d}.json"
