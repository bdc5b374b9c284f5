"""`brew360 store push` and `pull`: whole folders, and one sentence for each fault."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from brew_cluster.cli.main import app


def run(*arguments: str, code: int = 0) -> str:
    done = CliRunner(env={"COLUMNS": "4000"}).invoke(app, ["store", *arguments])
    assert done.exit_code == code, done.output
    return done.output


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "data/bins").mkdir(parents=True)
    (tmp_path / "data/dataset.json").write_text("{}")
    (tmp_path / "data/bins/a.parquet").write_text("abc")
    return tmp_path / "data"


def test_a_folder_is_pushed_and_pulled(folder: Path, tmp_path: Path) -> None:
    url = f"file://{tmp_path}/store"
    assert f"{tmp_path}/store has 2 files" in run("push", str(folder), url)
    assert f"{tmp_path}/store has 2 files" in run("push", str(folder), url)
    assert "copy has 2 files" in run("pull", url, str(tmp_path / "copy"))
    assert (tmp_path / "copy/bins/a.parquet").read_text() == "abc"


def test_faults_are_one_sentence(folder: Path, tmp_path: Path) -> None:
    url = f"file://{tmp_path}/store"
    assert "has no folder.json: no folder was stored there" in run("pull", url, str(tmp_path / "copy"), code=2)
    run("push", str(folder), url)
    (folder / "dataset.json").write_text("[]")
    assert "holds another folder, with 2 files. Objects are never overwritten" in run("push", str(folder), url, code=2)
    assert "data exists. Choose a folder that does not" in run("pull", url, str(folder), code=2)
    assert "the address has credentials" in run("push", str(folder), "s3://key:secret@bucket/x", code=1)
