"""Extends a folder of bins by those of further documents. Files that exist are linked, and so are not written again."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from brew_data.packed_bins.plan import BinsFile, BinsPlan, digest_file
from brew_data.packed_bins.schema import BINS_PER_ROW_GROUP, CUTS
from brew_platform.errors import DataError, UserError
from brew_platform.files import fsync_file

__all__ = ["extend_bins", "link_file"]


def extend_bins(folder: Path, added: Path | None, out: Path) -> BinsPlan:
    """Write a folder of bins that has the bins of a folder, unchanged and first, and then those of another one.

    Args:
        folder: The bins that exist. Their files are linked, or copied to another file system.
        added: The further bins, whose ids continue those of `folder`; None: none.
        out: The folder to create.

    Returns:
        The plan of `out`.

    Raises:
        UserError: The bins have another kind, context length or prompts.
        DataError: A file is missing or damaged.
    """
    plan = BinsPlan.load(folder)
    plan.check_files(folder)
    out.mkdir(parents=True)
    for file in plan.files:
        link_file(folder / file.name, out / file.name)
    if added is not None:
        plan = _with_added(plan, added, out)
    plan.write(out)
    return plan


def link_file(source: Path, target: Path) -> None:
    """Create a second name of a file that never changes, or a copy if the file system cannot do so."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
        fsync_file(target)


def _with_added(plan: BinsPlan, added: Path, out: Path) -> BinsPlan:
    """Write the files of further bins, with ids that continue those of the plan, and return the plan of all."""
    further = BinsPlan.load(added)
    for name in ("kind", "context_length", "vocabulary_size", "prompt_digest"):
        if getattr(plan, name) != getattr(further, name):
            raise UserError(
                f"the bins in {added} have the {name} {getattr(further, name)!r}, but those that they are added to "
                f"have {getattr(plan, name)!r}. Compile them with the same prompts."
            )
    further.verify_files(added)
    files, first = list(plan.files), plan.n_bins
    for number, file in enumerate(further.files, start=len(files)):
        files.append(_renumbered(added / file.name, out / f"bins-{number:06d}.parquet", first))
        first += file.bins
    tokens = plan.n_tokens + further.n_tokens
    return replace(
        plan,
        format_version=max(plan.format_version, further.format_version),
        n_bins=first,
        n_documents=plan.n_documents + further.n_documents,
        n_tokens=tokens,
        fill=tokens / (first * plan.context_length),
        **{name: getattr(plan, name) + getattr(further, name) for name in CUTS},
        files=files,
    ).sealed()


def _renumbered(source: Path, target: Path, first: int) -> BinsFile:
    """Write the bins of a file with ids from `first` on."""
    try:
        bins = pq.read_table(source)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{source} cannot be read ({error}). Build the data again.") from error
    ids = pa.array(np.arange(first, first + bins.num_rows))
    bins = bins.set_column(bins.column_names.index("bin_id"), bins.schema.field("bin_id"), ids)
    pq.write_table(bins, target, compression="zstd", row_group_size=BINS_PER_ROW_GROUP)
    fsync_file(target)
    return BinsFile(name=target.name, sha256=digest_file(target), bytes=target.stat().st_size, bins=bins.num_rows)
