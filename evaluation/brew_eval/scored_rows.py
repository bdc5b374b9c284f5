"""Scored rows: what models and baselines write, and what metrics, slices, comparisons and reports read.

Legend of shape suffixes in this package: N rows, M members, R replicates of a bootstrap, B bins.
"""

import hashlib
import json
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from brew_data.split import hash_ids
from brew_platform.errors import ConfigError, DataError, UserError
from brew_platform.files import atomic_file

__all__ = ["SCORED_ROWS", "ScoredRows", "ScoredRowsInfo", "hash_members"]

FORMAT_VERSION = 1
_KEY = b"brew360.scored_rows"

SCORED_ROWS = pa.schema(
    [
        pa.field("row_id", pa.int64(), nullable=False),  # of the interaction; unique within a task
        pa.field("request_id", pa.string()),
        pa.field("task", pa.string(), nullable=False),
        pa.field("surface", pa.string(), nullable=False),
        pa.field("member", pa.string(), nullable=False),  # hashed
        pa.field("time", pa.int64(), nullable=False),  # of the interaction, microseconds since 1970, UTC
        pa.field("slate", pa.int64()),  # candidates of a member that were scored at one instant share a slate
        pa.field("label", pa.bool_()),  # whether the outcome is positive; null: not known, or not of the task
        pa.field("score", pa.float64()),  # P(positive); a baseline may write any number; null: no score
        pa.field("probabilities", pa.list_(pa.float64())),  # by outcome, in the task's order
        pa.field("outcome", pa.string()),
        pa.field("history", pa.int32(), nullable=False),  # past interactions of the member at that moment
        pa.field("locale", pa.string()),
        pa.field("is_trained", pa.bool_(), nullable=False),  # whether the task was trained (tier T1) or not (T2)
        pa.field("best", pa.float64()),  # the true probability, which only synthetic data has
    ]
)
_IDENTITY = ("task", "row_id", "member", "slate", "label")  # rows are the same if these are
_OPTIONAL = tuple(column.name for column in SCORED_ROWS if column.nullable and column.name != "score")


@dataclass(frozen=True, kw_only=True)
class ScoredRowsInfo:
    """Where scored rows come from; stored in the metadata of the Parquet file."""

    model: str  # as the user wrote it
    suite: str
    data_digest: str
    version: int | None = None  # number in the registry
    baseline: str | None = None  # name of the baseline; None: a model
    history: Literal["streaming", "frozen"] = "streaming"  # whether history follows the rows or stops at the cut
    train_until: int | None = None  # microseconds since 1970; no row is that early
    seed: int | None = None
    commit: str | None = None
    date: str | None = None  # UTC, ISO 8601
    calibration: str | None = None  # digest of the calibration map that was applied

    @property
    def name(self) -> str:
        """Name in tables and plots."""
        return self.baseline or self.model


