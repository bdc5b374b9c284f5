"""A commit exists completely or not at all."""

import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from brew_platform.errors import StorageError, UserError
from brew_train.checkpoint import MANIFEST, Commits
from brew_train.world import World


@pytest.fixture
def commits(tmp_path: Path, alone: World) -> Commits:
    commits = Commits(tmp_path / "checkpoints", keep=2, world=alone)
    for step in (1, 2, 3):
        commits.write({"w": torch.full((1000,), float(step))}, {"k": 1 / step}, step=step)
    return commits


def folders(commits: Commits) -> list[Path]:
    return sorted(commits.root.glob("step-*"))


def test_the_newest_is_read_back_and_retention_keeps_two(commits: Commits) -> None:
    assert [int(folder.name.split("-")[1]) for folder in folders(commits)] == [2, 3]
    commit = commits.newest()
    assert commit is not None
    assert (commit.step, commit.state) == (3, {"k": 1 / 3})
    tensor = torch.zeros(1000)
    commits.read(commit, {"w": tensor})
    assert torch.equal(tensor, torch.full((1000,), 3.0))


def flip_a_bit(folder: Path) -> None:
    file = next(folder.glob("*.distcp"))
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(content)


def cut(folder: Path) -> None:
    file = next(folder.glob("*.distcp"))
    file.write_bytes(file.read_bytes()[:-10])


def alter_manifest(folder: Path) -> None:
    file = folder / MANIFEST
    file.write_text(file.read_text().replace('"step": 3', '"step": 4'))


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (flip_a_bit, "another content"),
        (cut, "bytes instead of"),
        (alter_manifest, "its manifest was altered"),
        (lambda folder: (folder / ".metadata").unlink(), "is missing"),
        (lambda folder: (folder / MANIFEST).write_text("{"), "damaged"),
        (lambda folder: (folder / MANIFEST).unlink(), None),
    ],
)
def test_damage_falls_back_to_the_one_before(
    commits: Commits, damage: Callable[[Path], object], text: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    damage(folders(commits)[-1])
    with caplog.at_level(logging.WARNING):
        commit = commits.newest()
    assert commit is not None
    assert commit.step == 2
    assert (text in caplog.text) if text else not caplog.records


def test_a_repeated_step_never_writes_into_the_old_folder(commits: Commits) -> None:
    old = folders(commits)[-1]
    (old / MANIFEST).unlink()
    new = commits.write({"w": torch.full((1000,), 9.0)}, {}, step=3)
    assert new != old
    assert not old.exists()  # what a lost worker left behind goes with the next commit


@pytest.mark.parametrize("keep", [1, 2])
def test_a_damaged_later_commit_never_pushes_out_a_good_one(commits: Commits, keep: int) -> None:
    commits.keep = keep
    flip_a_bit(folders(commits)[-1])
    new = commits.write({"w": torch.full((1000,), 2.0)}, {}, step=2)
    commit = commits.newest()
    assert commit is not None
    assert commit.step == 2
    assert new in folders(commits)
    assert len(folders(commits)) == keep


def test_without_a_commit_there_is_none(tmp_path: Path, alone: World) -> None:
    assert Commits(tmp_path / "nothing", keep=1, world=alone).newest() is None


def test_another_model_is_refused(commits: Commits) -> None:
    commit = commits.newest()
    assert commit is not None
    with pytest.raises(UserError, match="does not fit this model"):
        commits.read(commit, {"other": torch.zeros(3)})
    with pytest.raises(UserError, match="does not fit this model"):
        commits.read(commit, {"w": torch.zeros(999)})


def test_a_disk_that_refuses_leaves_what_is_there(commits: Commits, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("brew_train.checkpoint.save", full)
    with pytest.raises(StorageError, match="step 4 could not be written"):
        commits.write({"w": torch.zeros(1000)}, {}, step=4)
    commit = commits.newest()
    assert commit is not None
    assert commit.step == 3


def test_the_manifest_names_every_file(commits: Commits) -> None:
    folder = folders(commits)[-1]
    body = json.loads((folder / MANIFEST).read_text())["body"]
    assert set(body["files"]) == {path.name for path in folder.iterdir()} - {MANIFEST}
