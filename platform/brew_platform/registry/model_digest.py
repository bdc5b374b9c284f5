"""The digest of a model: of the files in its folder that decide its scores."""

import hashlib
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path

from brew_platform.registry.blobs import File, digest_of, list_files

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


def folder_digest(folder: Path) -> str:
    """`model_digest` of a folder.

    Raises:
        UserError: The folder is missing or empty.
    """
    files = []
    for path in list_files(folder):
        name = path.relative_to(folder).as_posix()
        if any(fnmatchcase(name, pattern) for pattern in PATTERNS):
            found = digest_of(path)
            files.append(File(name, found.size, found.sha256))
    return model_digest(files)
