"""Digests of the files that decide what a step does."""

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from brew_platform.errors import UserError

__all__ = ["fingerprint", "fingerprint_settings"]

_HASHED_BYTES = 256 * 2**20  # of larger files, such as weights and tables, size and time of change are compared


def fingerprint(path: Path) -> str:
    """Return the SHA-256 of a file, or of the names and files of a folder.

    Of a file with more than 256 MiB, its size and the time of its last change count instead of its content.

    Raises:
        UserError: The path cannot be read.
    """
    digest = hashlib.sha256()
    try:
        files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
        for file in files:
            status = file.stat()
            name = file.relative_to(path).as_posix()
            digest.update(f"{name}\0{status.st_size}\0".encode())
            if status.st_size > _HASHED_BYTES:
                digest.update(str(status.st_mtime_ns).encode())
            else:
                digest.update(hashlib.sha256(file.read_bytes()).digest())
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}. Check the path and its permissions.") from error
    return digest.hexdigest()


def fingerprint_settings(settings: Mapping[str, Any]) -> dict[str, str]:
    """Return the fingerprint of each file and folder that settings name, by the key of the setting.

    A text is taken for a path if a file has that name, or if it contains a slash and a folder has it.
    """
    return {
        key: fingerprint(Path(text))
        for key, text in _texts(settings, "")
        if text and len(text) < 4_096 and (Path(text).is_file() or ("/" in text and Path(text).is_dir()))
    }


def _texts(value: Any, key: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for name, below in value.items():
            yield from _texts(below, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list | tuple):
        for index, below in enumerate(value):
            yield from _texts(below, f"{key}[{index}]")
    elif isinstance(value, str | Path):
        yield key, str(value)
