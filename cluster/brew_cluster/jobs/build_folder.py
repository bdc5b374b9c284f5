"""The folder in which a data set is built, and which gets its name when it is complete."""

import fcntl
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from brew_data.data_folder import DATASET_FILE
from brew_platform.errors import UserError
from brew_platform.files import fsync_file, fsync_folder
from brew_platform.provenance import source_commit

__all__ = ["LOCK", "build_folder", "clear_folder"]

LOCK = "building"  # file of a folder that is being built; a build holds a lock on it


@contextmanager
def build_folder(out: Path, *, settings: str | None = None) -> Iterator[Path]:
    """Yield the folder `<out>.partial` to build in, and rename it to `out` when the block succeeds.

    A build that fails or is killed leaves the partial folder with its log and its quarantined rows. The next build of
    `out` continues in it if it has the same settings and code, and replaces it otherwise.

    Args:
        out: The folder to create.
        settings: A digest of the settings; None: nothing is continued.

    Raises:
        UserError: `out` exists and is not empty, another build is writing it, or `<out>.partial` is not of a build.
    """
    if (out / DATASET_FILE).exists():
        raise UserError(f"{out} is a complete data set: choose another folder, or remove that one.")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} is not empty: choose another folder, or remove that one.")
    partial = out.with_name(f"{out.name}.partial")
    if partial.exists() and not (partial / LOCK).is_file():
        raise UserError(f"{partial} exists, but no build wrote it. Rename or remove it, or choose another --out.")
    partial.mkdir(parents=True, exist_ok=True)
    with (partial / LOCK).open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"another build is writing {out}. Wait for it, or choose another --out.") from None
        build = f"{settings} {source_commit()}"
        lock.seek(0)
        if settings is None or lock.read() != build:
            clear_folder(partial, keep=(LOCK,))  # of a build that failed
            lock.truncate(0)
            lock.write(build)
            lock.flush()
        yield partial
        for path in partial.rglob("*"):
            fsync_folder(path) if path.is_dir() else fsync_file(path)
        (partial / LOCK).unlink()
        partial.rename(out)  # an empty folder of that name is replaced
        fsync_folder(out.parent)


def clear_folder(folder: Path, *, keep: Sequence[str]) -> None:
    """Remove everything in a folder except for some names."""
    for path in folder.iterdir():
        if path.name not in keep:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
