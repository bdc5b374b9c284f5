"""A store that fails, loses an answer, or kills the process at a chosen call."""

import os
import signal
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from brew_platform.errors import StorageError
from brew_platform.storage.base import Digest, Keys, ObjectStore

__all__ = ["AFTER", "BEFORE", "KINDS", "FaultyStore"]

BEFORE = ("fail", "kill")  # kinds of faults that happen before the call reaches the store
AFTER = ("lose", "forget", "kill-after")  # and those after it; forget: a write reports that the key existed
KINDS = (*BEFORE, *AFTER)


class FaultyStore:
    """An ObjectStore that passes every call to another one, but for one fault.

    Args:
        store: The other store.
        at: Number of the call with the fault, from 0; None: no fault.
        kind: One of KINDS.
        skew: By part of a key, what is added to the time of its creation.

    Attributes:
        calls: Names of the calls so far.
    """

    def __init__(
        self, store: ObjectStore, *, at: int | None = None, kind: str = "fail", skew: dict[str, timedelta] | None = None
    ) -> None:
        self.store, self.at, self.kind, self.skew = store, at, kind, skew or {}
        self.calls: list[str] = []

    @property
    def url(self) -> str:
        return self.store.url

    def put_if_absent(self, key: str, data: bytes) -> bool:
        return self._call("put_if_absent", lambda: self.store.put_if_absent(key, data), forgotten=False)

    def upload_if_absent(self, key: str, path: Path, *, expected: Digest | None = None) -> bool:
        return self._call(
            "upload_if_absent", lambda: self.store.upload_if_absent(key, path, expected=expected), forgotten=False
        )

    def upload_by_digest(self, prefix: str, path: Path) -> tuple[Digest, bool]:
        return self._call("upload_by_digest", lambda: self.store.upload_by_digest(prefix, path))

    def get(self, key: str) -> bytes:
        return self._call("get", lambda: self.store.get(key))

    def download(self, key: str, path: Path) -> None:
        self._call("download", lambda: self.store.download(key, path))

    def digest(self, key: str) -> Digest:
        return self._call("digest", lambda: self.store.digest(key))

    def size(self, key: str) -> int:
        return self._call("size", lambda: self.store.size(key))

    def modified(self, key: str) -> datetime:
        skew = sum((added for part, added in self.skew.items() if part in key), timedelta())
        return self._call("modified", lambda: self.store.modified(key) + skew)

    def exists(self, key: str) -> bool:
        return self._call("exists", lambda: self.store.exists(key))

    def list(self, prefix: str = "") -> Keys:
        return self._call("list", lambda: self.store.list(prefix))

    def delete(self, key: str) -> None:
        self._call("delete", lambda: self.store.delete(key))

    def _call(self, name: str, call: Callable[[], Any], *, forgotten: Any = None) -> Any:
        number = len(self.calls)
        self.calls.append(name)
        if number != self.at:
            return call()
        if self.kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.kind == "fail":
            raise StorageError("the store does not answer")
        result = call()
        if self.kind == "kill-after":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.kind == "lose":
            raise StorageError("the answer of the store was lost")
        return result if forgotten is None else forgotten
