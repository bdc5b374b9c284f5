"""A create-only log of JSON documents in an object store: `<prefix>/<20 digits>.json`, numbered from 1.

Holds how a writer takes the next number without a server, and how a document is read.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

from brew_platform.errors import RegistryError, UserError
from brew_platform.storage.base import ObjectStore

__all__ = ["NumberedLog"]


class NumberedLog:
    """Documents under one prefix; each number is written once, by one writer, and never changed.

    Args:
        store: where.
        prefix: key of the log, without the last slash.
    """

    def __init__(self, store: ObjectStore, prefix: str) -> None:
        self.store = store
        self.prefix = prefix

    def numbers(self) -> list[int]:
        """Numbers in use, ascending."""
        names = [key.removeprefix(f"{self.prefix}/") for key in self.store.list(f"{self.prefix}/")]
        return [
            int(name[:20]) for name in names if len(name) == 25 and name[:20].isdecimal() and name.endswith(".json")
        ]

    def exists(self, number: int) -> bool:
        """Whether the document is there."""
        return self.store.exists(self._key(number))

    def read(self, number: int) -> dict[str, Any]:
        """The document.

        Raises:
            RegistryError: it is not a JSON object.
            StorageError: there is none.
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

    def append(self, make: Callable[[int], Mapping[str, Any]], *, write_id: str) -> int:
        """Writes one document at the next free number, and returns that number.

        Args:
            make: number → document. Called again for a later number when another writer took the one before, so that
                what it decides may depend on all documents below its number.
            write_id: unique to this call. A store may lose the answer to a write that succeeded, and then report that
                the key exists; the id tells our own document from another writer's.

        Raises:
            UserError: the document holds what JSON cannot.
        """
        number = max(self.numbers(), default=0) + 1
        while True:
            try:
                text = json.dumps({**make(number), "write_id": write_id}, indent=1, sort_keys=True, allow_nan=False)
            except (TypeError, ValueError) as error:
                raise UserError(
                    f"{self._key(number)} cannot be written as JSON: {error}. Give numbers that are finite (null for "
                    f"an unknown one), strings, lists and maps only."
                ) from error
            if self.store.put_if_absent(self._key(number), text.encode()):
                return number
            if self.read(number).get("write_id") == write_id:
                return number
            number += 1

    def _key(self, number: int) -> str:
        return f"{self.prefix}/{number:020d}.json"
