"""Folders of bins: their content and plan hash, which must never change."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from brew_data.packed_bins.schema import finish_plan, write_file


def test_the_hash_of_a_plan_never_changes_and_does_not_depend_on_the_order_of_files(tmp_path: Path) -> None:
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
    assert row == {
        "file": 0,
        "digest": "55270b070e83b099036fdacde992d1722cf55d6bcd16937b33d0cf224878e8b3",
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
    assert plan.plan_hash == "f7dcf57ea8e541cdf03744222c8836d9a9551e574e3eeb2823a037067cf0cdd9"
    assert (plan.n_tokens, plan.fill, seen) == (6, 0.75, [(2, 2)])
    assert (plan.fields_cut, plan.tokens_cut, plan.turns_dropped) == (3, 15, 0)
    second = {"file": 1, "digest": "ab", "bins": 1, "tokens": 2, "fields_cut": 1, "tokens_cut": 2, "turns_dropped": 4}
    both = [finish_plan(rows, n_bins=3, **sizes) for rows in ([row, second], [second, row])]
    assert both[0] == both[1] != plan
    assert (both[0].fields_cut, both[0].tokens_cut, both[0].turns_dropped) == (4, 17, 4)
