"""Plan of a resumable batch: the input is split into parts, and each part becomes one file.

    _plan.json            input, version, rows per part; written first and never changed
    _attempts/            attempts at parts that are not finished (`quarantine`)
    part-00000.parquet    the scores of part 0; complete if it exists
    _done.json            totals; exists if all parts exist

Readers of Parquet folders skip names that begin with `_` or `.`, so the folder is a valid dataset at any time.
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from brew_platform.errors import DataError, UserError
from brew_platform.files import atomic_file, replace_atomically
from brew_serve.batch.quarantine import ABANDONED

__all__ = ["REQUESTS", "BatchPlan", "Part", "Totals", "write_part"]

PLAN, DONE, ATTEMPTS = "_plan.json", "_done.json", "_attempts"
_LATEST = 2**63 - 1  # microseconds; later times of coarser units are cut to it
_TAIL_BYTES = 65_536  # hashed to identify a file: they include Parquet's footer with the statistics of the columns

REQUESTS = pa.schema(
    {
        "task": pa.string(),
        "member_id": pa.string(),
        "candidates": pa.list_(pa.string()),  # ids of entities in the member context
        "instruction": pa.string(),  # optional column: the member's instruction, in their own words
        "before": pa.timestamp("us", tz="UTC"),  # optional column: only earlier interactions are shown
    }
)
_REQUIRED = ("task", "member_id", "candidates")
_MICROS = {"s": (1_000_000, 1), "ms": (1_000, 1), "us": (1, 1), "ns": (1, 1_000)}  # of a unit: factor and divisor


@dataclass(frozen=True, kw_only=True)
class Part:
    """A slice of one row group of one input file.

    Args:
        number: Number of the part.
        file: Path of the input file.
        group: Index of the row group.
        slice: Index of the slice in the row group; slices have `BatchPlan.rows` rows.
        rows: Number of rows of this slice.
        first: Index of its first row in the whole input.
    """

    number: int
    file: str
    group: int
    slice: int
    rows: int
    first: int


@dataclass(frozen=True, kw_only=True)
class Totals:
    """Totals of a finished batch."""

    rows: int  # input rows
    candidates: int
    failed: int  # candidates without a score; their column `error` says why
    abandoned: int  # of these, candidates of requests that ended the engine


@dataclass(frozen=True, kw_only=True)
class BatchPlan:
    """The plan of one batch. Two plans are equal if the same rows get the same scores.

    Args:
        model: Name of the model in the registry.
        version: Its version.
        engine: The engine settings that change scores.
        context: Location of the member context.
        rows: Maximum number of rows of a part.
        files: The input files in order: path, bytes, rows of each row group, and SHA-256 of the end.
    """

    model: str
    version: int
    engine: Mapping[str, Any]
    context: str
    rows: int
    files: list[dict[str, Any]]

    @staticmethod
    def of(
        source: Path, *, model: str, version: int, engine: Mapping[str, Any], context: str, rows: int
    ) -> "BatchPlan":
        """Make the plan for a Parquet file, or for all `*.parquet` in a folder, sorted by name.

        Args:
            source: The file or the folder.
            model: Name of the model in the registry.
            version: Its version.
            engine: The engine settings that change scores.
            context: Location of the member context.
            rows: Maximum number of rows of a part.

        Raises:
            DataError: The source contains no files, or a file cannot be read or lacks a column.
        """
        files = [source] if source.is_file() else sorted(source.glob("[!._]*.parquet"))
        if not files:
            raise DataError(f"{source} is neither a Parquet file nor a folder with *.parquet files. Check the path.")
        described = [_describe(file) for file in files]
        return BatchPlan(model=model, version=version, engine=engine, context=context, rows=rows, files=described)

    @staticmethod
    def read(out: Path) -> "BatchPlan | None":
        """Read the plan of the batch in the folder `out`; None if it contains no batch.

        Raises:
            UserError: The folder contains something else.
        """
        try:
            return BatchPlan(**json.loads((out / PLAN).read_text()))
        except FileNotFoundError:
            if out.exists() and (not out.is_dir() or any(out.glob("[!.]*.parquet"))):
                raise UserError(f"{out} exists, but does not contain a batch. Choose another folder.") from None
            return None
        except (OSError, ValueError, TypeError) as error:
            raise UserError(f"{out / PLAN} is not a plan of a batch ({error}). Choose another folder.") from error

    def begin(self, out: Path) -> None:
        """Write the plan to the folder `out`, or check that its plan is equal. Removes temporary files of killed runs.

        Raises:
            UserError: The folder contains another batch, or another process scores this one now.
        """
        before = BatchPlan.read(out)
        if before is None:
            out.mkdir(parents=True, exist_ok=True)
            replace_atomically(out / PLAN, json.dumps(asdict(self), indent=1))
        elif before != self:
            differs = [name for name in asdict(self) if getattr(before, name) != getattr(self, name)]
            raise UserError(
                f"{out} contains another batch: {', '.join(differs)} {'differ' if len(differs) > 1 else 'differs'} "
                f"from its plan ({out / PLAN}). Choose another folder, or resume that batch with its own settings."
            )
        with self.locked(out):
            for draft in [*out.glob(".part-*.tmp"), *out.glob(f"{ATTEMPTS}/.*.tmp")]:
                draft.unlink(missing_ok=True)

    @contextmanager
    def locked(self, out: Path) -> Iterator[None]:
        """Hold the batch in the folder `out` for this process, which must have called `begin`.

        Raises:
            UserError: Another process holds it.
        """
        with (out / PLAN).open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(
                    f"another process is scoring the batch in {out}. Wait until it ends, or stop it, and run again."
                ) from None
            except OSError:  # the file system has no locks
                pass
            yield

    def parts(self) -> Iterator[Part]:
        """Yield all parts, in the order of the input."""
        number = first = 0
        for file in self.files:
            for group, rows in enumerate(file["groups"]):
                for index, start in enumerate(range(0, rows, self.rows)):
                    taken = min(self.rows, rows - start)
                    yield Part(number=number, file=file["path"], group=group, slice=index, rows=taken, first=first)
                    number, first = number + 1, first + taken

    def missing(self, out: Path) -> list[Part]:
        """Return the parts without a file in the folder `out`."""
        existing = {path.name for path in out.glob("part-*.parquet")}
        return [part for part in self.parts() if _name(part.number) not in existing]

    def finish(self, out: Path) -> Totals:
        """Compute the totals from the parts in the folder `out`, and write them to `_done.json`.

        Raises:
            DataError: A part is missing or cannot be read.
        """
        candidates = failed = abandoned = 0
        for part in self.parts():
            path = out / _name(part.number)
            try:
                errors = pq.read_table(path, columns=["error"])["error"]
            except (OSError, pa.ArrowInvalid) as error:
                raise DataError(f"{path} cannot be read ({error}). Delete it, and run again to score it.") from error
            candidates += len(errors)
            failed += len(errors) - errors.null_count
            abandoned += pc.sum(pc.starts_with(errors, ABANDONED), min_count=0).as_py()
        rows = sum(sum(file["groups"]) for file in self.files)
        totals = Totals(rows=rows, candidates=candidates, failed=failed, abandoned=abandoned)
        replace_atomically(out / DONE, json.dumps(asdict(totals), indent=1))
        return totals

    def requests(self, parts: Sequence[Part]) -> Iterator[tuple[Part, pa.Table]]:
        """Read the rows of some parts of one row group, which is decoded once.

        Args:
            parts: The parts; their file and row group are the same.

        Yields:
            Each part, with a table of its rows: the columns of `REQUESTS`, null if missing, but `before` as int64 in
            microseconds since 1970, UTC.

        Raises:
            DataError: The file cannot be read, or has changed since the plan was made.
        """
        path, group = parts[0].file, parts[0].group
        left = {part.slice: part for part in parts}
        try:
            file = pq.ParquetFile(path)
            columns = [name for name in REQUESTS.names if name in file.schema_arrow.names]
            batches = file.iter_batches(batch_size=self.rows, row_groups=[group], columns=columns)
            for index, batch in enumerate(batches):
                part = left.get(index)
                if part is not None and batch.num_rows == part.rows:
                    yield left.pop(index), _requests(batch)
                if not left:
                    return
        except (OSError, IndexError, pa.ArrowInvalid) as error:
            raise DataError(f"{path} cannot be read ({error}). Restore it and run again.") from error
        raise DataError(f"{path} has changed since the batch was started. Restore it, or start a new batch.")


def write_part(out: Path, number: int, table: pa.Table) -> None:
    """Write the scores of a part atomically: after a kill its file is complete or does not exist.

    Args:
        out: Output folder of the plan.
        number: Number of the part.
        table: Scores of its candidates.
    """
    with atomic_file(out / _name(number)) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def _name(number: int) -> str:
    return f"part-{number:05d}.parquet"


def _requests(batch: pa.RecordBatch) -> pa.Table:
    """Return the rows as `BatchPlan.requests` yields them. Times need not fit Python's datetime."""
    columns = {}
    for field in REQUESTS:
        if field.name not in batch.schema.names:
            columns[field.name] = pa.nulls(batch.num_rows, pa.int64() if field.name == "before" else field.type)
            continue
        column = batch.column(field.name)
        if field.name == "before":
            factor, divisor = _MICROS[column.type.unit]
            times = [None if time is None else time * factor // divisor for time in column.cast(pa.int64()).to_pylist()]
            columns["before"] = pa.array([time and max(-_LATEST, min(time, _LATEST)) for time in times], pa.int64())
        else:
            columns[field.name] = column.cast(field.type)
    table = pa.table(columns)
    table.validate(full=True)  # Parquet does not guarantee that text is UTF-8
    return table


def _describe(path: Path) -> dict[str, Any]:
    """Check the columns of an input file, and return its entry of `BatchPlan.files`."""
    try:
        footer = pq.read_metadata(path)
        schema = pq.read_schema(path)
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _TAIL_BYTES))
            digest = hashlib.sha256(file.read()).hexdigest()
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(f"{path} cannot be read as Parquet ({error}). Write it again.") from error
    if missing := [name for name in _REQUIRED if name not in schema.names]:
        raise DataError(
            f"{path} lacks column {missing[0]!r} (it has {', '.join(schema.names)}). A batch needs "
            f"{', '.join(_REQUIRED)}, one row for each request."
        )
    for field in REQUESTS:
        if schema.names.count(field.name) > 1:
            raise DataError(f"{path} has two columns {field.name!r}. Write each column once.")
        if field.name in schema.names and not _fits(schema.field(field.name).type, field.type):
            raise DataError(
                f"{path}: column {field.name!r} is {schema.field(field.name).type}, but must be {field.type}. Cast it."
            )
    groups = [footer.row_group(index).num_rows for index in range(footer.num_row_groups)]
    return {"path": str(path.absolute()), "bytes": size, "groups": groups, "sha256_of_end": digest}


def _fits(actual: pa.DataType, expected: pa.DataType) -> bool:
    if pa.types.is_list(expected):
        is_list = pa.types.is_list(actual) or pa.types.is_large_list(actual)
        return is_list and _fits(actual.value_type, expected.value_type)
    if pa.types.is_string(expected):
        return bool(pa.types.is_string(actual) or pa.types.is_large_string(actual))
    return bool(pa.types.is_timestamp(actual) and actual.tz is not None)
