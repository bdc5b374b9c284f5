"""Checks for free disk space before a job starts."""

import shutil
import tempfile
from pathlib import Path

from brew_platform.errors import StorageError

__all__ = ["require_space"]

NEEDED_BYTES = 2 * 2**30  # a run writes about 300 MB; Ray also needs space for its object store and logs


def require_space(folder: Path, needed: int = NEEDED_BYTES) -> None:
    """Check that the disks of `folder` and of temporary files have enough free space.

    Args:
        folder: The folder of the run; it need not exist yet.
        needed: The required free space, in bytes.

    Raises:
        StorageError: One of the disks has less free space.
    """
    for path, remedy in [
        (folder, "choose another disk with --run-dir"),
        (Path(tempfile.gettempdir()), "set TMPDIR to another disk"),
    ]:
        existing = next(parent for parent in [path.absolute(), *path.absolute().parents] if parent.exists())
        free = shutil.disk_usage(existing).free
        if free < needed:
            raise StorageError(
                f"no space left: the disk of {path} has {free / 2**30:.1f} GB free, but a run needs "
                f"{needed / 2**30:.1f} GB. Free some space, or {remedy}."
            )
