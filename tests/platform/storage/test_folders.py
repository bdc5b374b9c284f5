"""Whole folders in a store: complete or absent, verified, never overwritten."""

import json
from pathlib import Path

import pytest

from brew_platform.errors import StorageError, UserError
from brew_platform.storage.base import open_store
from brew_platform.storage.folders import INDEX, download_folder, read_index, upload_folder
from brew_platform.storage.local import LocalStore


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in {
        "plan.json": "{}",
        "bins/a.parquet": "abc",
        "step-1/.metadata": "index",
        ".a.1.tmp": "x",
    }.items():
        path = tmp_path / "source" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "source"


@pytest.mark.parametrize("prefix", ["", "runs/cpt"])
def test_a_folder_comes_back_as_it_was(store_url: str, folder: Path, tmp_path: Path, prefix: str) -> None:
    store = open_store(store_url)
    progress: list[tuple[int, int]] = []
    assert read_index(store, prefix) is None
    files = upload_folder(folder, store, prefix, on_progress=lambda *state: progress.append(state))
    assert list(files) == ["bins/a.parquet", "plan.json", "step-1/.metadata"]
    assert progress[-1] == (10, 10)
    keys = ["bins/a.parquet", INDEX, "plan.json", "step-1/_.metadata"]  # other programs can read these
    assert store.list() == [f"{prefix}/{key}" if prefix else key for key in keys]
    assert download_folder(store, tmp_path / "copy", prefix) == files == read_index(store, prefix)
    assert {
        p.relative_to(tmp_path / "copy").as_posix(): p.read_text()
        for p in (tmp_path / "copy").rglob("*")
        if p.is_file()
    } == {
        "bins/a.parquet": "abc",
        "plan.json": "{}",
        "step-1/.metadata": "index",
    }
    assert upload_folder(folder, store, prefix) == files  # nothing to do


def test_an_interrupted_upload_is_completed(folder: Path, tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    store.put_if_absent("bins/a.parquet", b"abc")
    with pytest.raises(
        UserError, match=r"has no folder\.json: no folder was stored there, or its upload was not compl"
    ):
        download_folder(store, tmp_path / "copy")
    upload_folder(folder, store)
    download_folder(store, tmp_path / "copy")


def test_another_folder_is_never_overwritten(folder: Path, tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    store.put_if_absent("part/plan.json", b"[]")
    with pytest.raises(UserError, match=r"part/plan\.json in .* has other content than .*choose another address"):
        upload_folder(folder, store, "part")
    upload_folder(folder, store, "whole")
    (folder / "plan.json").write_text("[]")
    with pytest.raises(UserError, match=r"store/whole holds another folder, with 3 files\. .*choose another address"):
        upload_folder(folder, store, "whole")


def test_a_damaged_object_is_named_and_no_folder_appears(folder: Path, tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    upload_folder(folder, store)
    (tmp_path / "store/plan.json").write_text("[]")
    with pytest.raises(StorageError, match=r"plan\.json in .* is damaged: it has 2 bytes with sha256"):
        download_folder(store, tmp_path / "copy")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source", "store"]
    with pytest.raises(UserError, match=r"source exists\. Choose a folder that does not"):
        download_folder(store, folder)


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "a/../../x", "a//b", "_.x", "folder.json", "a b"])
def test_an_index_with_other_paths_is_refused(tmp_path: Path, path: str) -> None:
    store = LocalStore(tmp_path)
    document = {"format": 1, "files": [{"path": path, "size": 0, "sha256": "0" * 64}]}
    store.put_if_absent(INDEX, json.dumps(document).encode())
    with pytest.raises(StorageError, match=r"^folder\.json in .* is damaged, or of another release"):
        read_index(store)


def test_folders_that_cannot_be_stored_are_refused(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    with pytest.raises(UserError, match=r"absent is not a folder"):
        upload_folder(tmp_path / "absent", store)
    (tmp_path / "source").mkdir()
    with pytest.raises(UserError, match=r"source has no files"):
        upload_folder(tmp_path / "source", store)
    (tmp_path / "source/my file").write_text("")
    with pytest.raises(UserError, match=r"my file cannot be uploaded: names must consist of .* Rename it\."):
        upload_folder(tmp_path / "source", store)
    assert store.list() == []
