"""Reading and ordering bins, and packing them into a row."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from brew_data.packed_bins.plan import BinsPlan, digest_file
from brew_platform.errors import DataError, UserError
from brew_train.config import ModelShape
from brew_train.inputs.batches import Bin, collate
from brew_train.inputs.bin_order import BinOrder, BinOrderState
from brew_train.inputs.bin_reader import BinReader
from brew_train.objectives.fused_losses import NO_TARGET


def test_collating_two_bins_by_hand() -> None:
    first = Bin(
        input_ids=np.array([5, 6, 7, 8, 9], np.int32),
        doc_lengths=np.array([3, 2], np.int32),
        roles=np.array([0, 0, 1, 0, 1], np.uint8),
    )
    second = Bin(
        input_ids=np.array([1, 2], np.int32), doc_lengths=np.array([2], np.int32), roles=np.array([0, 1], np.uint8)
    )
    batch = collate([first, second])
    assert batch.input_ids_1T.tolist() == [[5, 6, 7, 8, 9, 1, 2]]
    assert batch.position_ids_1T.tolist() == [[0, 1, 2, 0, 1, 0, 1]]
    assert batch.cu_seqlens.tolist() == [0, 3, 5, 7]
    assert batch.cu_seqlens.dtype == torch.int32
    assert batch.max_length == 3
    x = NO_TARGET
    assert batch.targets_T.tolist() == [6, 7, x, 9, x, 2, x]
    # the role is the target's; the first token of a document is never a target
    assert [r for r, t in zip(batch.roles_T.tolist(), batch.targets_T.tolist(), strict=True) if t != x] == [0, 1, 1, 1]
    assert batch.counts().tolist() == [1, 3, 1]
    assert batch.tokens == 7


def test_collating_a_slate_by_hand() -> None:
    """A document of two tokens, then a slate: a prefix, a candidate that reads all of it, and one that reads less."""
    slate = Bin(
        input_ids=np.array([3, 4, 5, 6, 7, 8, 9, 1, 2], np.int32),
        doc_lengths=np.array([2, 7], np.int32),
        roles=np.array([0, 0, 0, 0, 0, 0, 1, 0, 1], np.uint8),
        segment_lengths=np.array([2, 3, 2, 2], np.int32),
        segment_prefixes=np.array([0, 0, 3, 1], np.int32),
    )
    plain = Bin(
        input_ids=np.array([1, 2], np.int32), doc_lengths=np.array([2], np.int32), roles=np.array([0, 1], np.uint8)
    )
    batch = collate([slate, plain])
    assert batch.position_ids_1T.tolist() == [[0, 1, 0, 1, 2, 3, 4, 1, 2, 0, 1]]
    assert batch.cu_seqlens.tolist() == [0, 2, 5, 7, 9, 11]
    assert batch.key_places_K is not None
    assert batch.key_places_K.tolist() == [0, 1, 2, 3, 4, 2, 3, 4, 5, 6, 2, 7, 8, 9, 10]
    assert batch.cu_seqlens_k.tolist() == [0, 2, 5, 10, 13, 15]
    assert batch.cu_seqlens_k.dtype == torch.int32
    assert (batch.max_length, batch.max_length_k) == (3, 5)
    x = NO_TARGET
    assert batch.targets_T.tolist() == [4, x, 6, 7, x, 9, x, 2, x, 2, x]
    assert batch.counts().tolist() == [3, 3, 2]
    assert collate([plain]).key_places_K is None


def test_written_bins_are_read(bins: dict[str, Path], shape: ModelShape) -> None:
    reader = BinReader(bins["cpt"], shape)
    rows = pa.concat_tables([pq.read_table(file) for file in sorted(bins["cpt"].glob("*.parquet"))]).to_pylist()
    assert reader.n_bins == len(rows) == 12
    for row in rows:
        read = reader[row["bin_id"]]
        assert read.input_ids.tolist() == row["input_ids"]
        assert read.doc_lengths.tolist() == row["doc_lengths"]
        assert read.roles.tolist() == row["roles"]


def test_bins_are_read_by_row_groups_and_the_cache_is_limited(
    bins: dict[str, Path], shape: ModelShape, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = BinReader(bins["cpt"], shape)
    expected = [reader[bin_id].input_ids.tolist() for bin_id in range(12)]
    for file in bins["cpt"].glob("*.parquet"):
        pq.write_table(pq.read_table(file), file, row_group_size=2)
    seal_again(bins["cpt"])
    monkeypatch.setattr("brew_train.inputs.bin_reader.CACHE_BYTES", 1)
    reader = BinReader(bins["cpt"], shape)
    for bin_id in [11, 0, 5, 6, 3, 0, 11]:
        assert reader[bin_id].input_ids.tolist() == expected[bin_id]
        assert len(reader._cache) == 1


def drop_column(folder: Path) -> None:
    file = folder / "bins-00000.parquet"
    pq.write_table(pq.read_table(file).drop_columns(["roles"]), file)


def cut_file(folder: Path) -> None:
    file = folder / "bins-00000.parquet"
    file.write_bytes(file.read_bytes()[:100])


def add_segments(lengths: list[int], prefixes: list[int]) -> Callable[[Path], None]:
    """Add the columns of slates; the first bin has these segments, the others one per document."""

    def apply(folder: Path) -> None:
        file = folder / "bins-00000.parquet"
        table = pq.read_table(file)
        documents = table["doc_lengths"].to_pylist()[1:]
        for column, values in {
            "segment_lengths": [lengths, *documents],
            "segment_prefixes": [prefixes, *([0] * len(row) for row in documents)],
        }.items():
            table = table.append_column(column, pa.array(values, pa.list_(pa.int32())))
        pq.write_table(table, file)

    return apply


def drop_prefixes(folder: Path) -> None:
    add_segments([1], [0])(folder)
    file = folder / "bins-00000.parquet"
    pq.write_table(pq.read_table(file).drop_columns(["segment_prefixes"]), file)


def change(column: str, values: object) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        file = folder / "bins-00000.parquet"
        table = pq.read_table(file)
        index = table.schema.get_field_index(column)
        changed = table[column].to_pylist()
        changed[0] = values
        array = pa.array(changed, table.schema.field(column).type)
        pq.write_table(table.set_column(index, table.schema.field(column), array), file)

    return apply


def seal_again(folder: Path, **changes: object) -> None:
    """Write a plan that fits the files, so that only their content is wrong."""
    plan = BinsPlan.load(folder)
    files = [
        replace(file, sha256=digest_file(folder / file.name), bytes=(folder / file.name).stat().st_size)
        for file in plan.files
        if (folder / file.name).is_file()
    ]
    replace(plan, files=files, **changes).sealed().write(folder)


def sealed(damage: Callable[[Path], object] = lambda folder: None, **changes: object) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        damage(folder)
        seal_again(folder, **changes)

    return apply


def leave_one_document_alone(folder: Path) -> None:
    a, b, c, d = pq.read_table(folder / "bins-00000.parquet")["doc_lengths"][0].as_py()
    change("doc_lengths", [a, b, c + d])(folder)


@pytest.mark.parametrize(
    ("damage", "error", "text"),
    [
        (lambda folder: (folder / "plan.json").unlink(), UserError, "has no plan.json"),
        (lambda folder: (folder / "plan.json").write_text("{"), DataError, "is not a JSON object"),
        (sealed(vocabulary_size=98), UserError, "a vocabulary of 98 ids, but the model has 97"),
        (sealed(context_length=65), UserError, "up to 65 tokens"),
        (sealed(n_bins=13), DataError, "has 13 bins, but the files hold 12"),
        (lambda folder: (folder / "bins-00000.parquet").unlink(), DataError, "bins-00000.parquet is missing"),
        (cut_file, DataError, "has 100 bytes, but plan.json lists it with"),
        (change("roles", [0]), DataError, "bins-00000.parquet (has .* bytes|was replaced or damaged)"),
        (sealed(drop_column), DataError, "lacks the column roles"),
        (sealed(cut_file), DataError, "is not a readable Parquet file"),
        (sealed(change("roles", [0])), DataError, "are inconsistent"),
        (sealed(change("doc_lengths", [1, 1])), DataError, "are inconsistent"),
        (sealed(add_segments([1, 2], [0, 0])), DataError, "are inconsistent"),
        (sealed(add_segments([1], [0, 0])), DataError, "are inconsistent"),
        (sealed(drop_prefixes), DataError, "are inconsistent"),
        (sealed(change("bin_id", 7)), DataError, "not numbered from 0"),
        (sealed(leave_one_document_alone, kind="pairs"), DataError, "an odd number of documents"),
        (sealed(change("input_ids", [97])), DataError, "are inconsistent"),
    ],
)
def test_bad_bins_are_refused_in_one_sentence(
    bins: dict[str, Path], shape: ModelShape, damage: Callable[[Path], object], error: type[UserError], text: str
) -> None:
    damage(bins["cpt"])
    with pytest.raises(error, match=text):
        read_all(bins["cpt"], shape)


def read_all(folder: Path, shape: ModelShape) -> None:
    reader = BinReader(folder, shape)
    reader.verify()
    for bin_id in range(reader.n_bins):
        reader[bin_id]


def test_a_changed_byte_in_a_file_is_found_before_training(bins: dict[str, Path], shape: ModelShape) -> None:
    file = bins["cpt"] / "bins-00001.parquet"
    content = bytearray(file.read_bytes())
    content[20] ^= 1  # in the data, not in the footer
    file.write_bytes(content)
    with pytest.raises(DataError, match=r"bins-00001\.parquet was replaced or damaged"):
        BinReader(bins["cpt"], shape).verify()


def test_ids_beyond_the_vocabulary_are_refused(bins: dict[str, Path], shape: ModelShape) -> None:
    seal_again(bins["cpt"], vocabulary_size=50)
    with pytest.raises(DataError, match="token ids from 0 to 96, but the model has ids 0 to 49"):
        read_all(bins["cpt"], replace(shape, vocabulary_size=50))


@given(
    n_bins=st.integers(1, 50),
    seed=st.integers(0, 2**40),
    counts=st.lists(st.integers(1, 30), min_size=1, max_size=8),
)
def test_each_bin_is_returned_once_per_epoch_for_any_counts(n_bins: int, seed: int, counts: list[int]) -> None:
    order = BinOrder(n_bins=n_bins, plan_hash="h", seed=seed)
    state, taken = order.start(), []
    for count in counts:
        ids, state = order.take(state, count)
        assert ids.dtype == np.int64
        assert len(ids) == count
        taken += ids.tolist()
    at_once, same = BinOrder(n_bins=n_bins, plan_hash="h", seed=seed).take(order.start(), sum(counts))
    assert at_once.tolist() == taken
    assert same == state
    assert state.epoch * n_bins + state.next_bin == sum(counts)
    for epoch in range(len(taken) // n_bins):
        assert sorted(taken[epoch * n_bins : (epoch + 1) * n_bins]) == list(range(n_bins))


def test_the_order_of_a_seed_does_not_change() -> None:
    order = BinOrder(n_bins=8, plan_hash="h", seed=1)
    ids, _ = order.take(order.start(), 16)
    assert ids.tolist() == [3, 5, 2, 7, 0, 6, 1, 4, 0, 6, 5, 3, 4, 7, 2, 1]


def test_the_order_is_the_same_for_equal_bins_whose_files_have_other_bytes() -> None:
    orders = (BinOrder(n_bins=8, plan_hash=plan_hash, seed=1) for plan_hash in ("h", "of another pyarrow"))
    first, second = (order.take(order.start(), 20)[0].tolist() for order in orders)
    assert first == second


def test_a_state_of_another_plan_is_refused() -> None:
    with pytest.raises(UserError, match="trained on plan other, but the bins have plan h"):
        BinOrder(n_bins=8, plan_hash="h", seed=1).take(BinOrderState(plan_hash="other"), 1)
