"""The plan of a folder of bins: its hash, and the faults of files that it finds."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from brew_data.packed_bins.plan import BinsFile, BinsPlan
from brew_platform.errors import DataError, UserError

PLAN = BinsPlan(
    context_length=8,
    vocabulary_size=9,
    prompt_digest="p",
    n_bins=3,
    n_documents=3,
    n_tokens=12,
    fill=0.5,
    files=[
        BinsFile(name="bins-000000.parquet", sha256=hashlib.sha256(b"first").hexdigest(), bytes=5, bins=2),
        BinsFile(name="bins-000001.parquet", sha256=hashlib.sha256(b"second").hexdigest(), bytes=6, bins=1),
    ],
).sealed()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "bins-000000.parquet").write_bytes(b"first")
    (tmp_path / "bins-000001.parquet").write_bytes(b"second")
    PLAN.write(tmp_path)
    return tmp_path


def test_a_plan_is_read_back_and_its_files_are_intact(folder: Path) -> None:
    assert BinsPlan.load(folder) == PLAN
    seen: list[tuple[int, int]] = []
    BinsPlan.load(folder).verify_files(folder, on_progress=lambda done, total: seen.append((done, total)))
    assert seen == [(5, 11), (11, 11)]


def test_the_hash_is_that_of_everything_else_in_the_file() -> None:
    body = {key: value for key, value in asdict(PLAN).items() if key != "plan_hash"}
    assert PLAN.plan_hash == hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    other_bytes = replace(PLAN.files[0], sha256="0" * 64)
    assert replace(PLAN, files=[other_bytes, PLAN.files[1]]).sealed().plan_hash != PLAN.plan_hash
    assert replace(PLAN, prompt_digest="q").sealed().plan_hash != PLAN.plan_hash


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (lambda folder: (folder / "bins-000001.parquet").unlink(), r"bins-000001\.parquet is missing: .* with 1 bins"),
        (
            lambda folder: (folder / "bins-000000.parquet").write_bytes(b"fir"),
            r"bins-000000\.parquet has 3 bytes, but plan\.json lists it with 5: it was cut short or replaced",
        ),
        (
            lambda folder: (folder / "bins-000002.parquet").touch(),
            r"bins-000002\.parquet is not in plan\.json, so it belongs to another plan\. Remove it",
        ),
        (
            lambda folder: (folder / "bins-000000.parquet").write_bytes(b"worst"),
            r"bins-000000\.parquet was replaced or damaged: its SHA-256 is .* Copy the folder again",
        ),
    ],
)
def test_a_file_that_differs_from_the_plan_is_named(folder: Path, damage: Callable[[Path], object], text: str) -> None:
    damage(folder)
    with pytest.raises(DataError, match=text):
        BinsPlan.load(folder).verify_files(folder)


def change(folder: Path, **changes: object) -> None:
    content = json.loads((folder / "plan.json").read_text()) | changes
    (folder / "plan.json").write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"format_version": None}, r"has format_version 1, but this release reads 2 and 3, .*build the data again"),
        ({"format_version": 4}, "has format_version 4"),
        ({"n_tokens": 13}, r"plan\.json was changed after it was written: its plan_hash is .*build the data again"),
        ({"files": []}, "was changed after it was written"),
        ({"plan_hash": None}, "its plan_hash is None"),
    ],
)
def test_a_plan_of_another_release_or_with_changes_is_refused(
    folder: Path, changes: dict[str, object], text: str
) -> None:
    change(folder, **changes)
    with pytest.raises(DataError, match=text):
        BinsPlan.load(folder)


def test_a_missing_plan_and_one_that_is_not_json_are_refused(folder: Path) -> None:
    (folder / "plan.json").write_text("{")
    with pytest.raises(DataError, match="is not a JSON object"):
        BinsPlan.load(folder)
    (folder / "plan.json").unlink()
    with pytest.raises(UserError, match=r"has no plan\.json, so it is not a complete folder of bins"):
        BinsPlan.load(folder)
