"""Compiles the documents of the sources of a corpus, and weighs them, part by part.

A part is a shard of the tables, or a file. A part that is finished has a file that says so. A build that was killed
continues after the last of them.
"""

import json
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from brew_data.corpora.document_sources import SKIPPED, DocumentSource, Found
from brew_data.mixing.importance import BUCKETS, count_ngrams, log_importance
from brew_data.mixing.mix import ranks
from brew_data.pipelines.documents import document_table
from brew_data.pipelines.member_groups import CompilerSpec, load_compiler
from brew_data.pipelines.shard_tasks import run_shards
from brew_data.sources.quarantine import Quarantine
from brew_platform.errors import DataError
from brew_platform.files import atomic_file, replace_atomically

__all__ = ["CorpusBuild", "compile_parts", "count_quarantined", "open_work", "read_ranks", "require_share"]

ROWS_PER_GROUP = 1_000  # documents
_COLUMNS = pa.schema(
    {
        "length": pa.int64(),
        "ids": pa.list_(pa.int32()),
        "roles": pa.list_(pa.uint8()),
        "fields_cut": pa.int64(),
        "tokens_cut": pa.int64(),
        "turns_dropped": pa.int64(),
        "stratum": pa.string(),
        "rank": pa.float64(),
    }
)


class CorpusBuild(NamedTuple):
    """The arguments of one build that its tasks share."""

    spec: CompilerSpec
    sources: Mapping[str, DocumentSource]
    parts: list[tuple[str, int]]  # source and number; the index of an element names its files
    toward: Mapping[str, str]  # the source that the documents of a source are to resemble
    seed: int
    work: Path
    quarantine: Path | None

    def documents(self, index: int) -> Path:
        """The documents of a part."""
        return self.work / f"documents-{index:05d}.parquet"

    def ngrams(self, index: int) -> Path:
        """The n-grams of a part, if its source has or is the target of another."""
        return self.work / f"ngrams-{index:05d}.npy"

    def importance(self, index: int) -> Path:
        """The logarithms of the importance of the documents of a part, if its source has a target."""
        return self.work / f"importance-{index:05d}.npy"

    def compiled(self, index: int) -> Path:
        """The file that says that the first pass is done: the state of the quarantine."""
        return self.work / f"compiled-{index:05d}.json"

    def indexes(self, source: str) -> list[int]:
        """The parts of a source."""
        return [index for index, (name, _) in enumerate(self.parts) if name == source]


def open_work(build: CorpusBuild, identity: str) -> None:
    """Keep what an equal call has finished, or start over."""
    marker = build.work / "build.json"
    if marker.is_file() and marker.read_text() == identity:
        return
    shutil.rmtree(build.work, ignore_errors=True)
    build.work.mkdir(parents=True)
    replace_atomically(marker, identity)


def compile_parts(build: CorpusBuild) -> None:
    """Compile the parts, and compute the importance of their documents."""
    left = [index for index in range(len(build.parts)) if not build.compiled(index).exists()]
    for _ in run_shards(_compile_part, left, build=build):
        pass
    counts = {
        name: sum((np.load(build.ngrams(index)) for index in build.indexes(name)), np.zeros(BUCKETS, np.int64))
        for name in {*build.toward, *build.toward.values()}
    }
    weighed = [index for name in build.toward for index in build.indexes(name) if not build.importance(index).exists()]
    for _ in run_shards(_weigh_part, weighed, build=build, counts=counts):
        pass


def _compile_part(index: int, *, build: CorpusBuild) -> Iterator[pa.Table]:
    """Write the documents of a part."""
    name, part = build.parts[index]
    folder = None if build.quarantine is None else build.quarantine / f"{name}-{part:05d}"
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)  # of a task that was killed
    quarantine = Quarantine(folder)
    counts_ngrams = name in build.toward or name in build.toward.values()
    ngrams_B = np.zeros(BUCKETS, np.int64)
    documents = build.sources[name].documents(part, load_compiler(build.spec), build.work, quarantine)
    with atomic_file(build.documents(index)) as temporary, pq.ParquetWriter(temporary, _COLUMNS) as writer:
        for group in _groups(documents):
            table = document_table((found.id, found.document) for found in group)
            table = table.append_column("stratum", pa.array([found.stratum for found in group], pa.string()))
            rank_D = ranks(name, [found.id for found in group], seed=build.seed)
            table = table.append_column("rank", pa.array(rank_D))
            writer.write_table(table.select(_COLUMNS.names).cast(_COLUMNS))
            if counts_ngrams:
                ngrams_B += count_ngrams(*_tokens(table))
    quarantine.flush()
    if counts_ngrams:
        _save(build.ngrams(index), ngrams_B)
    replace_atomically(build.compiled(index), json.dumps(quarantine.state()))
    yield pa.table({"part": [index]})


def _groups(documents: Iterator[Found]) -> Iterator[list[Found]]:
    while group := list(islice(documents, ROWS_PER_GROUP)):
        yield group


def _weigh_part(index: int, *, build: CorpusBuild, counts: Mapping[str, np.ndarray]) -> Iterator[pa.Table]:
    """Write the importance of the documents of a part."""
    source = build.parts[index][0]
    target_B, source_B = counts[build.toward[source]], counts[source]
    with pq.ParquetFile(build.documents(index)) as file:
        found = [
            log_importance(*_tokens(pa.Table.from_batches([batch])), target_B=target_B, source_B=source_B)
            for batch in file.iter_batches(ROWS_PER_GROUP, columns=["ids", "length"])
        ]
    _save(build.importance(index), np.concatenate([np.zeros(0), *found]))
    yield pa.table({"part": [index]})


def read_ranks(build: CorpusBuild, index: int, table: pa.Table) -> np.ndarray:
    """Return the ranks of the documents of a part, float64, shape (documents,)."""
    rank_D: np.ndarray = table["rank"].to_numpy()
    if build.parts[index][0] in build.toward:
        rank_D = rank_D - np.load(build.importance(index))
    return rank_D


def count_quarantined(build: CorpusBuild, source: str) -> dict[str, int]:
    """Return the number of rows of a source that were left out, by reason."""
    total: Counter[str] = Counter()
    for index in build.indexes(source):
        for reasons in _state(build, index)["reasons"].values():
            total.update(reasons)
    return dict(total.most_common())


def require_share(build: CorpusBuild, source: str, max_share: float) -> None:
    found = count_quarantined(build, source)
    rows = sum(sum(_state(build, index)["rows"].values()) for index in build.indexes(source))
    broken = {reason: count for reason, count in found.items() if reason != SKIPPED}
    if sum(broken.values()) > max_share * rows:
        reason = next(iter(broken))
        raise DataError(
            f"{sum(broken.values()):,} of {rows:,} rows of the source {source} are not conversations, but "
            f"quarantine.max_share is {max_share:.1%}. Most frequent ({broken[reason]:,}): {reason}. Correct the files "
            f"or raise quarantine.max_share."
        )


def _state(build: CorpusBuild, index: int) -> dict[str, Any]:
    state: dict[str, Any] = json.loads(build.compiled(index).read_text())
    return state


def _tokens(table: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """Return the token ids of all documents, and the length of each."""
    return pc.list_flatten(table["ids"]).to_numpy(), table["length"].to_numpy()


def _save(path: Path, array: np.ndarray) -> None:
    with atomic_file(path) as temporary, temporary.open("wb") as file:
        np.save(file, array)
