"""Writes folders of packed bins: Parquet files, and `plan.json` (`BinsPlan`), which is written last.

`brew_train.inputs.bin_reader` reads these folders.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain, groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from brew_data.packed_bins.plan import (
    FORMAT_VERSION,
    PLAN_FILE,
    SLATES_VERSION,
    BinsFile,
    BinsPlan,
    digest_file,
)
from brew_platform.files import fsync_file

__all__ = [
    "BINS_PER_FILE",
    "CUTS",
    "SEGMENTS",
    "assemble_bins",
    "finish_plan",
    "start_folder",
    "write_bins",
    "write_file",
]

BINS_PER_FILE = 256
BINS_PER_ROW_GROUP = 16  # training reads bins in random order, one row group at a time
COLUMNS = pa.schema(
    {
        "bin_id": pa.int64(),
        "input_ids": pa.list_(pa.int32()),
        "doc_lengths": pa.list_(pa.int32()),
        "roles": pa.list_(pa.uint8()),
    }
)
# Further columns of files with slates: tokens of each segment, and `Segment.prefix`.
SEGMENTS = pa.schema({"segment_lengths": pa.list_(pa.int32()), "segment_prefixes": pa.list_(pa.int32())})
CUTS = ("fields_cut", "tokens_cut", "turns_dropped")  # columns of documents, and totals of the plan


def start_folder(out: Path) -> None:
    """Create the folder of the bins, or remove the bins that are in it; the plan is removed first."""
    out.mkdir(parents=True, exist_ok=True)
    for path in (out / PLAN_FILE, *sorted(out.glob("bins-*.parquet"))):
        path.unlink(missing_ok=True)


def assemble_bins(documents: pa.Table, bins: Sequence[Sequence[int]]) -> pa.Table:
    """Join documents to bins.

    Args:
        documents: Columns length, ids and roles, and optionally those of `SEGMENTS` and `CUTS`.
        bins: The rows of the documents of each bin, in the order of the bin; each has at least one.

    Returns:
        One row per bin: input_ids, doc_lengths, roles, those of `SEGMENTS` if the documents have them, and the sums of
        `CUTS`.
    """
    placed = documents.take(pa.array(np.fromiter(chain.from_iterable(bins), np.int64))).combine_chunks()
    lengths = placed["length"].to_numpy()
    document_ends = np.cumsum([len(bin_) for bin_ in bins])  # of each bin
    token_ends = np.append(0, np.cumsum(lengths))[document_ends]
    starts = np.append(0, document_ends[:-1])
    segments = {}
    if set(SEGMENTS.names) <= set(placed.column_names):
        counts = pc.list_value_length(placed["segment_lengths"]).to_numpy()
        segment_ends = np.append(0, np.cumsum(counts))[document_ends]
        segments = {name: _lists(pc.list_flatten(placed[name]), segment_ends) for name in SEGMENTS.names}
    cuts = {
        name: np.add.reduceat(placed[name].to_numpy(), starts)
        if name in placed.column_names
        else np.zeros(len(bins), np.int64)
        for name in CUTS
    }
    return pa.table(
        {
            "input_ids": _lists(pc.list_flatten(placed["ids"]), token_ends),
            "doc_lengths": _lists(pa.array(lengths.astype(np.int32)), document_ends),
            "roles": _lists(pc.list_flatten(placed["roles"]), token_ends),
            **segments,
            **cuts,
        }
    )


def write_bins(bins: pa.Table, path: Path, *, first_bin: int) -> dict[str, Any]:
    """Write one file of bins.

    Args:
        bins: From `assemble_bins`.
        path: The file.
        first_bin: The id of the first bin.

    Returns:
        name, format_version, sha256, bytes, bins, tokens, and the sums of `CUTS`: a row for `finish_plan`, without
        `file`.
    """
    ids = pa.array(np.arange(first_bin, first_bin + bins.num_rows))
    columns, version = COLUMNS, FORMAT_VERSION
    if (
        "segment_prefixes" in bins.column_names
        and pc.any(pc.greater(pc.list_flatten(bins["segment_prefixes"]), 0)).as_py()
    ):
        columns, version = pa.unify_schemas([COLUMNS, SEGMENTS]), SLATES_VERSION
    table = bins.add_column(0, "bin_id", ids).select(columns.names).cast(columns)
    pq.write_table(table, path, compression="zstd", row_group_size=BINS_PER_ROW_GROUP)
    fsync_file(path)
    return {
        "name": path.name,
        "format_version": version,
        "sha256": digest_file(path),
        "bytes": path.stat().st_size,
        "bins": bins.num_rows,
        "tokens": int(pc.sum(pc.list_value_length(bins["input_ids"])).as_py()),
        **{name: int(pc.sum(bins[name]).as_py()) for name in CUTS},
    }


def write_file(documents: pa.Table, *, out: Path) -> pa.Table:
    """Write one file of bins from documents that are assigned to bins.

    Args:
        documents: The documents of one file's bins, with the columns file, bin_id, slot (index in the bin), length, ids
            and roles, and optionally those of `SEGMENTS` and `CUTS`. The ids of the bins are consecutive.
        out: The folder of the bins.

    Returns:
        One row {file, name, format_version, sha256, bytes, bins, tokens} and `CUTS` for `finish_plan`.
    """
    documents = documents.sort_by([("bin_id", "ascending"), ("slot", "ascending")])
    rows = enumerate(documents["bin_id"].to_pylist())
    bins = [(bin_id, [row for row, _ in group]) for bin_id, group in groupby(rows, key=lambda pair: pair[1])]
    file = documents["file"][0].as_py()
    path = out / f"bins-{file:06d}.parquet"
    row = write_bins(assemble_bins(documents, [places for _, places in bins]), path, first_bin=bins[0][0])
    return pa.table({name: [value] for name, value in ({"file": file} | row).items()})


def finish_plan(
    files: Iterable[Mapping],
    *,
    n_bins: int,
    n_documents: int,
    context_length: int,
    vocabulary_size: int,
    prompt_digest: str,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> BinsPlan:
    """Compute the plan of the files that `write_file` wrote.

    Args:
        files: The rows that `write_file` returned, in any order.
        n_bins: The number of bins in all files.
        n_documents: The number of documents in all files.
        context_length: The capacity of a bin, in tokens.
        vocabulary_size: The number of ids of the tokenizer.
        prompt_digest: The digest of the `PromptBundle` that compiled the documents.
        on_progress: Called with (bins written, total bins).

    Returns:
        The plan. It does not depend on the order of `files`.
    """
    written: dict[int, BinsFile] = {}
    tokens = done = 0
    version = FORMAT_VERSION
    cuts = dict.fromkeys(CUTS, 0)
    for row in files:
        written[row["file"]] = BinsFile(**{key: row[key] for key in ("name", "sha256", "bytes", "bins")})
        version = max(version, row["format_version"])
        tokens += row["tokens"]
        done += row["bins"]
        cuts = {name: total + row[name] for name, total in cuts.items()}
        on_progress(done, n_bins)
    return BinsPlan(
        format_version=version,
        context_length=context_length,
        vocabulary_size=vocabulary_size,
        prompt_digest=prompt_digest,
        n_bins=n_bins,
        n_documents=n_documents,
        n_tokens=tokens,
        fill=tokens / (n_bins * context_length),
        files=[written[file] for file in sorted(written)],
        fields_cut=cuts["fields_cut"],
        tokens_cut=cuts["tokens_cut"],
        turns_dropped=cuts["turns_dropped"],
    ).sealed()


def _lists(values: pa.Array | pa.ChunkedArray, ends: np.ndarray) -> pa.ListArray:
    """Return lists of consecutive values; `ends` are the ends of the lists."""
    flat = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    return pa.ListArray.from_arrays(pa.array(np.append(0, ends).astype(np.int32)), flat)
