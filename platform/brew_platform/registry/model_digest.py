"""The digest of a model: of the files in its folder that decide its scores."""

import hashlib
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path

from brew_platform.registry.blobs import File, list_files
from brew_platform.registry.hash_record import HashRecord
from brew_platform.storage.base import Digest

__all__ = ["folder_digest", "model_digest"]

# Weights, architecture, tokenizer and prompts. Reports, lineage and notes beside them do not change a score.
PATTERNS = (
    "config.json",
    "*.safetensors",
    "*.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "suite.json",
    "prompt.json",
)


def model_digest(files: Iterable[File]) -> str:
    """SHA-256 (64 hex digits) over paths and hashes of the files that decide the scores.

    Args:
        files: All files of a model folder or of a version, in any order.
    """
    digest = hashlib.sha256()
    for path, sha256 in sorted((file.path, file.sha256) for file in files):
        if any(fnmatchcase(path, pattern) for pattern in PATTERNS):
            digest.update(f"{path}\0{sha256}\n".encode())
    return digest.hexdigest()


def folder_digest(folder: Path, *, record: Path | None = None) -> str:
    """`model_digest` of a folder.

    Args:
        folder: The model folder.
        record: File that remembers the hashes (`HashRecord`), so that a model that did not change is read once.

    Raises:
        UserError: The folder is missing or empty.
    """
    hashes = None if record is None else HashRecord(record, folder)
    files = []
    for path in list_files(folder):
        name = path.relative_to(folder).as_posix()
        if any(fnmatchcase(name, pattern) for pattern in PATTERNS):
            found = Digest.of_file(path) if hashes is None else hashes.digest(name)
            files.append(File(name, found.size, found.sha256))
    if hashes is not None:
        hashes.save()
    return model_digest(files)
