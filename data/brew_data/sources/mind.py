"""Reads MIND, the Microsoft News Dataset: `news.tsv` and `behaviors.tsv`.

An impression is one row of `behaviors.tsv`: an id, a user, a time, the news that the user clicked before, and the shown
news with 1 for a click and 0 for none, as in `N1-1 N2-0`. Each shown news becomes an interaction on the surface `news`
with the action `click` or `skip`. Clicks of the history have no time of their own. They are placed one second apart
before the earliest impression of all files, the newest last; `history` can leave them out.

Source: Wu et al., "MIND: A Large-scale Dataset for News Recommendation", ACL 2020; msnews.github.io.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from brew_data.problems import Problem
from brew_data.schema import Tables
from brew_data.sources.base import read_every_row
from brew_data.sources.formats.base import Batch, InputFile
from brew_data.sources.formats.delimited import DelimitedFile, TextFormat
from brew_data.sources.locations import Location, find_files
from brew_data.sources.quarantine import Quarantine
from brew_data.sources.tables.mapping import FILE, ROW
from brew_data.sources.tables.source import assemble_tables
from brew_data.sources.time_values import times
from brew_data.sources.values import identifiers, texts
from brew_platform.errors import DataError
from brew_platform.settings import OneOf, Settings

__all__ = ["Mind", "MindConfig"]

FOLDER = "a folder with news.tsv and behaviors.tsv, or a folder of such folders, as MINDsmall_train and MINDsmall_dev"
NEWS = ("news_id", "category", "subcategory", "title", "abstract", "url", "title_entities", "abstract_entities")
BEHAVIORS = ("impression_id", "user_id", "time", "history", "impressions")
TIME_FORMAT = "%m/%d/%Y %I:%M:%S %p"
SECOND = 1_000_000  # microseconds
IMPRESSION = r"^\S+-[01]( \S+-[01])*$"


@dataclass(frozen=True, kw_only=True)
class MindConfig(Settings):
    """The settings of the source `mind`.

    Raises:
        ConfigError: `history` is unknown.
    """

    # What the column of earlier clicks becomes: clicks: interactions; drop: nothing.
    history: Annotated[str, OneOf(("clicks", "drop"))] = "clicks"


@dataclass(frozen=True, kw_only=True)
class Mind:
    """The source of MIND."""

    name: ClassVar[str] = "mind"
    config_class: ClassVar[type] = MindConfig
    suite: ClassVar[str] = "mind"
    recipe: ClassVar[Path | None] = None
    path_contents: ClassVar[str | None] = FOLDER
    has_true_probabilities: ClassVar[bool] = False

    config: MindConfig = field(default_factory=MindConfig)
    path: Path

    def read(self) -> Tables:
        """Read the tables; every row must be in order.

        Raises:
            DataError: A file or a row cannot be read.
        """
        return read_every_row(self)

    def input_files(self) -> list[Location]:
        """Return the files that are read."""
        return [file.location for name in ("news.tsv", "behaviors.tsv") for file in self._open(name)]

    def find_problems(self) -> list[Problem]:
        """Check that the files are there and have the number of columns of MIND."""
        problems = []
        for name in ("news.tsv", "behaviors.tsv"):
            try:
                self._open(name)
            except DataError as error:
                problems.append(Problem(table=name, message=str(error)))
        return problems

    def read_rows(self, quarantine: Quarantine) -> Tables:
        """Read the tables, and send rows that cannot be read to the quarantine.

        Raises:
            DataError: A file is missing, or no row is left.
        """
        news, behaviors = self._open("news.tsv"), self._open("behaviors.tsv")
        entities = pa.concat_tables(
            [table for number, file in enumerate(news) for table in _news(file, number, quarantine)]
        )
        # The same news occurs in the files of several folders.
        first = np.sort(np.unique(entities["entity_id"].to_numpy(zero_copy_only=False), return_index=True)[1])
        shown, clicked = [], []
        for number, file in enumerate(behaviors):
            for impressions in _behaviors(file, number, quarantine):
                shown.append(_exploded(impressions))
                clicked.append(impressions.select(["member_id", "history", FILE, ROW]))
        if not shown or not sum(table.num_rows for table in shown):
            quarantine.require_share(0.0)
            raise DataError(f"{self.path}: behaviors.tsv has no impression with labels (N1-1 N2-0).")
        interactions = pa.concat_tables(shown)
        if self.config.history == "clicks":
            start = pc.min(interactions["timestamp"]).as_py()
            interactions = pa.concat_tables([_history(pa.concat_tables(clicked), start), interactions])
        behaviors_files: list[InputFile] = [*behaviors]
        return assemble_tables(
            {"entities": (entities.take(pa.array(first)), [*news]), "interactions": (interactions, behaviors_files)},
            quarantine,
        )

    def _open(self, name: str) -> list[DelimitedFile]:
        folders = [self.path] if (self.path / name).is_file() else sorted(p for p in self.path.glob("*") if p.is_dir())
        paths = [str(folder / name) for folder in folders if (folder / name).is_file()]
        if not paths:
            raise DataError(f"{self.path} has no {name}. Set the path to {FOLDER}.")
        header = NEWS if name == "news.tsv" else BEHAVIORS
        text = TextFormat(delimiter="\t", quote="", header=header)
        return [DelimitedFile(location, text) for location in find_files(paths)]


def _news(file: DelimitedFile, number: int, quarantine: Quarantine) -> list[pa.Table]:
    tables = []
    for batch in file.batches(["news_id", "category", "subcategory", "title", "abstract"]):
        _count(batch, "entities", file, quarantine)
        rows = batch.table
        faults = _id_faults(rows["news_id"], "news_id")
        _quarantine_rows("entities", file, batch, faults, quarantine)
        fields = {name: texts(rows[name]) for name in ("title", "category", "subcategory", "abstract")}
        table = pa.table(
            {
                "entity_id": rows["news_id"],
                "entity_type": pa.repeat(pa.scalar("news"), rows.num_rows),
                "fields": pa.StructArray.from_arrays(list(fields.values()), names=list(fields)),
                **_places(batch, number),
            }
        )
        tables.append(table.filter(pa.array(_not_in(faults, rows.num_rows))))
    if not tables:
        raise DataError(f"{file.location.name} has no rows.")
    return tables


def _behaviors(file: DelimitedFile, number: int, quarantine: Quarantine) -> list[pa.Table]:
    tables = []
    for batch in file.batches(["user_id", "time", "history", "impressions"]):
        _count(batch, "interactions", file, quarantine)
        rows = batch.table
        moments = times(rows["time"], TIME_FORMAT)
        labelled = pc.match_substring_regex(rows["impressions"], IMPRESSION)
        faults = {row: (f"time {reason}", detail) for row, (reason, detail) in moments.faults.items()}
        faults |= _id_faults(rows["user_id"], "user_id")
        for name, bad in (
            ("time is absent", pc.and_(pc.is_null(moments.values), pa.array(_not_in(faults, rows.num_rows)))),
            ("impressions are not of the form N1-1 N2-0 (files for testing have no labels)", pc.invert(labelled)),
        ):
            for row in np.flatnonzero(_bools(bad)).tolist():
                faults.setdefault(row, (name, ""))
        _quarantine_rows("interactions", file, batch, faults, quarantine)
        table = pa.table(
            {
                "member_id": rows["user_id"],
                "timestamp": moments.values,
                "history": rows["history"],
                "impressions": rows["impressions"],
                **_places(batch, number),
            }
        )
        tables.append(table.filter(pa.array(_not_in(faults, rows.num_rows))))
    return tables


def _exploded(rows: pa.Table) -> pa.Table:
    """One row for each shown news."""
    lists = pc.split_pattern(rows["impressions"].combine_chunks(), " ")
    parents, shown = pc.list_parent_indices(lists), pc.list_flatten(lists)
    clicked = pc.equal(pc.utf8_slice_codeunits(shown, -2), "-1")
    repeated = rows.select(["member_id", "timestamp", FILE, ROW]).take(parents)
    return _interactions(repeated, pc.utf8_slice_codeunits(shown, 0, -2), pc.if_else(clicked, "click", "skip"))


def _history(rows: pa.Table, start: int) -> pa.Table:
    """The clicks of each member's history, taken from the member's first impression, before the time `start`."""
    members = rows["member_id"].combine_chunks().dictionary_encode().indices.to_numpy()
    first = np.sort(np.unique(members, return_index=True)[1])
    rows = rows.take(pa.array(first))
    rows = rows.filter(pc.greater(pc.utf8_length(rows["history"]), 0))
    lists = pc.split_pattern(rows["history"].combine_chunks(), " ")
    parents, clicked = pc.list_parent_indices(lists), pc.list_flatten(lists)
    lengths = pc.list_value_length(lists).to_numpy(zero_copy_only=False).astype(np.int64)
    ends = np.repeat(np.cumsum(lengths), lengths)
    times_N = start - SECOND * (ends - np.arange(len(clicked)))
    repeated = rows.select(["member_id", FILE, ROW]).take(parents).append_column("timestamp", pa.array(times_N))
    return _interactions(repeated, clicked, pa.repeat(pa.scalar("click"), len(clicked)))


def _interactions(rows: pa.Table, entities: pa.Array, actions: pa.Array) -> pa.Table:
    return pa.table(
        {
            "member_id": rows["member_id"],
            "entity_id": entities,
            "surface": pa.repeat(pa.scalar("news"), rows.num_rows),
            "action": actions,
            "timestamp": rows["timestamp"],
            FILE: rows[FILE],
            ROW: rows[ROW],
        }
    )


def _places(batch: Batch, number: int) -> dict[str, pa.Array]:
    count = batch.table.num_rows
    return {
        FILE: pa.repeat(pa.scalar(number, pa.int32()), count),
        ROW: pa.array(np.arange(batch.first, batch.first + count)),
    }


def _count(batch: Batch, table: str, file: DelimitedFile, quarantine: Quarantine) -> None:
    quarantine.count_rows(table, batch.table.num_rows + len(batch.bad))
    for row in batch.bad:
        quarantine.add(
            table, file=file.location.name, line=row.line, reason=row.reason, detail=row.detail, values=row.text
        )


def _id_faults(ids: pa.ChunkedArray, name: str) -> dict[int, tuple[str, str]]:
    values, faults = identifiers(ids)
    absent = np.flatnonzero(pc.is_null(values).to_numpy(zero_copy_only=False)).tolist()
    return {row: (f"{name} {reason}", detail) for row, (reason, detail) in faults.items()} | dict.fromkeys(
        absent, (f"{name} is absent", "")
    )


def _quarantine_rows(
    table: str, file: DelimitedFile, batch: Batch, faults: dict[int, tuple[str, str]], quarantine: Quarantine
) -> None:
    rows = sorted(faults)
    raw = batch.table.take(rows).to_pylist() if rows else []
    lines = file.lines([batch.first + row for row in rows])
    for row, line, values in zip(rows, lines, raw, strict=True):
        reason, detail = faults[row]
        quarantine.add(table, file=file.location.name, line=line, reason=reason, detail=detail, values=values)


def _not_in(faults: dict[int, tuple[str, str]], count: int) -> "np.ndarray":
    keep = np.ones(count, bool)
    keep[list(faults)] = False
    return keep


def _bools(values: pa.Array | pa.ChunkedArray) -> "np.ndarray":
    return np.asarray(
        pc.fill_null(values, False).to_numpy(zero_copy_only=False)
        if isinstance(values, pa.Array)
        else pc.fill_null(values, False).to_numpy()
    )
