"""Writes folders of packed bins: Parquet files, and `plan.json`, which is written last.

`brew_train.inputs.bin_reader` reads these folders.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from brew_platform.files import replace_atomically

__all__ = ["BINS_PER_FILE", "BinsPlan", "finish_plan", "write_file", "write_plan"]

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


@dataclass(frozen=True, kw_only=True)
class BinsPlan:
    """The contents of `plan.json` in a folder of bins."""

    plan_hash: str  # SHA-256 of the content of all bins, in order
    context_length: int  # tokens of a bin
    vocabulary_size: int  # ids of the tokenizer
    prompt_digest: str  # of the `PromptBundle` that compiled the documents
    n_bins: int
    n_documents: int
    n_tokens: int
    fill: float  # n_tokens / (n_bins * context_length)
    fields_cut: int = 0  # fields of records that were shortened or left out to fit their budgets
    tokens_cut: int = 0  # tokens that instructions, profiles and entities lost
    turns_dropped: int = 0  # interactions before an example that its prompt does not show


def write_file(documents: pa.Table, *, out: Path) -> pa.Table:
    """Write one file of bins.

    Args:
        documents: The documents of one file's bins, with the columns file, bin_id, slot (index in the bin), length, ids
            and roles, and optionally those of `CUTS`.
        out: The folder of the bins.

    Returns:
        One row {file, digest, bins, tokens} and `CUTS` for `finish_plan`.
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
    pq.write_table(table, out / f"bins-{file:06d}.parquet", compression="zstd", row_group_size=BINS_PER_ROW_GROUP)
    digest = hashlib.sha256()
    for column in COLUMNS.names:
        digest.update(json.dumps(table[column].to_pylist()).encode())
    return pa.table(
        {
            "file": [file],
            "digest": [digest.hexdigest()],
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
    digests: dict[int, str] = {}
    tokens = done = 0
    cuts = dict.fromkeys(CUTS, 0)
    for row in files:
        digests[row["file"]] = row["digest"]
        tokens += row["tokens"]
        done += row["bins"]
        cuts = {name: total + row[name] for name, total in cuts.items()}
        on_progress(done, n_bins)
    return BinsPlan(
        plan_hash=hashlib.sha256("".join(digests[file] for file in sorted(digests)).encode()).hexdigest(),
        context_length=context_length,
        vocabulary_size=vocabulary_size,
        prompt_digest=prompt_digest,
        n_bins=n_bins,
        n_documents=n_documents,
        n_tokens=tokens,
        fill=tokens / (n_bins * context_length),
        **cuts,
    )


def write_plan(plan: BinsPlan, out: Path) -> None:
    """Write `plan.json`, which marks the folder as complete."""
    replace_atomically(out / "plan.json", json.dumps(asdict(plan), indent=2))
