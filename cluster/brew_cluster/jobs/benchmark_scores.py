"""The scores of a benchmark: computed with Ray Data, and kept when the run is interrupted."""

import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from brew_data.data_folder import DataFolder
from brew_data.pipelines.requests import build_requests
from brew_data.prompts.bundle import PromptBundle
from brew_data.prompts.history import HistoryPolicy
from brew_data.split import Split
from brew_eval.scored_rows import ScoredRows
from brew_platform.files import atomic_file
from brew_serve.batch.config import BatchConfig
from brew_serve.batch.dataset_scoring import SCORES, score_requests
from brew_serve.engines.config import EngineConfig

__all__ = ["ScoreParts", "missing_rows", "score_rows"]


class ScoreParts:
    """The scores of an unfinished benchmark, one file per batch."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.seconds = 0.0  # of all parts

    def read(self) -> pa.Table:
        """Read the parts; counts their seconds."""
        tables, self.seconds = [SCORES.empty_table()], 0.0
        for path in sorted(self.folder.glob("part-*.parquet")):
            table = pq.read_table(path)
            self.seconds += float((table.schema.metadata or {}).get(b"seconds", b"0"))
            tables.append(table.cast(SCORES))
        return pa.concat_tables(tables)

    def append(self, scores: pa.Table, seconds: float) -> None:
        """Write a part, whole or not at all."""
        self.folder.mkdir(parents=True, exist_ok=True)
        number = len(list(self.folder.glob("part-*.parquet")))
        with atomic_file(self.folder / f"part-{number:05d}.parquet") as temporary:
            pq.write_table(scores.replace_schema_metadata({"seconds": str(seconds)}), temporary, compression="zstd")
        self.seconds += seconds

    def remove(self) -> None:
        """Delete the parts; the report has their figures."""
        shutil.rmtree(self.folder, ignore_errors=True)


def score_rows(
    data: DataFolder,
    bundle: PromptBundle,
    rows: ScoredRows,
    folder: Path,
    engine: EngineConfig,
    batch: BatchConfig | None = None,
    *,
    split: Split | None = None,
    history: Mapping[str, HistoryPolicy] = MappingProxyType({}),
    parts: ScoreParts | None = None,
    on_progress: Callable[[int], None] = lambda done: None,
) -> pa.Table:
    """Score benchmark rows with Ray Data; Ray must be initialized.

    Args:
        data: The data folder.
        bundle: Compiles the prompts.
        rows: The rows to score, without scores; a frozen history ends with the training rows.
        folder: Version folder of the model.
        engine: Settings of each engine.
        batch: Number of engines and size of a batch.
        split: The rows are after its cut; None: the split of the data.
        history: Policies that replace those of the bundle, by task.
        parts: Keeps the scores of an interrupted run; rows that it has are not scored again.
        on_progress: Called with the number of rows that have a score.

    Returns:
        Rows of the schema `SCORES`, sorted by interaction and task.
    """
    found = [parts.read()] if parts else []
    done = sum(table.num_rows for table in found)
    split = split or data.info.split
    requests = build_requests(
        data.tables_folder.absolute(),
        bundle.compiler(history),
        split,
        only=missing_rows(rows, pa.concat_tables([SCORES.empty_table(), *found])),
        frozen_at=split.train_until if rows.info.history == "frozen" else None,
    )
    start = time.monotonic()
    scores = score_requests(requests, folder, engine, config=batch)
    for scored in scores.iter_batches(batch_format="pyarrow", batch_size=None):
        if not scored.num_rows:
            continue
        if parts:
            parts.append(scored, time.monotonic() - start)
            start = time.monotonic()
        found.append(scored)
        done += scored.num_rows
        on_progress(done)
    return pa.concat_tables(found).sort_by([("interaction_id", "ascending"), ("task", "ascending")])


def missing_rows(rows: ScoredRows, scored: pa.Table) -> dict[str, np.ndarray]:
    """Return the ids of the rows that are not among the scores, by task, int64, ascending."""
    missing = {}
    for task in rows.tasks:
        ids = rows.of_tasks([task]).column("row_id")
        done = scored.filter(pc.equal(scored["task"], task))["interaction_id"].to_numpy()
        if len(left := np.setdiff1d(ids, done)):
            missing[task] = left
    return missing
