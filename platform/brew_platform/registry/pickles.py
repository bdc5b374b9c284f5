"""Finds Python pickles among the files of a model. Loading one runs the code that it contains."""

import zipfile
from collections.abc import Iterable
from pathlib import Path

from brew_platform.errors import StorageError, UserError

__all__ = ["refuse_pickles"]

_SUFFIXES = {".pkl", ".pickle", ".pt", ".pth", ".ckpt", ".joblib"}
# Formats whose readers run no code. Their first bytes can be those of a pickle: the length of a safetensors header is.
_DATA = {".safetensors", ".json", ".jsonl", ".md", ".txt", ".jinja", ".yaml", ".yml", ".csv", ".parquet", ".svg"}
_STOP = b"."  # last byte of a pickle
_PROTOCOLS = tuple(bytes([0x80, protocol]) for protocol in range(2, 6))


def refuse_pickles(paths: Iterable[Path]) -> None:
    """Refuse files that are pickles, by their name or content, also inside a zip archive as PyTorch writes it.

    Raises:
        UserError: A file is a pickle.
        StorageError: A file cannot be read.
    """
    for path in paths:
        suffix = path.suffix.lower()
        if suffix in _SUFFIXES or (suffix not in _DATA and _is_pickle(path)):
            raise UserError(
                f"cannot publish {path}: it is a pickle, which runs code when it is loaded. Save weights as "
                f"safetensors and settings as JSON, and remove the file from the folder."
            )


def _is_pickle(path: Path) -> bool:
    try:
        return _has_pickle(path)
    except OSError as error:
        raise StorageError(
            f"cannot publish {path}: {error.strerror}. Publish again when no process writes to it."
        ) from error


def _has_pickle(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(2)
        if head in _PROTOCOLS:
            file.seek(-1, 2)
            return file.read(1) == _STOP
    if head != b"PK" or not zipfile.is_zipfile(path):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return any(Path(name).suffix.lower() in _SUFFIXES for name in archive.namelist())
    except zipfile.BadZipFile:
        return False
