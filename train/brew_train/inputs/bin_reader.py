"""Random access to a folder of packed bins, with checks that they fit the model.

A row group is read when one of its bins is requested, so memory does not grow with the data. Small data sets stay in
memory completely. `plan.json` (`BinsPlan`) has the size and the SHA-256 of each file.
"""

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from brew_data.packed_bins.plan import BinsFile
from brew_data.packed_bins.schema import SEGMENTS
from brew_data.segments import are_consistent
from brew_platform.errors import DataError, UserError
from brew_train.config import InputsConfig, ModelShape
from brew_train.inputs.batches import Bin
from brew_train.inputs.bin_folder import open_folder

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


class BinReader:
    """Random access to the bins of one folder. Several threads may use it; they read one after another.

    Args:
        folder: path, or `s3://bucket/folder`, of `bins-*.parquet` and `plan.json`.
        shape: vocabulary and context length of the model.
        inputs: where copies of files on S3 are kept; None: the defaults.

    Raises:
        UserError: the folder has no bins, or the bins exceed the vocabulary or the context length of the model.
        DataError: the plan is damaged or of another release; or a file is missing, added, or of another size than in
            the plan.
        ConfigError: as `open_folder`.
    """

    def __init__(self, folder: Path | str, shape: ModelShape, inputs: InputsConfig | None = None) -> None:
        vocabulary_size, context_length = shape.vocabulary_size, shape.context_length
        self._folder = open_folder(folder, inputs or InputsConfig())
        self._plan = plan = self._folder.plan
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
        self._starts = np.cumsum([0, *(file.bins for file in plan.files)])  # id of the first bin of each file, and end
        if self._starts[-1] != self.n_bins or self.n_bins == 0:
            raise DataError(
                f"{folder}/plan.json has {self.n_bins} bins, but the files hold {self._starts[-1]}: build the data "
                f"again, from tables with interactions before the cut."
            )
        self._group_starts: dict[int, np.ndarray] = {}  # by index of the file: first bin of each row group, and end
        self._cache: OrderedDict[tuple[int, int], pa.Table] = OrderedDict()  # by index of the file and the row group
        self._lock = threading.Lock()  # guards the two above

    def __getitem__(self, bin_id: int) -> Bin:
        """Returns the bin with this id, from 0 to n_bins - 1; its arrays share the memory of a row group.

        Raises:
            DataError: the file is damaged, or its bins are inconsistent or exceed the model's vocabulary.
            StorageError: the file is on S3, and this host cannot keep a copy.
        """
        with self._lock:
            index = int(np.searchsorted(self._starts, bin_id, side="right")) - 1
            starts = self._starts_of_groups(index)
            group = int(np.searchsorted(starts, bin_id, side="right")) - 1
            table, row = self._group(index, group), bin_id - int(starts[group])
        names = [name for name in table.column_names if name != "bin_id"]
        return Bin(**{name: table[name][row].values.to_numpy() for name in names})

    def fetch(self, bin_ids: Sequence[int]) -> None:
        """Downloads the files of these bins, several at a time, if they are on S3; `__getitem__` reports errors."""
        indices = np.unique(np.searchsorted(self._starts, bin_ids, side="right")) - 1
        self._folder.fetch([self._plan.files[index] for index in indices])

    def verify(self) -> None:
        """Compares the SHA-256 of every file with the plan, before training. It runs at the speed of the disk.

        Files on S3 are compared when a host loads them.

        Raises:
            DataError: a file was replaced or damaged; the message names it.
        """
        reported = time.monotonic()

        def on_progress(done: int, total: int) -> None:
            nonlocal reported
            if time.monotonic() - reported > PROGRESS_SECONDS:
                reported = time.monotonic()
                logger.info("verified %.1f of %.1f GB of the bins in %s", done / 1e9, total / 1e9, self._folder.name)

        self._folder.verify(on_progress)

    def _starts_of_groups(self, index: int) -> np.ndarray:
        if index not in self._group_starts:
            file = self._plan.files[index]
            with self._open(file) as parquet:
                self._check_columns(parquet.schema_arrow, file)
                metadata = parquet.metadata
                rows = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
            if sum(rows) != file.bins:
                raise DataError(
                    f"{self._folder.name}/{file.name} has {sum(rows)} bins, but plan.json lists it with {file.bins}: "
                    f"build the data again."
                )
            self._group_starts[index] = self._starts[index] + np.cumsum([0, *rows])
        return self._group_starts[index]

    def _group(self, index: int, group: int) -> pa.Table:
        key = (index, group)
        if key in self._cache:
            self._cache.move_to_end(key)
        else:
            file = self._plan.files[index]
            with self._open(file) as parquet:
                table = parquet.read_row_group(group, columns=[*COLUMNS, *SEGMENTS.names]).combine_chunks()
            first, end = self._group_starts[index][group : group + 2].tolist()
            self._check(table, f"{self._folder.name}/{file.name}", first, end)
            self._cache[key] = table
            while len(self._cache) > 1 and sum(table.nbytes for table in self._cache.values()) > CACHE_BYTES:
                self._cache.popitem(last=False)
        return self._cache[key]

    @contextmanager
    def _open(self, file: BinsFile) -> Iterator[pq.ParquetFile]:
        try:
            with self._folder.open(file) as source, pq.ParquetFile(source) as parquet:
                yield parquet
        except (OSError, pa.ArrowException) as error:
            raise DataError(
                f"{self._folder.name}/{file.name} is not a readable Parquet file ({error}); build the data again."
            ) from error

    def _check_columns(self, schema: pa.Schema, file: BinsFile) -> None:
        name = f"{self._folder.name}/{file.name}"
        if missing := [column for column in COLUMNS if column not in schema.names]:
            raise DataError(f"{name} lacks the column {', '.join(missing)}; it has {', '.join(schema.names)}.")
        segments = {column.name: column.type for column in SEGMENTS if column.name in schema.names}
        for column, expected in (COLUMNS | segments).items():
            if not schema.field(column).type.equals(expected):
                raise DataError(
                    f"{name} has {column} as {schema.field(column).type} instead of {expected}; build the data again."
                )

    def _check(self, table: pa.Table, name: str, first: int, end: int) -> None:
        """Checks a row group of the file `name`, which holds the bins from `first` to before `end`."""
        if not np.array_equal(table["bin_id"].to_numpy(), np.arange(first, end)):
            raise DataError(f"the bins in {name} are not numbered from {first} in file order; build them again.")
        lengths = pc.list_value_length(table["input_ids"])
        same_roles = pc.all(pc.equal(lengths, pc.list_value_length(table["roles"]))).as_py()
        ids = pc.list_flatten(table["input_ids"])
        documents = pc.list_flatten(table["doc_lengths"]).to_numpy()
        per_bin = pc.list_value_length(table["doc_lengths"])
        ends = np.cumsum(per_bin.to_numpy())  # end of the documents of each bin
        covered = np.array_equal(np.append(0, np.cumsum(documents))[ends], np.cumsum(lengths.to_numpy()))
        shortest = min(pc.min(lengths).as_py(), documents.min(initial=1))
        if (
            not same_roles
            or not covered
            or not _has_good_segments(table, documents)
            or shortest < 1
            or pc.max(lengths).as_py() > self._context_length
        ):
            raise DataError(
                f"the bins in {name} are inconsistent: roles, document lengths and segments must cover every "
                f"token, and no bin may be empty or longer than {self._context_length} tokens; build the data again."
            )
        if self.kind == "pairs" and pc.any(pc.equal(pc.bit_wise_and(per_bin, 1), 1)).as_py():
            raise DataError(
                f"the bins in {name} hold preference pairs, but a bin has an odd number of documents; build the "
                f"data again."
            )
        lowest, highest = pc.min(ids).as_py(), pc.max(ids).as_py()
        if lowest < 0 or highest >= self._vocabulary_size:
            raise DataError(
                f"the bins in {name} hold token ids from {lowest} to {highest}, but the model has ids 0 to "
                f"{self._vocabulary_size - 1}: build model and bins with the same tokenizer."
            )


def _has_good_segments(table: pa.Table, documents: np.ndarray) -> bool:
    """Returns whether the segments of each bin, if there are any, divide its documents.

    Args:
        table: a row group.
        documents: tokens of each document of all its bins.
    """
    found = [table[name] for name in SEGMENTS.names if name in table.column_names]
    if not found:
        return True
    if len(found) < len(SEGMENTS) or not pc.list_value_length(found[0]).equals(pc.list_value_length(found[-1])):
        return False
    lengths, prefixes = (pc.list_flatten(column).to_numpy() for column in found)
    ends = np.append(0, np.cumsum(lengths))[np.cumsum(pc.list_value_length(found[0]).to_numpy())]
    return are_consistent(documents, lengths, prefixes) and np.array_equal(
        ends, np.cumsum(pc.list_value_length(table["input_ids"]).to_numpy())
    )
