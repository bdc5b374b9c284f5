"""Writes folders of packed bins: Parquet files, and `plan.json` (`BinsPlan`), which is written last.

`brew_train.inputs.bin_reader` reads these folders.
"""

from collections.abc import Callable, Iterable, Mapping
from itertools import groupby
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from brew_data.packed_bins.plan import PLAN_FILE, BinsFile, BinsPlan, digest_file
from brew_platform.files import fsync_file

__all__ = ["BINS_PER_FILE", "finish_plan", "start_folder", "write_file"]

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
CUTS = ("fields_cut", "tokens_cut", "turns_dropped")  # columns of documents, and totals of the plan


def start_folder(out: Path) -> None:
    """Create the folder of the bins, or remove the bins that are in it; the plan is removed first."""
    out.mkdir(parents=True, exist_ok=True)
    for path in (out / PLAN_FILE, *sorted(out.glob("bins-*.parquet"))):
        path.unlink(missing_ok=True)


def write_file(documents: pa.Table, *, out: Path) -> pa.Table:
    """Write one file of bins.

    Args:
        documents: The documents of one file's bins, with the columns file, bin_id, slot (index in the bin), length, ids
            and roles, and optionally those of `CUTS`.
        out: The folder of the bins.

    Returns:
        One row {file, name, sha256, bytes, bins, tokens} and `CUTS` for `finish_plan`.
    """
    rows = documents.sort_by([("bin_id", "ascending"), ("slot", "ascending")]).to_pylist()
    bins = []
    for bin_id, group in groupby(rows, key=lambda row: row["bin_id"]):
        packed = list(group)
        bins.append(
            {
                "bin_id": bin_id,
                "input_ids": np.concatenate([row["ids"] for row in packed]),
                "doc_lengths": [row["length"] for row in packed],
                "roles": np.concatenate([row["roles"] for row in packed]),
            }
        )
    table = pa.Table.from_pylist(bins, schema=COLUMNS)
    file = rows[0]["file"]
    path = out / f"bins-{file:06d}.parquet"
    pq.write_table(table, path, compression="zstd", row_group_size=BINS_PER_ROW_GROUP)
    fsync_file(path)
    return pa.table(
        {
            "file": [file],
            "name": [path.name],
            "sha256": [digest_file(path)],
            "bytes": [path.stat().st_size],
            "bins": [len(bins)],
            "tokens": [sum(row["length"] for row in rows)],
            **{name: [sum(row.get(name, 0) for row in rows)] for name in CUTS},
        }
    )


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
    cuts = dict.fromkeys(CUTS, 0)
    for row in files:
        written[row["file"]] = BinsFile(**{key: row[key] for key in ("name", "sha256", "bytes", "bins")})
        tokens += row["tokens"]
        done += row["bins"]
        cuts = {name: total + row[name] for name, total in cuts.items()}
        on_progress(done, n_bins)
    return BinsPlan(
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
