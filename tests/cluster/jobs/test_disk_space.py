"""`require_space` refuses a disk with too little free space."""

import shutil
from pathlib import Path

import pytest

from brew_cluster.jobs.disk_space import require_space
from brew_platform.errors import StorageError


def test_a_full_disk_is_refused_with_how_much_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require_space(tmp_path / "not" / "there" / "yet", needed=1)
    usage = shutil.disk_usage(tmp_path)._replace(free=2**29)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(StorageError, match=r"has 0\.5 GB free, but a run needs 2\.0 GB.*--run-dir"):
        require_space(tmp_path)
