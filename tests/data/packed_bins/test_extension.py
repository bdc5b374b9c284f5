"""A folder of bins is extended: its files stay as they are, and the ids of the further bins continue."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from brew_data.packed_bins.extension import extend_bins
from brew_data.packed_bins.packed_documents import read_bin
from brew_data.packed_bins.plan import BinsPlan
from brew_platform.errors import DataError, UserError

WriteBins = Callable[..., Path]


def test_the_bins_of_both_folders_are_there_and_the_first_files_are_the_same(
    write_bins: WriteBins, tmp_path: Path
) -> None:
    first, second = write_bins(tmp_path / "a", tokens_cut=3), write_bins(tmp_path / "b", n_bins=5, seed=1, tokens_cut=4)
    plan = extend_bins(first, second, tmp_path / "out")
    plans = BinsPlan.load(first), BinsPlan.load(second)
    assert plan == BinsPlan.load(tmp_path / "out")
    plan.verify_files(tmp_path / "out")
    assert plan.files[:2] == plans[0].files
    assert (tmp_path / "out" / plan.files[0].name).samefile(first / plan.files[0].name)
    assert (plan.n_bins, plan.n_documents, plan.tokens_cut) == (17, 68, 7)
    assert plan.fill == pytest.approx((plans[0].n_tokens + plans[1].n_tokens) / (17 * 64))
    ids = [i for file in plan.files for i in pq.read_table(tmp_path / "out" / file.name)["bin_id"].to_pylist()]
    assert ids == list(range(17))
    for bin_id in range(17):
        folder, own, number = (first, plans[0], bin_id) if bin_id < 12 else (second, plans[1], bin_id - 12)
        found, expected = read_bin(tmp_path / "out", plan, bin_id), read_bin(folder, own, number)
        assert [(d.ids.tolist(), d.roles.tolist()) for d in found] == [
            (d.ids.tolist(), d.roles.tolist()) for d in expected
        ]


def test_without_further_bins_the_plan_is_the_same(write_bins: WriteBins, tmp_path: Path) -> None:
    first = write_bins(tmp_path / "a")
    assert extend_bins(first, None, tmp_path / "out") == BinsPlan.load(first)
    again = extend_bins(tmp_path / "out", write_bins(tmp_path / "b"), tmp_path / "second")
    assert extend_bins(tmp_path / "second", tmp_path / "b", tmp_path / "third").n_bins == again.n_bins + 12


@pytest.mark.parametrize("change", [{"prompt_digest": "q"}, {"kind": "pairs"}, {"context_length": 128}])
def test_bins_that_do_not_fit_are_refused(write_bins: WriteBins, tmp_path: Path, change: dict[str, object]) -> None:
    first, second = write_bins(tmp_path / "a"), write_bins(tmp_path / "b")
    replace(BinsPlan.load(second), **change).sealed().write(second)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=rf"have the {next(iter(change))} .*Compile them with the same prompts"):
        extend_bins(first, second, tmp_path / "out")
    assert not (tmp_path / "out" / "plan.json").exists()


def test_a_damaged_file_is_named(write_bins: WriteBins, tmp_path: Path) -> None:
    first, second = write_bins(tmp_path / "a"), write_bins(tmp_path / "b")
    path = second / BinsPlan.load(second).files[0].name
    content = bytearray(path.read_bytes())
    content[50] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(DataError, match="was replaced or damaged"):
        extend_bins(first, second, tmp_path / "out")
