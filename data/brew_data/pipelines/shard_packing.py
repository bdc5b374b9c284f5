"""Packs the documents of shards into bins, with Ray Data.

Two passes over the shards. The first gets the documents of a shard, packs them, and writes the bins to `work/`. Then
the number of bins of each shard is known, and so the ids of all bins. The second pass gives the bins their ids and
writes the files of the folder. The least filled bins of each shard are taken apart, and their documents are packed
together; this plan needs their lengths only.

A shard that is finished has a file in `work/` that says so. A build that was killed continues after the last of them.
"""

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa

from brew_data.packed_bins.packing import carry_over, pack
from brew_data.packed_bins.plan import PLAN_FILE, BinsPlan
from brew_data.packed_bins.schema import BINS_PER_FILE, assemble_bins, finish_plan, start_folder, write_bins
from brew_data.pipelines.shard_tasks import run_shards
from brew_data.prompts.bundle import PromptBundle
from brew_data.prompts.compiler import PromptCompiler
from brew_data.table_shards import as_batch
from brew_platform.files import atomic_file, replace_atomically
from brew_platform.provenance import source_commit

__all__ = ["WORK", "ShardSource", "pack_shards"]

WORK = "work"  # folder in the folder of bins, while they are built
REST = -1  # in place of a shard: the documents that are carried over


class ShardSource(Protocol):
    """The documents that `pack_shards` packs. It is sent to the workers."""

    def documents(self, shard: int) -> pa.Table:
        """Return the documents of a shard, with the columns of `compile_documents`; `document` is not needed."""

    def identity(self) -> dict[str, Any]:
        """Return everything that the documents depend on, as JSON."""


