"""`source_commit` names the git commit of a checkout."""

import subprocess
from pathlib import Path

from brew_platform.provenance import source_commit


def test_the_commit_is_named_and_changes_show(tmp_path: Path) -> None:
    assert source_commit(tmp_path) is None

    def git(*arguments: str) -> None:
        identity = ["-c", "user.name=a", "-c", "user.email=a@example.com"]
        subprocess.run(["git", "-C", str(tmp_path), *identity, *arguments], check=True, capture_output=True)

    git("init")
    (tmp_path / "a").write_text("1")
    git("add", "a")
    git("commit", "-m", "one")
    clean = source_commit(tmp_path)
    assert clean is not None
    assert len(clean) == 40
    (tmp_path / "a").write_text("2")
    assert source_commit(tmp_path) == f"{clean}+changes"
