"""Plan of a resumable batch: the input is cut into parts, and each part becomes one file.

    _plan.json            written first and never changed: input, version, rows per part
    part-00000.parquet    the scores of part 0; complete once it exists
    _done.json            totals; exists once all parts exist

Readers of Parquet folders skip names that begin with `_` or `.`, so the folder is a valid dataset at any time.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from brew_platform.errors import DataError, UserError
from brew_platform.files import atomic_file, replace_atomically

__all__ = ["REQUESTS", "BatchPlan", "Part", "Totals", "write_part"]

PLAN, DONE = "_plan.json", "_done.json"
_TAIL_BYTES = 65_536  # of a file that tell it from others: Parquet's footer, with the statistics of its columns

REQUESTS = pa.schema(
    {
        "task": pa.string(),
        "member_id": pa.string(),
        "candidates": pa.list_(pa.string()),  # ids that the member context holds
        "instruction": pa.string(),  # optional column: what the member wants, in their own words
        "before": pa.timestamp("us", tz="UTC"),  # optional column: only earlier interactions are shown
    }
)
_NEEDED = ("task", "member_id", "candidates")


@dataclass(frozen=True, kw_only=True)
class Part:
    """Some rows of one row group of one input file."""

    number: int
    file: str
    group: int  # row group
    slice: int  # which `rows`-sized slice of the row group
    rows: int  # in it
    first: int  # its first row, counted over the whole input


@dataclass(frozen=True, kw_only=True)
class Totals:
    """What a finished batch holds."""

    rows: int  # of the input
    candidates: int
    failed: int  # candidates without a score; their column `error` says why


@dataclass(frozen=True, kw_only=True)
class BatchPlan:
    """One batch. Two plans are equal when the same rows would get the same scores.

    Args:
        model, version: in the registry.
        engine: the settings that change scores.
        rows: of a part, at most.
        files: of the input, in order: path, bytes, rows of each row group, and sha256 of the end.
    """

    model: str
    version: int
    engine: Mapping[str, Any]
    rows: int
    files: list[dict[str, Any]]

    @staticmethod
    def of(source: Path, *, model: str, version: int, engine: Mapping[str, Any], rows: int) -> "BatchPlan":
        """The plan for a Parquet file, or for all `*.parquet` in a folder, in the order of their names.

        Raises:
            DataError: there is none, or one cannot be read or lacks a column.
        """
        files = [source] if source.is_file() else sorted(source.glob("[!._]*.parquet"))
        if not files:
            raise DataError(f"{source} is no Parquet file and no folder of them (*.parquet). Check the path.")
        return BatchPlan(model=model, version=version, engine=engine, rows=rows, files=[_look(file) for file in files])

    @staticmethod
    def read(out: Path) -> "BatchPlan | None":
        """The plan of a batch that was begun in `out`; None where none was.

        Raises:
            UserError: the folder holds something else.
        """
        try:
            return BatchPlan(**json.loads((out / PLAN).read_text()))
        except FileNotFoundError:
            if out.exists() and (not out.is_dir() or any(out.glob("[!.]*.parquet"))):
                raise UserError(f"{out} holds something else than a batch; choose another folder.") from None
            return None
        except (OSError, ValueError, TypeError) as error:
            raise UserError(f"{out / PLAN} is no plan of a batch ({error}). Choose another folder.") from error

    def begin(self, out: Path) -> None:
        """Writes the plan, or checks that the one in `out` is the same; removes what a killed run left half-written.

        Raises:
            UserError: another batch was begun there.
        """
        before = BatchPlan.read(out)
        if before is None:
            out.mkdir(parents=True, exist_ok=True)
            replace_atomically(out / PLAN, json.dumps(asdict(self), indent=1))
        elif before != self:
            differs = [name for name in asdict(self) if getattr(before, name) != getattr(self, name)]
            raise UserError(
                f"{out} holds another batch: {', '.join(differs)} {'differ' if len(differs) > 1 else 'differs'} from "
                f"its plan ({out / PLAN}). Choose another folder, or give what that batch was begun with to go on."
            )
        for draft in out.glob(".part-*.tmp"):
            draft.unlink(missing_ok=True)

    def parts(self) -> Iterator[Part]:
        """All parts, in the order of the input."""
        number = first = 0
        for file in self.files:
            for group, rows in enumerate(file["groups"]):
                for index, start in enumerate(range(0, rows, self.rows)):
                    taken = min(self.rows, rows - start)
                    yield Part(number=number, file=file["path"], group=group, slice=index, rows=taken, first=first)
                    number, first = number + 1, first + taken

    def missing(self, out: Path) -> list[Part]:
        """The parts that are not there yet."""
        there = {path.name for path in out.glob("part-*.parquet")}
        return [part for part in self.parts() if _name(part.number) not in there]

    def finish(self, out: Path) -> Totals:
        """Counts what the parts hold, from their footers alone, and writes it to `_done.json`."""
        candidates = failed = 0
        for part in self.parts():
            footer = pq.read_metadata(out / _name(part.number))
            candidates += footer.num_rows
            for group in range(footer.num_row_groups):
                column = footer.row_group(group).column(footer.schema.names.index("error"))
                failed += column.num_values - column.statistics.null_count if column.statistics.has_null_count else 0
        totals = Totals(rows=sum(sum(file["groups"]) for file in self.files), candidates=candidates, failed=failed)
        replace_atomically(out / DONE, json.dumps(asdict(totals), indent=1))
        return totals

    def requests(self, part: Part) -> list[dict[str, Any]]:
        """The rows of a part; optional columns that are not there are null.

        Raises:
            DataError: the file is no longer what the plan says.
        """
        try:
            file = pq.ParquetFile(part.file)
            columns = [name for name in REQUESTS.names if name in file.schema_arrow.names]
            batches = file.iter_batches(batch_size=self.rows, row_groups=[part.group], columns=columns)
            for index, batch in enumerate(batches):
                if index == part.slice and batch.num_rows == part.rows:
                    absent = dict.fromkeys(set(REQUESTS.names) - set(columns))
                    return [absent | row for row in batch.to_pylist()]
        except (OSError, pa.ArrowInvalid) as error:
            raise DataError(f"{part.file} cannot be read any more ({error}). Restore it and run again.") from error
        raise DataError(f"{part.file} has changed since the batch was begun. Restore it, or begin a new batch.")


def write_part(out: Path, number: int, table: pa.Table) -> None:
    """Writes the scores of a part; its file is there complete, or not at all, whenever this process is killed."""
    with atomic_file(out / _name(number)) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def _name(number: int) -> str:
    return f"part-{number:05d}.parquet"


def _look(path: Path) -> dict[str, Any]:
    try:
        footer = pq.read_metadata(path)
        schema = pq.read_schema(path)
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _TAIL_BYTES))
            digest = hashlib.sha256(file.read()).hexdigest()
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(f"{path} cannot be read as Parquet ({error}). Write it again.") from error
    if lacking := [name for name in _NEEDED if name not in schema.names]:
        raise DataError(
            f"{path} lacks column {lacking[0]!r} (it has {', '.join(schema.names)}). A batch needs "
            f"{', '.join(_NEEDED)}, one row for each request."
        )
    for field in REQUESTS:
        if field.name in schema.names and not _fits(schema.field(field.name).type, field.type):
            raise DataError(
                f"{path}: column {field.name!r} is {schema.field(field.name).type}, but {field.type} is needed. "
                f"Cast it."
            )
    groups = [footer.row_group(index).num_rows for index in range(footer.num_row_groups)]
    return {"path": str(path.absolute()), "bytes": size, "groups": groups, "sha256_of_end": digest}


def _fits(given: pa.DataType, wanted: pa.DataType) -> bool:
    if pa.types.is_list(wanted):
        listed = pa.types.is_list(given) or pa.types.is_large_list(given)
        return listed and _fits(given.value_type, wanted.value_type)
    if pa.types.is_string(wanted):
        return bool(pa.types.is_string(given) or pa.types.is_large_string(given))
    return bool(pa.types.is_timestamp(given) and given.tz is not None)
