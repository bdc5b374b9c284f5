"""An object store in memory, with a clock that a test sets."""

import hashlib
from datetime import UTC, datetime, timedelta
from pathlib import Path

from brew_platform.errors import StorageError
from brew_platform.storage.base import Digest, Keys, validate_key

__all__ = ["MemoryStore"]


class MemoryStore:
    """An ObjectStore in memory.

    Attributes:
        objects: Content by key.
        now: The time of objects that are created.
    """

    url = "memory"

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.now = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
        self._created: dict[str, datetime] = {}

    def later(self, **duration: float) -> None:
        """Advance the clock."""
        self.now += timedelta(**duration)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        validate_key(key)
        mine = bytes(bytearray(data))
        if self.objects.setdefault(key, mine) is not mine:
            return False
        self._created[key] = self.now
        return True

    def upload_if_absent(self, key: str, path: Path, *, expected: Digest | None = None) -> bool:
        data = path.read_bytes()
        assert expected is None or expected == _digest(data)
        return self.put_if_absent(key, data)

    def upload_by_digest(self, prefix: str, path: Path) -> tuple[Digest, bool]:
        digest = _digest(path.read_bytes())
        return digest, self.put_if_absent(f"{prefix}/{digest.sha256}", path.read_bytes())

    def get(self, key: str) -> bytes:
        self._require(key)
        return self.objects[key]

    def download(self, key: str, path: Path) -> None:
        path.write_bytes(self.get(key))

    def digest(self, key: str) -> Digest:
        return _digest(self.get(key))

    def size(self, key: str) -> int:
        return len(self.get(key))

    def modified(self, key: str) -> datetime:
        self._require(key)
        return self._created[key]

    def exists(self, key: str) -> bool:
        return key in self.objects

    def list(self, prefix: str = "") -> Keys:
        return sorted(key for key in list(self.objects) if key.startswith(prefix))

    def delete(self, key: str) -> None:
        self.objects.pop(key, None)

    def _require(self, key: str) -> None:
        if key not in self.objects:
            raise StorageError(f"no such object: {key}")


def _digest(data: bytes) -> Digest:
    return Digest(size=len(data), sha256=hashlib.sha256(data).hexdigest())