def pack_shards(
    source: ShardSource,
    shards: Sequence[int],
    compiler: PromptCompiler,
    out: Path,
    *,
    bins_per_file: int = BINS_PER_FILE,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> BinsPlan | None:
    """Pack the documents of shards, and write the bins.

    Args:
        source: The documents of each shard.
        shards: The numbers of the shards.
        compiler: Its prompts have compiled the documents; its context length is the capacity of a bin, in tokens.
        out: The folder for `bins-*.parquet` (one row per bin, unpadded) and `plan.json`, which is written last. A build
            of the same bins that did not finish there is continued; anything else is replaced.
        bins_per_file: The number of bins per Parquet file.
        on_progress: Called with (bins done, total bins). A bin that is packed but not written counts half, and the
            total is an estimate until all are packed.

    Returns:
        The contents of `plan.json`; None if there are no documents, and then nothing is written.
    """
    out = out.absolute()
    build = _Build(
        source=source,
        capacity=compiler.format.context_length,
        work=out / WORK,
        bins_per_file=bins_per_file,
        carries=len(shards) > 1,
    )
    _open_work(build, out)
    packed = _pack_shards(build, shards, on_progress)
    if not any(found["documents"] for found in packed.values()):
        shutil.rmtree(build.work)
        return None
    carried = list(chain.from_iterable(found["carried"] for found in packed.values()))
    rest = pack(carried, build.capacity)
    bins = {shard: found["bins"] for shard, found in packed.items()} | {REST: len(rest)}
    files = _write_shards(build, out, {shard: count for shard, count in bins.items() if count}, rest, on_progress)
    plan = finish_plan(
        files,
        n_bins=sum(bins.values()),
        n_documents=sum(found["documents"] for found in packed.values()),
        context_length=build.capacity,
        vocabulary_size=compiler.tokenizer.vocabulary_size,
        prompt_digest=PromptBundle.of(compiler).digest,
    )
    plan.write(out)
    shutil.rmtree(build.work)
    return plan


class _Build(NamedTuple):
    """The arguments of one build that its tasks share."""

    source: ShardSource
    capacity: int  # tokens of a bin
    work: Path
    bins_per_file: int
    carries: bool  # whether documents are carried over from shard to shard

    def packed(self, shard: int) -> Path:
        """The file that says that the first pass is done: {documents, bins, carried: lengths}."""
        return self.work / f"packed-{shard:05d}.json"

    def written(self, shard: int) -> Path:
        """The file that says that the second pass is done: {files: rows for `finish_plan`}."""
        return self.work / f"written-{shard:05d}.json"

    def bins(self, shard: int) -> Path:
        """The bins of a shard; each record batch becomes a file."""
        return self.work / f"bins-{shard:05d}.arrow"

    def carried(self, shard: int) -> Path:
        """The documents of a shard that are carried over."""
        return self.work / f"carried-{shard:05d}.arrow"

    def identity(self) -> dict[str, Any]:
        """Everything that the result depends on."""
        return {"commit": source_commit(), "bins_per_file": self.bins_per_file} | self.source.identity()


def _open_work(build: _Build, out: Path) -> None:
    """Keep what an equal build has finished in `out`, or start over."""
    (out / PLAN_FILE).unlink(missing_ok=True)  # first: the folder is not complete from here on
    identity = json.dumps(build.identity(), sort_keys=True)
    marker = build.work / "build.json"
    if marker.is_file() and marker.read_text() == identity:
        return
    start_folder(out)
    shutil.rmtree(build.work, ignore_errors=True)
    build.work.mkdir()
    replace_atomically(marker, identity)


def _pack_shards(
    build: _Build, shards: Sequence[int], on_progress: Callable[[int, int], None]
) -> dict[int, dict[str, Any]]:
    """Run the first pass. Return the content of the file of each shard (`_Build.packed`)."""
    left = [shard for shard in shards if not build.packed(shard).exists()]
    done = len(shards) - len(left)
    bins = sum(_read(build.packed(shard))["bins"] for shard in set(shards) - set(left))
    for row in run_shards(_pack_shard, left, build=build):
        bins, done = bins + row["bins"], done + 1
        on_progress(bins // 2, bins * len(shards) // done)
    return {shard: _read(build.packed(shard)) for shard in shards}


def _write_shards(
    build: _Build, out: Path, bins: Mapping[int, int], rest: list[list[int]], on_progress: Callable[[int, int], None]
) -> list[dict[str, Any]]:
    """Run the second pass.

    Args:
        build: The build.
        out: The folder of the bins.
        bins: The number of bins of each shard that has some, and of `REST`, in the order of their ids.
        rest: The plan of the documents that are carried over.
        on_progress: As for `pack_shards`.

    Returns:
        The rows of all files for `finish_plan`.
    """
    file_counts = [-(-count // build.bins_per_file) for count in bins.values()]
    first_bins, first_files = (np.cumsum([0, *counts]).tolist() for counts in (bins.values(), file_counts))
    first = {shard: (first_bins[place], first_files[place]) for place, shard in enumerate(bins)}
    left = [shard for shard in bins if not build.written(shard).exists()]
    total = sum(bins.values())
    written = total - sum(bins[shard] for shard in left)
    for row in run_shards(_write_shard, left, build=build, out=out, first=first, rest=rest):
        written += row["bins"]
        on_progress((total + written) // 2, total)
    return [row for shard in bins for row in _read(build.written(shard))["files"]]


def _pack_shard(shard: int, *, build: _Build) -> Iterator[pa.Table]:
    """Compile and pack the documents of one shard, and write its bins without their ids."""
    documents, capacity = build.source.documents(shard), build.capacity
    length_D = documents["length"].to_numpy()
    bins = pack(length_D, capacity)
    carried: list[int] = []
    if build.carries:
        bins, carried = carry_over(bins, length_D, capacity)
    if bins:
        parts = (bins[start : start + build.bins_per_file] for start in range(0, len(bins), build.bins_per_file))
        _write_batches(build.bins(shard), (assemble_bins(documents, part) for part in parts))
    if carried:
        _write_batches(build.carried(shard), [documents.take(pa.array(carried, pa.int64()))])
    found = {"documents": len(length_D), "bins": len(bins), "carried": length_D[carried].tolist()}
    replace_atomically(build.packed(shard), json.dumps(found))
    yield pa.table({"bins": [len(bins)]})


def _write_shard(
    shard: int,
    *,
    build: _Build,
    out: Path,
    first: Mapping[int, tuple[int, int]],
    rest: list[list[int]],
) -> Iterator[pa.Table]:
    """Write the files of one shard, or of the documents that are carried over.

    Args:
        shard: The shard, or `REST`.
        build: The build.
        out: The folder of the bins.
        first: By shard: the id of its first bin, and the number of its first file.
        rest: The plan of the carried documents, in the order of their shards.
    """
    if shard == REST:
        carried = sorted(build.work.glob("carried-*.arrow"))
        documents = pa.concat_tables(table for path in carried for table in _read_batches(path))
        starts = range(0, len(rest), build.bins_per_file)
        tables: Iterator[pa.Table] = (
            assemble_bins(documents, rest[start : start + build.bins_per_file]) for start in starts
        )
    else:
        tables = _read_batches(build.bins(shard))
    first_bin, file = first[shard]
    rows = []
    for bins in tables:
        row = write_bins(bins, out / f"bins-{file:06d}.parquet", first_bin=first_bin)
        rows.append({"file": file} | row)
        first_bin, file = first_bin + bins.num_rows, file + 1
    replace_atomically(build.written(shard), json.dumps({"files": rows}))
    build.bins(shard).unlink(missing_ok=True)  # the same bins, so that a build needs less space
    yield pa.table({"bins": [sum(row["bins"] for row in rows)]})


def _write_batches(path: Path, tables: Iterable[pa.Table]) -> None:
    """Write each table as one record batch."""
    options = pa.ipc.IpcWriteOptions(compression="lz4")
    batches = map(as_batch, tables)
    first = next(batches)
    with (
        atomic_file(path) as temporary,
        pa.OSFile(str(temporary), "wb") as sink,
        pa.ipc.new_file(sink, first.schema, options=options) as writer,
    ):
        for batch in chain([first], batches):
            writer.write_batch(batch)


def _read_batches(path: Path) -> Iterator[pa.Table]:
    with pa.OSFile(str(path)) as source, pa.ipc.open_file(source) as file:
        for index in range(file.num_record_batches):
            yield pa.Table.from_batches([file.get_batch(index)])


def _read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text())
    return content
