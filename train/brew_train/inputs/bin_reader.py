"""Random access to a folder of packed bins, with checks that they fit the model.

A row group is read when one of its bins is requested, so memory does not grow with the data. Small data sets stay in
the cache completely. `plan.json` (`BinsPlan`) has the size and the SHA-256 of each file.
"""

import logging
import time
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from brew_data.packed_bins.plan import BinsPlan
from brew_platform.errors import DataError, UserError
from brew_train.config import ModelShape
from brew_train.inputs.batches import Bin

__all__ = ["BinReader"]

logger = logging.getLogger(__name__)

COLUMNS = {
    "bin_id": pa.int64(),
    "input_ids": pa.list_(pa.int32()),
    "doc_lengths": pa.list_(pa.int32()),
    "roles": pa.list_(pa.uint8()),
}
PROGRESS_SECONDS = 5.0  # interval of log lines while files are verified
CACHE_BYTES = 128 * 2**20  # of decoded row groups, 5 bytes a token: 26 million tokens


@dataclass(frozen=True, kw_only=True)
class RowGroup:
    """A row group of a Parquet file, which holds consecutive bins."""

    path: Path
    index: int  # index in the file
    first: int  # id of the first bin
    rows: int  # number of bins


class BinReader:
    """Random access to the bins of one folder.

    Args:
        folder: contains `bins-*.parquet` and `plan.json`.
        shape: vocabulary and context length of the model.

    Raises:
        UserError: the folder has no bins, or the bins exceed the vocabulary or the context length of the model.
        DataError: the plan is damaged or of another release; or a file is missing, added, unreadable, of another size
            than in the plan, or has other columns.
    """

    def __init__(self, folder: Path, shape: ModelShape) -> None:
        vocabulary_size, context_length = shape.vocabulary_size, shape.context_length
        plan = BinsPlan.load(folder)
        self.folder, self._plan = folder, plan
        self.plan_hash, self.n_bins = plan.plan_hash, plan.n_bins
        self.kind = plan.kind  # documents, or pairs: each chosen document followed by its rejected one
        self._context_length = plan.context_length
        self._vocabulary_size = vocabulary_size
        if plan.vocabulary_size > vocabulary_size:
            raise UserError(
                f"the bins in {folder} were made with a vocabulary of {plan.vocabulary_size} ids, but the model has "
                f"{vocabulary_size}: build model and bins with the same tokenizer."
            )
        if plan.context_length > context_length:
            raise UserError(
                f"the bins in {folder} hold up to {plan.context_length} tokens, but the model reads "
                f"{context_length}: build shorter bins, or give the model a longer context."
            )
        plan.check_files(folder)
        self._groups = _row_groups([folder / file.name for file in plan.files])
        self._firsts = np.array([group.first for group in self._groups])
        rows = sum(group.rows for group in self._groups)
        if rows != self.n_bins or self.n_bins == 0:
            raise DataError(
                f"{folder}/plan.json has {self.n_bins} bins, but the files hold {rows}: build the data again, from "
                f"tables with interactions before the cut."
            )
        self._cache: OrderedDict[int, pa.Table] = OrderedDict()

    def __getitem__(self, bin_id: int) -> Bin:
        """Returns the bin with this id, from 0 to n_bins - 1.

        Raises:
            DataError: the file is damaged, or its bins are inconsistent or exceed the model's vocabulary.
        """
        index = int(np.searchsorted(self._firsts, bin_id, side="right")) - 1
        table = self._group(index)
        row = bin_id - self._groups[index].first
        return Bin(**{name: table[name][row].values.to_numpy() for name in ("input_ids", "doc_lengths", "roles")})

    def verify(self) -> None:
        """Compares the SHA-256 of every file with the plan, before training. It runs at the speed of the disk.

        Raises:
            DataError: a file was replaced or damaged; the message names it.
        """
        reported = time.monotonic()

        def on_progress(done: int, total: int) -> None:
            nonlocal reported
            if time.monotonic() - reported > PROGRESS_SECONDS:
                reported = time.monotonic()
                logger.info("verified %.1f of %.1f GB of the bins in %s", done / 1e9, total / 1e9, self.folder)

        self._plan.verify_files(self.folder, on_progress=on_progress)

    def _group(self, index: int) -> pa.Table:
        if index in self._cache:
            self._cache.move_to_end(index)
        else:
            self._cache[index] = self._read(self._groups[index])
            while len(self._cache) > 1 and sum(table.nbytes for table in self._cache.values()) > CACHE_BYTES:
                self._cache.popitem(last=False)
        return self._cache[index]

    def _read(self, group: RowGroup) -> pa.Table:
        try:
            with pq.ParquetFile(group.path) as file:
                table = file.read_row_group(group.index, columns=list(COLUMNS)).combine_chunks()
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"{group.path} is not a readable Parquet file ({error}); build the data again.") from error
        self._check(table, group)
        return table

    def _check(self, table: pa.Table, group: RowGroup) -> None:
        if not np.array_equal(table["bin_id"].to_numpy(), np.arange(group.first, group.first + group.rows)):
            raise DataError(
                f"the bins in {group.path} are not numbered from {group.first} in file order; build them again."
            )
        lengths = pc.list_value_length(table["input_ids"])
        same_roles = pc.all(pc.equal(lengths, pc.list_value_length(table["roles"]))).as_py()
        ids = pc.list_flatten(table["input_ids"])
        documents = pc.list_flatten(table["doc_lengths"]).to_numpy()
        per_bin = pc.list_value_length(table["doc_lengths"])
        ends = np.cumsum(per_bin.to_numpy())  # end of the documents of each bin
        covered = np.array_equal(np.append(0, np.cumsum(documents))[ends], np.cumsum(lengths.to_numpy()))
        shortest = min(pc.min(lengths).as_py(), documents.min(initial=1))
        if not same_roles or not covered or shortest < 1 or pc.max(lengths).as_py() > self._context_length:
            raise DataError(
                f"the bins in {group.path} are inconsistent: roles and document lengths must cover every token, "
                f"and no bin may be empty or longer than {self._context_length} tokens; build the data again."
            )
        if self.kind == "pairs" and pc.any(pc.equal(pc.bit_wise_and(per_bin, 1), 1)).as_py():
            raise DataError(
                f"the bins in {group.path} hold preference pairs, but a bin has an odd number of documents; build the "
                f"data again."
            )
        lowest, highest = pc.min(ids).as_py(), pc.max(ids).as_py()
        if lowest < 0 or highest >= self._vocabulary_size:
            raise DataError(
                f"the bins in {group.path} hold token ids from {lowest} to {highest}, but the model has ids 0 to "
                f"{self._vocabulary_size - 1}: build model and bins with the same tokenizer."
            )


def _row_groups(files: list[Path]) -> list[RowGroup]:
    groups: list[RowGroup] = []
    first = 0
    for path in files:
        try:
            with pq.ParquetFile(path) as file:
                schema, metadata = file.schema_arrow, file.metadata
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"{path} is not a readable Parquet file ({error}); build the data again.") from error
        missing = [name for name in COLUMNS if name not in schema.names]
        if missing:
            raise DataError(f"{path} lacks the column {', '.join(missing)}; it has {', '.join(schema.names)}.")
        for name, expected in COLUMNS.items():
            if not schema.field(name).type.equals(expected):
                raise DataError(
                    f"{path} has {name} as {schema.field(name).type} instead of {expected}; build the data again."
                )
        for index in range(metadata.num_row_groups):
            rows = metadata.row_group(index).num_rows
            groups.append(RowGroup(path=path, index=index, first=first, rows=rows))
            first += rows
    return groups
