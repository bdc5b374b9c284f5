"""Pickles are found by name and by content, and data that begin like one are not."""

import pickle
import zipfile
from pathlib import Path

import pytest

from brew_platform.errors import StorageError, UserError
from brew_platform.registry.pickles import refuse_pickles


@pytest.mark.parametrize("name", ["model.pt", "a/model.PKL", "weights.ckpt", "model.joblib", "x.pth", "x.pickle"])
def test_a_name_of_a_pickle_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("anything")
    with pytest.raises(UserError, match=r"it is a pickle, which runs code when it is loaded\. Save weights as"):
        refuse_pickles([path])


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_pickle_under_another_name_is_refused(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "pytorch_model.bin"
    path.write_bytes(pickle.dumps({"weights": [1.0]}, protocol=protocol))
    with pytest.raises(UserError, match="it is a pickle"):
        refuse_pickles([path])


def test_a_zip_archive_with_a_pickle_is_refused(tmp_path: Path) -> None:
    for name, refused in (("archive/data.pkl", True), ("notes.txt", False)):
        path = tmp_path / "pytorch_model.bin"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(name, b"x")
        if refused:
            with pytest.raises(UserError, match="it is a pickle"):
                refuse_pickles([path])
        else:
            refuse_pickles([path])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("model.safetensors", b"\x80\x04\x00\x00\x00\x00\x00\x00{}."),  # a header of 1,152 bytes
        ("tokens.bin", b"\x80\x04\x00\x00"),
        ("tokenizer.model", b"\x0a."),
        ("empty", b""),
        ("archive", b"PK not a zip"),
        ("config.json", b"{}"),
    ],
)
def test_data_are_accepted(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    refuse_pickles([tmp_path / name])


def test_a_file_that_disappears_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"cannot publish .*gone: No such file or directory\. Publish again when"):
        refuse_pickles([tmp_path / "gone"])
