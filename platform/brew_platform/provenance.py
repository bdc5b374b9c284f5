"""Which code is running, for the lineage of what it makes."""

import subprocess
from pathlib import Path

__all__ = ["source_commit"]


def source_commit(folder: Path = Path(__file__).parent) -> str | None:
    """The git commit of the checkout that `folder` lies in.

    Returns:
        40 hex digits, with "+changes" where tracked files differ from it; None outside a checkout or without git.
    """
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return None
    return f"{commit}+changes" if changed else commit


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(folder), *arguments],  # noqa: S607
        capture_output=True,
        check=True,
        text=True,
        timeout=10,
    )
    return done.stdout.strip()
