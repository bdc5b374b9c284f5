"""Appends numbered JSON documents to a create-only log in an object store, without a server.

The key of a document is `<prefix>/<20 digits>.json`. Numbers start at 1 and have no gaps, because a number is used only
after all smaller ones exist.
"""

import json
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from brew_platform.errors import RegistryError, StorageError, UserError
from brew_platform.storage.base import ObjectStore

__all__ = ["NumberedLog"]


class NumberedLog:
    """A log of documents. Each number is written once, by one writer, and never changes.

    Args:
        store: The object store.
        prefix: The common prefix of the keys, without a slash at the end.
    """

    def __init__(self, store: ObjectStore, prefix: str) -> None:
        self.store = store
        self.prefix = prefix

    def numbers(self) -> list[int]:
        """Return the numbers of all documents, ascending."""
        return self._listed("")

    def newest(self) -> int:
        """Return the number of the newest document; 0 if there is none."""
        return max(self.numbers(), default=0)

    def exists(self, number: int) -> bool:
        """Return whether the document exists."""
        return self.store.exists(self._key(number))

    def created(self, number: int) -> datetime:
        """Return when the document was written, by the clock of the store."""
        return self.store.modified(self._key(number))

    def read(self, number: int) -> dict[str, Any]:
        """Return a document.

        Raises:
            RegistryError: It is not a JSON object.
            StorageError: It does not exist.
        """
        try:
            document = json.loads(self.store.get(self._key(number)))
        except ValueError as error:
            document = error
        if not isinstance(document, dict):
            raise RegistryError(
                f"{self._key(number)} is damaged: it is not a JSON object. Restore it from a backup of the store."
            )
        return document

    def append(self, make: Callable[[int], Mapping[str, Any]], *, write_id: str) -> tuple[int, dict[str, Any]]:
        """Write one document at the next free number.

        Args:
            make: Returns the document for a number. It is called again with a later number if another writer took the
                previous one, so the document can depend on all earlier documents.
            write_id: Unique per document. A store can lose the response to a write that succeeded, and then report
                that the key exists, or fail. The id shows whether the existing document is from this call.

        Returns:
            The number of the document, and the document as it is stored.

        Raises:
            UserError: The document contains a value that JSON cannot represent.
            StorageError: The store failed. The document may exist if the store stopped answering.
        """
        number = self.newest() + 1
        while True:
            try:
                text = json.dumps({**make(number), "write_id": write_id}, indent=1, sort_keys=True, allow_nan=False)
            except (TypeError, ValueError) as error:
                raise UserError(
                    f"{self._key(number)} cannot be written as JSON: {error}. Use only finite numbers (null for an "
                    f"unknown one), strings, lists and maps."
                ) from error
            try:
                created = self.store.put_if_absent(self._key(number), text.encode())
            except StorageError:
                if not self.exists(number):
                    raise
                created = False
            if created or self.read(number).get("write_id") == write_id:
                return number, json.loads(text)
            number += 1

    def _listed(self, digits: str) -> list[int]:
        """Return the numbers of the documents whose 20 digits start with `digits`, ascending."""
        names = [key.removeprefix(f"{self.prefix}/") for key in self.store.list(f"{self.prefix}/{digits}")]
        return [
            int(name[:20]) for name in names if len(name) == 25 and name[:20].isdecimal() and name.endswith(".json")
        ]

    def _key(self, number: int) -> str:
        return f"{self.prefix}/{number:020d}.json"
