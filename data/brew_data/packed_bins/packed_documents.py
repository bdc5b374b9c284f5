"""Reads the documents of packed bins, to show them and to describe their lengths. Training has a reader of its own."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise, starmap
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from brew_data.packed_bins.plan import BinsPlan
from brew_data.packed_bins.schema import SEGMENTS
from brew_data.segments import Segment
from brew_platform.errors import DataError, UserError

__all__ = ["Distribution", "DocumentFigures", "PackedDocument", "document_figures", "find_document", "read_bin"]

BUCKETS = 16  # of a distribution
QUANTILES = (0.05, 0.5, 0.95)
MOST_BINS = 50_000  # that figures are computed from


@dataclass(frozen=True, kw_only=True, eq=False)
class PackedDocument:
    """A document of a bin.

    Args:
        bin_id: The bin.
        slot: Index in the bin.
        ids: int32 [tokens].
        roles: uint8 [tokens]; 1 where the loss is computed.
        segments: Of a slate: its prefix, then its candidates. (): the document is one segment.
    """

    bin_id: int
    slot: int
    ids: np.ndarray
    roles: np.ndarray
    segments: tuple[Segment, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Distribution:
    """How a number of tokens is distributed over documents.

    Args:
        mean: The mean.
        quantiles: The smallest number that is not exceeded by 5%, 50%, 95% of the documents, and the largest.
        buckets: At most `BUCKETS` ranges of equal width, each {first, last, documents}; `last` is inclusive.
    """

    mean: float
    quantiles: dict[str, int]
    buckets: list[dict[str, int]]

    @staticmethod
    def of(counts: np.ndarray) -> "Distribution":
        """Describe documents.

        Args:
            counts: int64 [largest number + 1]: how many documents have each number of tokens. The sum is not 0.
        """
        below, largest = np.cumsum(counts), int(np.flatnonzero(counts)[-1])
        width = math.ceil((largest + 1) / BUCKETS)
        return Distribution(
            mean=round(float(counts @ np.arange(len(counts)) / below[-1]), 1),
            quantiles={f"{q:.0%}": int(np.searchsorted(below, q * below[-1])) for q in QUANTILES} | {"100%": largest},
            buckets=[
                {"first": first, "last": first + width - 1, "documents": int(counts[first : first + width].sum())}
                for first in range(0, largest + 1, width)
            ],
        )


@dataclass(frozen=True, kw_only=True)
class DocumentFigures:
    """The lengths of documents, and how many of their tokens carry loss.

    Args:
        bins: The number of bins that were read: all, or an even selection of the files.
        tokens: Tokens of a document.
        loss_tokens: Tokens of a document that carry loss.
        loss_share: Of all tokens.
    """

    bins: int
    tokens: Distribution
    loss_tokens: Distribution
    loss_share: float


def read_bin(folder: Path, plan: BinsPlan, bin_id: int) -> list[PackedDocument]:
    """Read the documents of a bin.

    Args:
        folder: The folder of the bins.
        plan: Its plan.
        bin_id: From 0 on.

    Raises:
        UserError: There is no such bin.
        DataError: A file is missing or damaged.
    """
    if not 0 <= bin_id < plan.n_bins:
        raise UserError(f"{folder} has no bin {bin_id}. Give a number from 0 to {plan.n_bins - 1}.")
    first = 0
    for path, group, rows in _row_groups(folder, plan):
        if bin_id < first + rows:
            table = _read(path, group, ["input_ids", "doc_lengths", "roles", *SEGMENTS.names])
            row = {name: table[name][bin_id - first].values.to_numpy() for name in table.column_names}
            ends = np.cumsum(row["doc_lengths"])
            segments = _segments_by_document(row)
            return [
                PackedDocument(
                    bin_id=bin_id,
                    slot=slot,
                    ids=row["input_ids"][a:b],
                    roles=row["roles"][a:b],
                    segments=segments.get(slot, ()),
                )
                for slot, (a, b) in enumerate(pairwise([0, *ends.tolist()]))
            ]
        first += rows
    raise DataError(f"the files of {folder} hold {first} bins, but its plan has {plan.n_bins}. Build the data again.")


def find_document(folder: Path, plan: BinsPlan, number: int) -> PackedDocument:
    """Read a document by its number in the order of the bins.

    Args:
        folder: The folder of the bins.
        plan: Its plan.
        number: From 0 on.

    Raises:
        UserError: There is no such document.
        DataError: A file is missing or damaged.
    """
    before = bins = 0
    if 0 <= number < plan.n_documents:
        for path, group, rows in _row_groups(folder, plan):
            ends = before + np.cumsum(pc.list_value_length(_read(path, group, ["doc_lengths"])["doc_lengths"]))
            if number < ends[-1]:
                row = int(np.searchsorted(ends, number, side="right"))
                start = before if row == 0 else int(ends[row - 1])
                return read_bin(folder, plan, bins + row)[number - start]
            before, bins = int(ends[-1]), bins + rows
    raise UserError(f"{folder} has no document {number}. Give a number from 0 to {plan.n_documents - 1}.")


def document_figures(folder: Path, plan: BinsPlan, *, most_bins: int = MOST_BINS) -> DocumentFigures:
    """Describe the documents of a folder of bins.

    Args:
        folder: The folder of the bins.
        plan: Its plan; it has at least one bin.
        most_bins: If the plan has more bins, only every so many files are read, so that the time is bounded.

    Raises:
        DataError: A file is missing or damaged.
    """
    every = math.ceil(plan.n_bins / most_bins)
    tokens_N = np.zeros(plan.context_length + 1, np.int64)  # documents by their number of tokens
    loss_N = np.zeros_like(tokens_N)  # documents by their number of tokens that carry loss
    bins = 0
    for path, group, rows in _row_groups(folder, plan, every=every):
        table = _read(path, group, ["doc_lengths", "roles"])
        lengths = pc.list_flatten(table["doc_lengths"]).to_numpy()
        roles = pc.list_flatten(table["roles"]).to_numpy()
        loss = np.add.reduceat(roles, np.append(0, np.cumsum(lengths)[:-1]), dtype=np.int64)
        tokens_N += np.bincount(lengths, minlength=len(tokens_N))
        loss_N += np.bincount(loss, minlength=len(loss_N))
        bins += rows
    index = np.arange(len(tokens_N))
    return DocumentFigures(
        bins=bins,
        tokens=Distribution.of(tokens_N),
        loss_tokens=Distribution.of(loss_N),
        loss_share=round(float(loss_N @ index / (tokens_N @ index)), 6),
    )


def _segments_by_document(row: Mapping[str, np.ndarray]) -> dict[int, tuple[Segment, ...]]:
    """Return the segments of each document of a bin that has several, by its index in the bin."""
    found: dict[int, tuple[Segment, ...]] = {}
    slot = -1
    columns = [row[name].tolist() for name in SEGMENTS.names if name in row]
    for segment in starmap(Segment, zip(*columns, strict=True)):
        slot += segment.prefix == 0  # it is the first one of a document
        found[slot] = (*found.get(slot, ()), segment)
    return {slot: segments for slot, segments in found.items() if len(segments) > 1}


def _row_groups(folder: Path, plan: BinsPlan, *, every: int = 1) -> Iterator[tuple[Path, int, int]]:
    """Yield path, index and rows of each row group of every so many files."""
    for file in plan.files[::every]:
        path = folder / file.name
        try:
            metadata = pq.read_metadata(path)
        except (OSError, pa.ArrowException) as error:
            raise _damaged(path, error) from error
        for index in range(metadata.num_row_groups):
            yield path, index, metadata.row_group(index).num_rows


def _read(path: Path, group: int, columns: list[str]) -> pa.Table:
    try:
        with pq.ParquetFile(path) as file:
            return file.read_row_group(group, columns=columns).combine_chunks()
    except (OSError, KeyError, pa.ArrowException) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> DataError:
    return DataError(f"{path} cannot be read ({error}). Copy the folder again, or build the data again.")