@dataclass(frozen=True, kw_only=True, eq=False)
class ScoredRows:
    """A validated table of the schema `SCORED_ROWS`, sorted by task and row id.

    Raises:
        DataError: From `of` and `read`: the table breaks the schema, a task has a row twice, a task has two surfaces
            or tiers, a negative history, a slate was not scored at one instant, or a row lies inside the training
            period.
    """

    table: pa.Table
    info: ScoredRowsInfo

    @staticmethod
    def of(table: pa.Table, info: ScoredRowsInfo) -> "ScoredRows":
        """Validate a table, and sort it.

        Args:
            table: Columns of `SCORED_ROWS` in any order; those that may be null may be missing, except `score`.
            info: Its origin.
        """
        table = _conform(table).sort_by([("task", "ascending"), ("row_id", "ascending")])
        rows = ScoredRows(table=table.combine_chunks(), info=info)
        rows._require_unique()
        rows._require_consistent_tasks()
        rows._require_one_instant_per_slate()
        rows._require_after_training()
        return rows

    @staticmethod
    def read(path: Path) -> "ScoredRows":
        """Read a Parquet file that `write` wrote.

        Raises:
            DataError: There is no such file, it is not one, is of another release, or its rows are invalid.
        """
        if not path.is_file():
            found = "is not a file" if path.exists() else "does not exist"
            raise DataError(f"{path} {found}. Pass the scored rows (Parquet) that `brew360 benchmark run` wrote.")
        try:
            table = pq.read_table(path)
        except (OSError, pa.ArrowInvalid) as error:
            raise DataError(
                f"{path} cannot be read as scored rows ({error}). Pass the Parquet file of a run."
            ) from error
        try:
            document = json.loads((table.schema.metadata or {})[_KEY])
            version = document.pop("format_version")
            info = ScoredRowsInfo(**document)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(
                f"{path} has no valid metadata of scored rows ({error!r}). Write it with ScoredRows.write."
            ) from error
        if version != FORMAT_VERSION:
            raise DataError(
                f"{path} has format_version {version!r}, but this release reads {FORMAT_VERSION} only. Score again."
            )
        return ScoredRows.of(table, info)

    def write(self, path: Path) -> None:
        """Write a Parquet file with the origin in its metadata, whole or not at all."""
        document = json.dumps({"format_version": FORMAT_VERSION, **asdict(self.info)})
        with atomic_file(path) as temporary:
            pq.write_table(self.table.replace_schema_metadata({_KEY: document}), temporary, compression="zstd")

    def __len__(self) -> int:
        return self.table.num_rows

    def column(self, name: str) -> np.ndarray:
        """Return a column of numbers or booleans as a NumPy array, shape (N,).

        `label`, `score` and `best` are float64 with NaN for null.
        """
        if name in ("label", "score", "best"):
            return pc.cast(self.table[name], pa.float64()).to_numpy()
        return self.table[name].to_numpy()

    def codes(self, name: str) -> tuple[np.ndarray, list[Any]]:
        """Return a column as indices into its distinct values.

        Returns:
            int64 indices, shape (N,), -1 for null; the distinct values, in the order of their first row.
        """
        encoded = pc.dictionary_encode(self.table[name]).combine_chunks()
        encoded = encoded.chunk(0) if isinstance(encoded, pa.ChunkedArray) else encoded
        indices = pc.fill_null(pc.cast(encoded.indices, pa.int64()), -1)
        return indices.to_numpy(zero_copy_only=False), encoded.dictionary.to_pylist()

    @cached_property
    def tasks(self) -> tuple[str, ...]:
        """The tasks that have rows, sorted."""
        return tuple(sorted(pc.unique(self.table["task"]).to_pylist()))

    @cached_property
    def digest(self) -> str:
        """SHA-256 over task, row, member, slate and label of all rows; figures are comparable if it is the same."""
        digest = hashlib.sha256()
        for name in _IDENTITY:
            indices, values = self.codes(name)
            digest.update(json.dumps([name, values]).encode() + indices.astype("<i8").tobytes())
        return digest.hexdigest()

    def select(self, mask_N: np.ndarray) -> "ScoredRows":
        """Return the rows where the mask is True; their order is kept."""
        return ScoredRows(table=self.table.filter(pa.array(mask_N)).combine_chunks(), info=self.info)

    def of_tasks(self, tasks: Collection[str]) -> "ScoredRows":
        """Return the rows of some tasks.

        Raises:
            UserError: A task has no rows.
        """
        if unknown := sorted(set(tasks) - set(self.tasks)):
            raise UserError(
                f"{self.info.name} has no scored rows of the task {unknown[0]!r}; it has {', '.join(self.tasks)}. "
                f"Correct the name, or score the task."
            )
        return ScoredRows(
            table=self.table.filter(
                pc.is_in(self.table["task"], pa.array(sorted(tasks), pa.string()))
            ).combine_chunks(),
            info=self.info,
        )

    def with_scores(self, score_N: np.ndarray, **changes: Any) -> "ScoredRows":
        """Return the same rows with other scores, without probabilities, and with changes of the origin.

        Args:
            score_N: float64, shape (N,); NaN where there is no score.
            changes: Fields of `ScoredRowsInfo`.
        """
        table = self.table.set_column(
            SCORED_ROWS.get_field_index("score"), "score", pa.array(score_N, pa.float64(), from_pandas=True)
        )
        empty = pa.nulls(table.num_rows, pa.list_(pa.float64()))
        table = table.set_column(SCORED_ROWS.get_field_index("probabilities"), "probabilities", empty)
        return self.replaced(table.cast(SCORED_ROWS), **changes)

    def replaced(self, table: pa.Table, **changes: Any) -> "ScoredRows":
        """Return another table of the same rows, in the same order, with changes of the origin."""
        return ScoredRows(table=table, info=replace(self.info, **changes))

    def aligned_to(self, rows: "ScoredRows", *, tasks: Collection[str] | None = None) -> "ScoredRows":
        """Return these rows in the order of `rows`, which must be the same rows.

        Args:
            rows: The rows to follow.
            tasks: Compare these tasks only; None: all.

        Raises:
            UserError: A row, a member, a slate or a label differs.
        """
        if tasks is not None:
            return self.of_tasks(tasks).aligned_to(rows.of_tasks(tasks))
        if self.digest != rows.digest:
            raise UserError(
                f"{self.info.name} ({len(self):,} rows) and {rows.info.name} ({len(rows):,} rows) were not scored on "
                f"the same rows: {self._first_difference(rows)}. Score both on the same data, sample and seed."
            )
        return self

    def _first_difference(self, rows: "ScoredRows") -> str:
        if missing := sorted(set(rows.tasks) ^ set(self.tasks)):
            return f"only one has the task {missing[0]!r}"
        if len(self) != len(rows):
            return "their numbers differ"
        return f"they differ in {next(name for name in _IDENTITY if not self.table[name].equals(rows.table[name]))}"

    def _require_unique(self) -> None:
        task, row = self.table["task"], self.table["row_id"].to_numpy()
        if len(self) < 2:
            return
        same = pc.equal(task.slice(1), task.slice(0, len(self) - 1)).to_numpy() & (row[1:] == row[:-1])
        if same.any():
            at = int(np.flatnonzero(same)[0])
            raise DataError(
                f"{self.info.name} has {int(same.sum())} rows twice, the first is row {row[at]} of the task "
                f"{task[at].as_py()!r}. Score each row once."
            )

    def _require_consistent_tasks(self) -> None:
        pairs = self.table.select(["task", "surface", "is_trained"]).group_by(["task", "surface", "is_trained"])
        names = pairs.aggregate([])["task"].to_pylist()
        if repeated := sorted(name for name in set(names) if names.count(name) > 1):
            raise DataError(
                f"the task {repeated[0]!r} has rows of several surfaces, or is both trained and not trained. Give each "
                f"task one surface and one tier."
            )

    def _require_one_instant_per_slate(self) -> None:
        """A streaming history differs within a slate; per-member AUC would then measure the history."""
        if len(self) and pc.min(self.table["history"]).as_py() < 0:
            raise DataError(f"{self.info.name} has a negative history. Count past interactions from 0.")
        slates = self.table.filter(pc.is_valid(self.table["slate"]))
        spread = slates.group_by(["task", "member", "slate"]).aggregate([("history", "min"), ("history", "max")])
        mixed = spread.filter(pc.not_equal(spread["history_min"], spread["history_max"]))
        if mixed.num_rows:
            first = mixed.slice(0, 1).to_pylist()[0]
            raise DataError(
                f"{mixed.num_rows} slates were not scored at one instant: candidates of the slate {first['slate']} of "
                f"the task {first['task']!r} have {first['history_min']} to {first['history_max']} past interactions. "
                f"Freeze the history of a slate, or leave `slate` null."
            )

    def _require_after_training(self) -> None:
        if self.info.train_until is None or not len(self):
            return
        early = int((self.column("time") <= self.info.train_until).sum())
        if early:
            raise DataError(
                f"{early} of {len(self):,} rows of {self.info.name} lie inside the training period, which ends at "
                f"{self.info.train_until} microseconds since 1970, so their figures would be of rows that the model "
                f"has seen. Score rows after the cut only."
            )

    def __post_init__(self) -> None:
        info = self.info
        if not (info.model and info.suite and info.data_digest):
            raise ConfigError(
                "scored rows need the model, the suite and the digest of the data that they come from. Set all three."
            )
        if info.history not in ("streaming", "frozen"):
            raise ConfigError(f"history is {info.history!r}, but must be streaming or frozen.")


