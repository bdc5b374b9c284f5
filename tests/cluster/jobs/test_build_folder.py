"""A build has a folder of its own, which gets the name of the data set when it is complete."""

import fcntl
from contextlib import suppress
from pathlib import Path

import pytest

from brew_cluster.jobs.build_folder import LOCK, build_folder
from brew_data.data_folder import DATASET_FILE
from brew_platform.errors import UserError


def test_a_folder_appears_only_when_the_build_succeeded(tmp_path: Path) -> None:
    out = tmp_path / "data" / "shop"
    folder = tmp_path / "data" / "shop.partial"

    def fail() -> None:
        with build_folder(out) as path:
            assert path == folder
            (path / "tables").mkdir()
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        fail()
    assert not out.exists()
    assert (folder / "tables").exists()  # with its log, for the user
    with build_folder(out) as folder:
        assert not (folder / "tables").exists()
        (folder / DATASET_FILE).write_text("{}")
    assert sorted(path.name for path in out.parent.rglob("*")) == [DATASET_FILE, "shop"]
    with pytest.raises(UserError, match="is a complete data set: choose another folder"), build_folder(out):
        pass


def test_a_build_with_equal_settings_continues(tmp_path: Path) -> None:
    out, partial = tmp_path / "shop", tmp_path / "shop.partial"

    def fail(settings: str) -> list[str]:
        with suppress(RuntimeError), build_folder(out, settings=settings) as folder:
            found = [path.name for path in folder.iterdir() if path.name != LOCK]
            (folder / "tables").mkdir(exist_ok=True)
            raise RuntimeError("killed")
        return found

    assert [fail(settings) for settings in ("a", "a", "b", "b")] == [[], ["tables"], [], ["tables"]]
    with build_folder(out) as folder:
        assert folder == partial
        assert not (folder / "tables").exists()


def test_folders_of_others_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").touch()
    (tmp_path / "a.partial").mkdir()
    for name, message in (("full", "is not empty"), ("a", "no build wrote it")):
        with pytest.raises(UserError, match=message), build_folder(tmp_path / name):
            pass
    (tmp_path / "empty").mkdir()
    with build_folder(tmp_path / "empty"):
        pass


def test_two_builds_do_not_share_a_folder(tmp_path: Path) -> None:
    partial = tmp_path / "out.partial"
    partial.mkdir()
    with (partial / LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another build is writing"), build_folder(tmp_path / "out"):
            pass
    with build_folder(tmp_path / "out"):  # the other process ended
        pass
