"""The documents of packed bins are found by bin and by number, and their lengths are described."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from brew_data.packed_bins.packed_documents import (
    BUCKETS,
    Distribution,
    document_figures,
    find_document,
    read_bin,
)
from brew_data.packed_bins.plan import BinsPlan
from brew_platform.errors import DataError, UserError


@pytest.fixture(scope="module")
def folder(write_bins: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bins(tmp_path_factory.mktemp("bins") / "bins")


def documents(folder: Path) -> list[tuple[list[int], list[int]]]:
    """Ids and roles of all documents, in the order of the bins."""
    found = []
    for path in sorted(folder.glob("bins-*.parquet")):
        for row in pq.read_table(path).to_pylist():
            start = 0
            for length in row["doc_lengths"]:
                found.append((row["input_ids"][start : start + length], row["roles"][start : start + length]))
                start += length
    return found


def test_every_document_is_found_by_its_number_and_in_its_bin(folder: Path) -> None:
    plan, expected = BinsPlan.load(folder), documents(folder)
    for number, (ids, roles) in enumerate(expected):
        document = find_document(folder, plan, number)
        assert (document.ids.tolist(), document.roles.tolist()) == (ids, roles)
        assert (document.bin_id, document.slot) == divmod(number, 4)
    in_bins = [document.ids.tolist() for bin_id in range(plan.n_bins) for document in read_bin(folder, plan, bin_id)]
    assert in_bins == [ids for ids, _ in expected]


@pytest.mark.parametrize("number", [-1, 48])
def test_a_document_or_bin_that_is_not_there_is_named_with_the_range(folder: Path, number: int) -> None:
    plan = BinsPlan.load(folder)
    with pytest.raises(UserError, match=rf"has no document {number}\. Give a number from 0 to 47"):
        find_document(folder, plan, number)
    with pytest.raises(UserError, match=rf"has no bin {number}\. Give a number from 0 to 11"):
        read_bin(folder, plan, number)


def test_a_damaged_file_is_named(write_bins: Callable[..., Path], tmp_path: Path) -> None:
    folder = write_bins(tmp_path / "bins")
    plan = BinsPlan.load(folder)
    (folder / plan.files[0].name).write_bytes(b"cut short")
    for call in (lambda: read_bin(folder, plan, 0), lambda: document_figures(folder, plan)):
        with pytest.raises(DataError, match=r"bins-00000\.parquet cannot be read .*build the data again"):
            call()


def test_the_figures_describe_all_documents_or_every_second_file(folder: Path) -> None:
    plan, all_documents = BinsPlan.load(folder), documents(folder)
    for most_bins, expected in ((12, all_documents), (6, all_documents[:24])):
        figures = document_figures(folder, plan, most_bins=most_bins)
        lengths = [len(ids) for ids, _ in expected]
        assert figures.bins == len(expected) // 4
        assert figures.tokens.mean == pytest.approx(np.mean(lengths), abs=0.05)
        assert figures.tokens.quantiles["100%"] == max(lengths)
        assert figures.loss_tokens.quantiles["100%"] == max(sum(roles) for _, roles in expected)
        assert figures.loss_share == pytest.approx(sum(sum(r) for _, r in expected) / sum(lengths), abs=1e-6)


@given(st.lists(st.integers(0, 300), min_size=1, max_size=50))
def test_a_distribution_counts_every_document_once(values: list[int]) -> None:
    found = Distribution.of(np.bincount(values, minlength=400))
    assert len(found.buckets) <= BUCKETS
    assert sum(bucket["documents"] for bucket in found.buckets) == len(values)
    for bucket in found.buckets:
        assert bucket["documents"] == sum(bucket["first"] <= value <= bucket["last"] for value in values)
    assert found.quantiles["100%"] == max(values)
    for name, value in found.quantiles.items():
        assert sum(v <= value for v in values) >= float(name.rstrip("%")) / 100 * len(values) - 1e-9
