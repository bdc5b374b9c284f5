"""A cache with a limit in bytes."""

import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

__all__ = ["ByteLimitedCache"]

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class ByteLimitedCache(Generic[K, V]):
    """Keeps values up to a number of bytes; the least recently used are removed first. Threads can share it.

    Args:
        limit: Bytes of all entries together.
        entry_limit: Bytes of one entry; a larger one is not kept.
    """

    def __init__(self, limit: int, *, entry_limit: int) -> None:
        self.limit, self.entry_limit = limit, entry_limit
        self.bytes = 0  # of all entries
        self._entries: OrderedDict[K, tuple[V, int]] = OrderedDict()  # value and bytes, the least recently used first
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: K) -> V | None:
        """Return the value of a key, or None."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                return None
            self._entries.move_to_end(key)
            return entry[0]

    def put(self, key: K, value: V, *, size: int) -> None:
        """Keep a value.

        Args:
            key: Its key.
            value: The value.
            size: Bytes of key and value.
        """
        if size > self.entry_limit:
            return
        with self._lock:
            if (replaced := self._entries.pop(key, None)) is not None:
                self.bytes -= replaced[1]
            self._entries[key] = value, size
            self.bytes += size
            while self.bytes > self.limit:
                _, (_, removed) = self._entries.popitem(last=False)
                self.bytes -= removed
