"""Differences between versions, and the digest that tells one model from another."""

from pathlib import Path
from typing import Any

import pytest

from brew_platform.errors import UserError
from brew_platform.registry.blobs import File
from brew_platform.registry.diff import Difference, FileDifference, VersionDiff, diff_versions
from brew_platform.registry.model_digest import folder_digest, model_digest
from brew_platform.registry.registry import Version


def version(number: int, files: dict[str, str], **fields: Any) -> Version:
    return Version(
        number=number,
        files=tuple(File(path, 3, digest) for path, digest in files.items()),
        **({"signature": {}, "lineage": {}, "metrics": {}} | fields),
        author="ana",
        time="2026-01-02T03:04:05+00:00",
        write_id=str(number),
    )


def test_differences_are_listed_and_equal_parts_are_left_out() -> None:
    before = version(
        1,
        {"a": "x", "b": "y", "c": "z"},
        metrics={"like": {"auc": 0.5, "rows": 9}},
        lineage={"parent": None, "plan": "p"},
    )
    after = version(
        3, {"b": "w", "c": "z", "d": "v"}, metrics={"like": {"auc": 0.75, "rows": 9}, "open": {"auc": 0.5}},
        lineage={"parent": {"digest": "q"}, "plan": "p"}, signature={"tasks": ["like"]},
    )  # fmt: skip
    assert diff_versions(before, after) == VersionDiff(
        before=1,
        after=3,
        same_files=1,
        files=[
            FileDifference(path="a", before=File("a", 3, "x"), after=None),
            FileDifference(path="b", before=File("b", 3, "y"), after=File("b", 3, "w")),
            FileDifference(path="d", before=None, after=File("d", 3, "v")),
        ],
        signature=[Difference(name="tasks", before=None, after=["like"])],
        lineage=[Difference(name="parent.digest", before=None, after="q")],
        metrics=[
            Difference(name="like.auc", before=0.5, after=0.75),
            Difference(name="open.auc", before=None, after=0.5),
        ],
    )
    assert [item.change for item in diff_versions(before, after).metrics] == [0.25, None]
    assert diff_versions(before, before).files == []


def test_the_digest_covers_the_files_that_decide_the_scores(tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors", "tokenizer.json", "suite.json", "prompt.json", "lineage.json"):
        (tmp_path / name).write_text(name)
    digest = folder_digest(tmp_path)
    (tmp_path / "lineage.json").write_text("{}")
    (tmp_path / "report.json").write_text("{}")
    assert folder_digest(tmp_path) == digest
    for name in ("config.json", "model.safetensors", "tokenizer.json", "suite.json", "prompt.json"):
        (tmp_path / name).write_text("changed")
        assert folder_digest(tmp_path) != digest
        (tmp_path / name).write_text(name)
    (tmp_path / "model.safetensors").rename(tmp_path / "model-00001-of-00001.safetensors")
    assert folder_digest(tmp_path) != digest
    with pytest.raises(UserError, match="folder"):
        folder_digest(tmp_path / "absent")


def test_the_digest_does_not_depend_on_the_order_of_the_files() -> None:
    files = [File("config.json", 1, "a"), File("model.safetensors", 2, "b")]
    assert model_digest(files) == model_digest(files[::-1]) != model_digest(files[:1])
