"""Folders of bins: the files that are written, and their plan."""

import hashlib
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from brew_data.packed_bins.schema import finish_plan, start_folder, write_file


def test_a_plan_lists_its_files_and_does_not_depend_on_the_order_in_which_they_are_written(tmp_path: Path) -> None:
    documents = pa.table(
        {
            "file": [0] * 3,
            "bin_id": [1, 0, 0],
            "slot": [0, 1, 0],
            "length": [2, 1, 3],
            "ids": pa.array([[7, 1], [5], [2, 3, 4]], pa.list_(pa.int32())),
            "roles": pa.array([[0, 1], [0], [0, 0, 1]], pa.list_(pa.uint8())),
            "fields_cut": [1, 0, 2],
            "tokens_cut": [10, 0, 5],
        }
    )
    [row] = write_file(documents, out=tmp_path).to_pylist()
    content = (tmp_path / "bins-000000.parquet").read_bytes()
    assert row == {
        "file": 0,
        "name": "bins-000000.parquet",
        "format_version": 2,
        "sha256": hashlib.sha256(content).hexdigest(),
        "bytes": len(content),
        "bins": 2,
        "tokens": 6,
        "fields_cut": 3,
        "tokens_cut": 15,
        "turns_dropped": 0,
    }
    assert pq.read_table(tmp_path / "bins-000000.parquet").to_pylist() == [
        {"bin_id": 0, "input_ids": [2, 3, 4, 5], "doc_lengths": [3, 1], "roles": [0, 0, 1, 0]},
        {"bin_id": 1, "input_ids": [7, 1], "doc_lengths": [2], "roles": [0, 1]},
    ]
    seen: list[tuple[int, int]] = []
    sizes = {"n_documents": 3, "context_length": 4, "vocabulary_size": 9, "prompt_digest": "ef"}
    plan = finish_plan([row], n_bins=2, **sizes, on_progress=lambda done, total: seen.append((done, total)))
    assert (plan.n_tokens, plan.fill, seen) == (6, 0.75, [(2, 2)])
    assert (plan.fields_cut, plan.tokens_cut, plan.turns_dropped) == (3, 15, 0)
    assert [asdict(file) for file in plan.files] == [{key: row[key] for key in ("name", "sha256", "bytes", "bins")}]
    second = {"file": 1, "name": "b", "format_version": 3, "sha256": "ab", "bytes": 7, "bins": 1, "tokens": 2,
              "fields_cut": 1, "tokens_cut": 2, "turns_dropped": 4}  # fmt: skip
    both = [finish_plan(rows, n_bins=3, **sizes) for rows in ([row, second], [second, row])]
    assert both[0] == both[1] != plan
    assert (plan.format_version, both[0].format_version) == (2, 3)
    assert (both[0].fields_cut, both[0].tokens_cut, both[0].turns_dropped) == (4, 17, 4)


def test_the_same_documents_give_the_same_files(tmp_path: Path) -> None:
    documents = pa.table(
        {"file": [0], "bin_id": [0], "slot": [0], "length": [2],
         "ids": pa.array([[7, 1]], pa.list_(pa.int32())), "roles": pa.array([[0, 1]], pa.list_(pa.uint8()))}
    )  # fmt: skip
    rows = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        rows += write_file(documents, out=tmp_path / name).to_pylist()
    assert rows[0] == rows[1]


def test_a_folder_that_is_built_again_keeps_no_old_bins(tmp_path: Path) -> None:
    for name in ("plan.json", "bins-000000.parquet", "bins-000001.parquet", "notes.txt"):
        (tmp_path / name).touch()
    start_folder(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    start_folder(tmp_path / "new" / "folder")
    assert (tmp_path / "new" / "folder").is_dir()
