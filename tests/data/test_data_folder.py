"""Data folders: a complete one is read, and an incomplete, damaged or foreign one is refused with the remedy."""

import json
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from brew_data.data_folder import DataFolder, DatasetInfo, InputFile, read_plan_hash
from brew_data.split import Split
from brew_platform.errors import DataError
from brew_platform.registry.gates import Gate

INFO = DatasetInfo(
    source="synthetic",
    split=Split(train_until=100, until=200),
    has_true_probabilities=True,
    config_digest="c" * 64,
    prompt_digest="p" * 64,
    commit=None,
    gates=[Gate(figure="like.auc", at_least=0.5)],
    inputs=[InputFile(file="a.csv", sha256="a" * 64)],
    appended_to="b" * 64,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for part in ("tables", "prompts", "bins"):
        (tmp_path / part).mkdir()
    (tmp_path / "bins/plan.json").write_text('{"plan_hash": "abc"}')
    INFO.write(tmp_path)
    return tmp_path


def test_a_complete_folder_is_read_back(folder: Path) -> None:
    data = DataFolder.open(folder)
    assert data.info == replace(INFO, digest=data.info.digest)
    assert data.plan_hash() == "abc"
    (folder / "bins/plan.json").unlink()
    (folder / "bins").rmdir()
    assert data.plan_hash() is None


@pytest.mark.parametrize("part", ["tables", "prompts"])
def test_an_incomplete_folder_names_what_is_missing(folder: Path, part: str) -> None:
    (folder / part).rmdir()
    with pytest.raises(DataError, match=rf"has no {part}/, so that it is incomplete\. Build the data again"):
        DataFolder.open(folder)


def test_a_folder_of_another_kind_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent is not a folder\. Pass the folder that `brew360 data build` wrote"):
        DataFolder.open(tmp_path / "absent")
    (folder / "dataset.json").unlink()
    with pytest.raises(DataError, match=r"has no dataset\.json: it is not a data folder, or its build did not finish"):
        DataFolder.open(folder)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("format_version", 1, "has format_version 1, but this release reads 2 only"),
        ("split", None, "is damaged"),
        ("split", {"train_until": "x", "until": 3}, "is damaged"),
        ("source", ..., "is damaged"),
        ("inputs", [{"file": "a.csv"}], "is damaged"),
    ],
)
def test_a_damaged_dataset_file_is_refused(folder: Path, key: str, value: object, words: str) -> None:
    content = json.loads((folder / "dataset.json").read_text())
    content[key] = value
    if value is ...:
        del content[key]
    (folder / "dataset.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=words):
        DataFolder.open(folder)


def test_a_damaged_plan_is_refused(folder: Path) -> None:
    (folder / "bins/plan.json").write_text("[]")
    with pytest.raises(DataError, match=r"plan\.json cannot be read .*Build the data again"):
        read_plan_hash(folder / "bins")


def test_the_digest_is_that_of_prompts_tables_and_bins(folder: Path) -> None:
    before = DataFolder.open(folder).info.digest
    (folder / "card.md").write_text("no content that training or a benchmark reads")
    assert replace(INFO, commit="c" * 40).write(folder).digest == before
    changes = [
        ("bins/plan.json", '{"plan_hash": "abd"}'),
        ("tables/members.parquet", "rows"),
        ("evaluation/plan.json", '{"plan_hash": "abc"}'),
    ]
    digests = {before, replace(INFO, prompt_digest="q" * 64).write(folder).digest}
    for name, text in changes:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
        digests.add(INFO.write(folder).digest)
    assert len(digests) == 5
    assert DataFolder.open(folder).info.digest in digests


def test_rows_are_read_by_the_values_of_a_column(folder: Path) -> None:
    table = pa.table({"member_id": ["a", "b", "a", "c"], "row": [0, 1, 2, 3]})
    pq.write_table(table, folder / "tables/interactions.parquet")
    data = DataFolder.open(folder)
    assert data.rows("interactions", "member_id", ["a", "c"])["row"].to_pylist() == [0, 2, 3]
    assert data.rows("interactions", "member_id", []).num_rows == 0
    with pytest.raises(DataError, match=r"entities\.parquet cannot be read"):
        data.rows("entities", "entity_id", ["a"])
