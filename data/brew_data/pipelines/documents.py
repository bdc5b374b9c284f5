"""The Ray Data pipeline from tables to the packed bins that training reads.

Two passes over the shards of the tables. The first compiles the documents of a shard, packs them, and writes the bins
to `work/`. Then the number of bins of each shard is known, and so the ids of all bins. The second pass gives the bins
their ids and writes the files of the folder. The least filled bins of each shard are taken apart, and their documents
are packed together; this plan needs their lengths only.

A shard that is finished has a file in `work/` that says so. A build that was killed continues after the last of them.
"""

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa

from brew_data.packed_bins.packing import carry_over, pack
from brew_data.packed_bins.plan import PLAN_FILE, BinsPlan
from brew_data.packed_bins.schema import BINS_PER_FILE, CUTS, assemble_bins, finish_plan, start_folder, write_bins
from brew_data.pipelines.member_groups import CompilerSpec, compiler_spec, load_compiler, read_members
from brew_data.pipelines.shard_tasks import run_shards
from brew_data.prompts.bundle import PromptBundle
from brew_data.prompts.compiler import Document, PromptCompiler
from brew_data.prompts.variation import VariationConfig
from brew_data.records import MemberHistory
from brew_data.segments import Segment
from brew_data.split import EVERYONE, Split, member_hash
from brew_data.table_shards import TableShards, as_batch
from brew_platform.errors import UserError
from brew_platform.files import atomic_file, replace_atomically
from brew_platform.provenance import source_commit

__all__ = ["WORK", "ShardSource", "build_bins", "compile_documents", "document_table", "pack_shards"]

WORK = "work"  # folder in the folder of bins, while they are built
REST = -1  # in place of a shard: the documents that are carried over


class ShardSource(Protocol):
    """The documents that `pack_shards` packs. It is sent to the workers."""

    def documents(self, shard: int) -> pa.Table:
        """Return the documents of a shard, with the columns of `compile_documents`; `document` is not needed."""

    def identity(self) -> dict[str, Any]:
        """Return everything that the documents depend on, as JSON."""