def hash_members(ids: Iterable[str]) -> list[str]:
    """Return the members as scored rows name them: the first 64 bits of the SHA-256 of each id, in hexadecimal."""
    return [f"{number:016x}" for number in hash_ids(ids).tolist()]


def _conform(table: pa.Table) -> pa.Table:
    """Return the table with the schema's columns, order and types."""
    columns: list[Any] = []
    for column in SCORED_ROWS:
        if column.name in table.column_names:
            columns.append(_cast(table[column.name], column))
        elif column.name in _OPTIONAL:
            columns.append(pa.nulls(table.num_rows, column.type))
        else:
            raise DataError(
                f"scored rows have no column {column.name!r}. Write the columns {', '.join(SCORED_ROWS.names)}."
            )
    if extra := sorted(set(table.column_names) - set(SCORED_ROWS.names)):
        raise DataError(f"scored rows have the unknown column {extra[0]!r}; known are {', '.join(SCORED_ROWS.names)}.")
    return pa.table(columns, schema=SCORED_ROWS)


def _cast(column: pa.ChunkedArray, target: pa.Field) -> pa.ChunkedArray:
    if column.null_count and not target.nullable:
        raise DataError(f"the column {target.name!r} of scored rows has {column.null_count} nulls. Fill in all values.")
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.timestamp("us", column.type.tz))
    try:
        return column.cast(target.type)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise DataError(
            f"the column {target.name!r} of scored rows is {column.type}, but must be {target.type}: {error}."
        ) from error
