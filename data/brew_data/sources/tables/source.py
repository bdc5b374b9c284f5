"""The source `tables`: reads a user's own files."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from brew_data.problems import Problem
from brew_data.schema import CONNECTION_KINDS, TIMESTAMP, Tables
from brew_data.sources.base import read_every_row
from brew_data.sources.formats.base import InputFile
from brew_data.sources.formats.delimited import DelimitedFile, TextFormat
from brew_data.sources.formats.json_lines import JsonLinesFile
from brew_data.sources.formats.parquet import ParquetFile
from brew_data.sources.locations import Location, find_files
from brew_data.sources.quarantine import Quarantine
from brew_data.sources.tables.config import TableConfig, TablesConfig
from brew_data.sources.tables.mapping import drop_rows, find_mapping_problems, map_file
from brew_platform.errors import BrewError, DataError

__all__ = ["OwnTables", "assemble_tables"]

SUFFIXES = {
    ".csv": "csv", ".tsv": "csv", ".txt": "csv", ".dat": "csv",
    ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl",
    ".parquet": "parquet", ".pq": "parquet",
}  # fmt: skip
COMPRESSED = (".gz", ".bz2", ".zst")


@dataclass(frozen=True, kw_only=True)
class OwnTables:
    """Tables that are mapped from CSV, JSONL or Parquet files by the recipe."""

    name: ClassVar[str] = "tables"
    config_class: ClassVar[type] = TablesConfig
    suite: ClassVar[str] = ""  # the recipe names it
    recipe: ClassVar[Path | None] = None
    path_contents: ClassVar[str | None] = None  # source_config names the files
    has_true_probabilities: ClassVar[bool] = False

    config: TablesConfig
    path: Path | None = None

    def read(self) -> Tables:
        """Read the tables; every row must fit the schema.

        Raises:
            DataError: A file or a row cannot be read.
        """
        return read_every_row(self)

    def input_files(self) -> list[Location]:
        """Return the files that are read."""
        return [file.location for config in self._configs().values() for file in _open_files(config)]

    def find_problems(self) -> list[Problem]:
        """Check that all files are there and have the columns that the recipe names."""
        problems: list[Problem] = []
        for table, config in self._configs().items():
            try:
                for file in _open_files(config):
                    problems += find_mapping_problems(table, config, file)
            except BrewError as error:
                problems.append(Problem(table=table, message=str(error)))
        return problems

    def read_rows(self, quarantine: Quarantine) -> Tables:
        """Read the tables, and send rows that break the schema to the quarantine.

        Raises:
            DataError: A file cannot be read, a column is missing, or no row is left.
        """
        if problems := self.find_problems():
            more = f" ({len(problems) - 1} more; `brew360 data validate` lists them)" if len(problems) > 1 else ""
            raise DataError(f"{problems[0].table}: {problems[0].message}{more}")
        mapped: dict[str, tuple[pa.Table, list[InputFile]]] = {}
        for table, config in self._configs().items():
            files = _open_files(config)
            batches = [
                batch
                for number, file in enumerate(files)
                for batch in map_file(table, config, file, number, quarantine)
            ]
            if not batches or not sum(batch.num_rows for batch in batches):
                quarantine.require_share(0.0)
                raise DataError(f"the files of {table} have no rows: {', '.join(config.files)}.")
            mapped[table] = pa.concat_tables(batches), files
        return assemble_tables(mapped, quarantine)

    def _configs(self) -> dict[str, TableConfig]:
        tables = ("interactions", "entities", "members", "connections")
        configs: dict[str, TableConfig] = {name: getattr(self.config, name) for name in tables}
        return {name: config for name, config in configs.items() if config.files}


def _open_files(config: TableConfig) -> list[InputFile]:
    return [_open_file(location, config) for location in find_files(config.files)]


def _open_file(location: Location, config: TableConfig) -> InputFile:
    suffixes = [suffix.lower() for suffix in Path(location.path).suffixes if suffix.lower() not in COMPRESSED]
    kind = SUFFIXES.get(suffixes[-1] if suffixes else "") if config.format == "auto" else config.format
    if kind == "csv":
        delimiter = "\t" if config.delimiter == "," and suffixes[-1:] == [".tsv"] else config.delimiter
        text = TextFormat(
            delimiter=delimiter, quote=config.quote, encoding=config.encoding, header=tuple(config.header)
        )
        return DelimitedFile(location, text)
    if kind == "jsonl":
        return JsonLinesFile(location, config.encoding)
    if kind == "parquet":
        return ParquetFile(location)
    raise DataError(f"{location.name}: the format is unknown from its ending. Set `format` to csv, jsonl or parquet.")


def assemble_tables(mapped: dict[str, tuple[pa.Table, list[InputFile]]], quarantine: Quarantine) -> Tables:
    """Make the tables of one source from mapped rows.

    Repeated ids of entities and members, interactions with an unknown entity or member, and connections that are
    repeated or cannot be, go to the quarantine. Without members, every member of the interactions and connections gets
    an empty profile. A member has opted out if any of their rows says so.

    Args:
        mapped: Rows and files by table: interactions, entities, and members and connections where there are any.
        quarantine: Receives the rows that do not fit.

    Raises:
        DataError: No interaction is left.
    """
    entities = _without_repeated("entities", ["entity_id"], *mapped["entities"], quarantine)
    interactions, files = mapped["interactions"]
    members, opted_out = None, pa.array([], pa.string())
    if "members" in mapped:
        rows, member_files = mapped["members"]
        if "opted_out" in rows.column_names:
            opted_out = pc.unique(rows.filter(rows["opted_out"])["member_id"])
        members = _without_repeated("members", ["member_id"], rows, member_files, quarantine)
        interactions = _without_unknown("interactions", "member_id", interactions, members, files, quarantine)
    interactions = _without_unknown("interactions", "entity_id", interactions, entities, files, quarantine)
    if not interactions.num_rows:
        left_out = [
            f" {quarantine.total(table):,} rows of {table} were left out: {reason} "
            f"({quarantine.examples[table, reason][0]})."
            for table, reasons in quarantine.reasons.items()
            for reason in list(reasons)[:1]
            if table != "interactions"
        ]
        raise DataError(
            f"no interaction is left: all of them name an entity or member that its table lacks.{''.join(left_out)} "
            f"Map the ids of both tables to columns with the same values."
        )
    ids = pa.array(np.arange(interactions.num_rows))
    interactions = interactions.append_column("interaction_id", ids)
    order = np.argsort(interactions["timestamp"].to_numpy(), kind="stable")
    interactions = interactions.take(pa.array(order))
    network = mapped.get("connections")
    if members is None:
        columns = [interactions["member_id"], *([network[0]["member_id"], network[0]["other_id"]] if network else [])]
        chunks = [chunk for column in columns for chunk in column.chunks]
        members = pa.table({"member_id": pc.unique(pa.chunked_array(chunks, pa.string()))})
    return Tables(
        members=pa.table(
            {
                "member_id": members["member_id"],
                "profile": _fields(members),
                "locale": _filled(members, "locale", pa.scalar("en")),
                "opted_out": pc.is_in(members["member_id"], value_set=opted_out),
            }
        ),
        entities=pa.table(
            {
                "entity_id": entities["entity_id"],
                "entity_type": entities["entity_type"],
                "created_at": _filled(entities, "created_at", pa.scalar(0, pa.int64())).cast(TIMESTAMP),
                "fields": _fields(entities),
                **({"author_id": entities["author_id"]} if "author_id" in entities.column_names else {}),
            }
        ),
        interactions=pa.table(
            {
                "interaction_id": interactions["interaction_id"],
                "member_id": interactions["member_id"],
                "entity_id": interactions["entity_id"],
                "surface": interactions["surface"],
                "action": interactions["action"],
                "timestamp": interactions["timestamp"].cast(TIMESTAMP),
            }
        ),
        connections=None if network is None else _connections(*network, members, quarantine),
    )


def _connections(rows: pa.Table, files: Sequence[InputFile], members: pa.Table, quarantine: Quarantine) -> pa.Table:
    for key in ("member_id", "other_id"):
        rows = _without_unknown("connections", key, rows, members, files, quarantine)
    is_known = pc.is_in(rows["kind"], value_set=pa.array(CONNECTION_KINDS)).to_numpy()
    reason = f"kind is not {' or '.join(CONNECTION_KINDS)}"
    rows = drop_rows("connections", rows, is_known, reason, files, quarantine, "kind")
    is_other = pc.not_equal(rows["member_id"], rows["other_id"]).to_numpy()
    rows = drop_rows("connections", rows, is_other, "other_id is the member itself", files, quarantine, "other_id")
    rows = _without_repeated("connections", ["member_id", "other_id", "kind"], rows, files, quarantine)
    timestamp = rows["timestamp"].cast(TIMESTAMP)
    return rows.select(["member_id", "other_id", "kind"]).append_column("timestamp", timestamp)


def _filled(rows: pa.Table, column: str, default: pa.Scalar) -> pa.Array | pa.ChunkedArray:
    if column not in rows.column_names:
        return pa.repeat(default, rows.num_rows)
    return pc.fill_null(rows[column], default)


def _fields(rows: pa.Table) -> pa.Array | pa.ChunkedArray:
    if "fields" in rows.column_names:
        return rows["fields"]
    return pa.array([{}] * rows.num_rows, pa.struct([]))


def _without_repeated(
    table: str, keys: Sequence[str], rows: pa.Table, files: Sequence[InputFile], quarantine: Quarantine
) -> pa.Table:
    joined = pc.binary_join_element_wise(*(rows[key].combine_chunks() for key in keys), "\x00")
    codes = joined.dictionary_encode().indices.to_numpy(zero_copy_only=False)
    keep = np.zeros(len(codes), bool)
    keep[np.unique(codes, return_index=True)[1]] = True
    reason = f"{keys[0]} occurs before; ids must be unique" if len(keys) == 1 else f"{', '.join(keys)} occur before"
    return drop_rows(table, rows, keep, reason, files, quarantine, keys[0])


def _without_unknown(
    table: str, key: str, rows: pa.Table, owner: pa.Table, files: Sequence[InputFile], quarantine: Quarantine
) -> pa.Table:
    where, owner_key = ("entities", "entity_id") if key == "entity_id" else ("members", "member_id")
    keep = pc.is_in(rows[key], value_set=owner[owner_key].combine_chunks()).to_numpy()
    return drop_rows(table, rows, keep, f"{key} is not in the {where}", files, quarantine, key)