def build_bins(
    tables_folder: Path,
    compiler: PromptCompiler,
    split: Split,
    out: Path,
    *,
    members: tuple[float, float] = EVERYONE,
    variation: VariationConfig | None = None,
    after: int | None = None,
    slates: bool = False,
    bins_per_file: int = BINS_PER_FILE,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> BinsPlan:
    """Compile every member's training rows into documents, pack them, and write the bins.

    With Ray, shards are processed by the cluster; its nodes must see both folders. Without Ray, in this process. The
    result is the same, byte for byte.

    Args:
        tables_folder: The folder of the tables.
        compiler: Compiles the documents; its context length is the capacity of a bin, in tokens.
        split: Only rows at or before its cut are read.
        out: The folder for `bins-*.parquet` (one row per bin, unpadded) and `plan.json`, which is written last. A build
            of the same bins that did not finish there is continued; anything else is replaced.
        members: The part of the members whose rows are read (`is_in_part`).
        variation: How documents vary; None: not at all.
        after: Only interactions later than this time, in microseconds since 1970, are trained; None: all.
        slates: Whether examples of a task whose prompts begin alike share a document (`MemberPrompts.slate`).
        bins_per_file: The number of bins per Parquet file.
        on_progress: Called with (bins done, total bins). A bin that is packed but not written counts half, and the
            total is an estimate until all are packed.

    Returns:
        The contents of `plan.json`.

    Raises:
        UserError: The training part is empty, or a row has an unknown action.
        DataError: The tables are missing or damaged.
    """
    tables_folder = tables_folder.absolute()
    source = _MemberDocuments(
        tables_folder=tables_folder,
        spec=compiler_spec(compiler),
        until=split.train_until,
        members=members,
        variation=variation,
        after=after,
        slates=slates,
    )
    plan = pack_shards(
        source,
        list(TableShards.open(tables_folder).of_part(members)),
        compiler,
        out,
        bins_per_file=bins_per_file,
        on_progress=on_progress,
    )
    if plan is None:
        raise UserError(
            f"{tables_folder} has no interaction on a trained surface before the cut, so there is nothing to train on. "
            f"Move the cut, or set in_training for a task."
        )
    return plan


def pack_shards(
    source: ShardSource,
    shards: Sequence[int],
    compiler: PromptCompiler,
    out: Path,
    *,
    bins_per_file: int = BINS_PER_FILE,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> BinsPlan | None:
    """Pack the documents of shards, and write the bins, as `build_bins` does.

    Args:
        source: The documents of each shard.
        shards: The numbers of the shards.
        compiler: Its prompts have compiled the documents; its context length is the capacity of a bin, in tokens.
        out: As for `build_bins`.
        bins_per_file: As for `build_bins`.
        on_progress: As for `build_bins`.

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


def compile_documents(
    members: Iterable[MemberHistory],
    compiler: PromptCompiler,
    *,
    variation: VariationConfig | None = None,
    after: int | None = None,
    slates: bool = False,
) -> pa.Table:
    """Compile the training rows of members into documents.

    Args:
        members: The members, with the interactions that are trained.
        compiler: Compiles the documents.
        variation: As for `build_bins`.
        after: As for `build_bins`.
        slates: As for `build_bins`.

    Returns:
        document string (unique, sorts by member and time), length int64, ids list<int32>, roles list<uint8>, the
        segments: segment_lengths, segment_prefixes list<int32>, and what was cut: fields_cut, tokens_cut, turns_dropped
        int64.
    """

    def named() -> Iterator[tuple[str, Document]]:
        for member in members:
            compiled = compiler.documents(
                member.profile,
                member.history,
                turn_of=member_hash(member.member_id),
                variation=None if variation is None else partial(variation.draw, member.member_id),
                after=after,
                slates=slates,
            )
            for i, document in enumerate(compiled):
                yield f"{member.member_id}/{i:06d}", document

    return document_table(named())


def document_table(named: Iterable[tuple[str, Document]]) -> pa.Table:
    """Return documents as a table.

    Args:
        named: Ids and documents.

    Returns:
        As for `compile_documents`.
    """
    names: list[str] = []
    documents: list[_Encoded] = []
    for name, document in named:
        names.append(name)
        documents.append(_encode(document))
    columns = list(zip(*documents, strict=True)) or [()] * len(_Encoded._fields)
    ids, roles, segment_lengths, segment_prefixes, *cuts = columns
    return pa.table(
        {
            "document": pa.array(names, pa.string()),
            "length": np.array([len(document) for document in ids], np.int64),
            "ids": _lists(ids, np.dtype(np.int32)),
            "roles": _lists(roles, np.dtype(np.uint8)),
            "segment_lengths": _lists(segment_lengths, np.dtype(np.int32)),
            "segment_prefixes": _lists(segment_prefixes, np.dtype(np.int32)),
            **{name: pa.array(cut, pa.int64()) for name, cut in zip(CUTS, cuts, strict=True)},
        }
    )


class _Encoded(NamedTuple):
    ids: np.ndarray
    roles: np.ndarray
    segment_lengths: np.ndarray
    segment_prefixes: np.ndarray
    fields_cut: int
    tokens_cut: int
    turns_dropped: int


class _MemberDocuments(NamedTuple):
    """The training documents of the members of each shard of a folder of tables."""

    tables_folder: Path
    spec: CompilerSpec
    until: int
    members: tuple[float, float]
    variation: VariationConfig | None
    after: int | None
    slates: bool

    def documents(self, shard: int) -> pa.Table:
        compiler = load_compiler(self.spec)
        members = read_members(
            self.tables_folder,
            shard,
            until=self.until,
            members=self.members,
            surfaces=compiler.suite.trained_surfaces,
            after=self.after,
        )
        return compile_documents(members, compiler, variation=self.variation, after=self.after, slates=self.slates)

    def identity(self) -> dict[str, Any]:
        shards = TableShards.open(self.tables_folder)
        return {
            "tables": shards.fingerprint(shards.of_part(self.members)),
            "prompts": self.spec.digest,
            "history": repr(sorted(self.spec.history.items())),
            "until": self.until,
            "members": list(self.members),
            "variation": None if self.variation is None else asdict(self.variation),
            "after": self.after,
            "slates": self.slates,
        }


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
        on_progress: As for `build_bins`.

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


def _encode(document: Document) -> _Encoded:
    segments = document.segments or (Segment(tokens=len(document.ids), prefix=0),)
    return _Encoded(
        np.array(document.ids, np.int32),
        np.array(document.roles, np.uint8),
        np.array([segment.tokens for segment in segments], np.int32),
        np.array([segment.prefix for segment in segments], np.int32),
        document.cut.fields,
        document.cut.tokens,
        document.turns_dropped,
    )


def _lists(arrays: Sequence[np.ndarray], dtype: np.dtype) -> pa.ListArray:
    values = np.concatenate([np.empty(0, dtype), *arrays])
    ends = np.cumsum([0, *map(len, arrays)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(ends), pa.array(values))


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
