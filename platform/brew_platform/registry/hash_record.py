"""Remembers the hashes of files, so that files that did not change are not read again."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from brew_platform.files import replace_atomically
from brew_platform.storage.base import Digest

__all__ = ["HashRecord"]


class HashRecord:
    """SHA-256 of the files of a folder, kept in a JSON file with the size, times and inode that each file had.

    A file is hashed again if one of these changed. A record that cannot be read or written only costs time.

    Args:
        path: The JSON file; created by `save`.
        folder: The folder of the files.
    """

    def __init__(self, path: Path, folder: Path) -> None:
        self.path, self.folder = path, folder
        self._known = self._read()
        self._changed = False

    def digest(self, name: str) -> Digest:
        """Return size and hash of the file `name` of the folder.

        Raises:
            OSError: The file cannot be read.
        """
        stamp = self._stamp(name)  # before the file is read, so that a later change is seen
        known = self._known.get(name)
        if known is not None and known[:-1] == stamp:
            return Digest(size=known[0], sha256=known[-1])
        digest = Digest.of_file(self.folder / name)
        self._known[name] = [*stamp, digest.sha256]
        self._changed = True
        return digest

    def add(self, name: str, digest: Digest) -> None:
        """Remember the hash of a file that was verified just now."""
        self._known[name] = [*self._stamp(name), digest.sha256]
        self._changed = True

    def save(self) -> None:
        """Write the record, if it changed."""
        if self._changed:
            with suppress(OSError):
                replace_atomically(self.path, json.dumps(self._known))

    def _stamp(self, name: str) -> list[int]:
        status = (self.folder / name).stat()
        return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]

    def _read(self) -> dict[str, list[Any]]:
        try:
            known = json.loads(self.path.read_text())
        except (OSError, ValueError):
            return {}
        valid = isinstance(known, dict) and all(isinstance(entry, list) and len(entry) == 5 for entry in known.values())
        return known if valid else {}
