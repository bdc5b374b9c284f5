"""Converts rows of the tables to the records that the prompt compiler reads."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from brew_data.prompts.entity import Entity, PastInteraction
from brew_data.prompts.fields import field_text
from brew_data.schema import Tables, micros, read_table
from brew_platform.errors import DataError, UserError

__all__ = ["MemberHistory", "RecordTables", "Records"]


class RecordTables(NamedTuple):
    """The tables that `Records` reads."""

    members: pa.Table
    entities: pa.Table


class MemberHistory(NamedTuple):
    """A member's profile and interactions, sorted by time and then id."""

    member_id: str
    profile: dict[str, str]
    interaction_ids: list[int]
    history: list[PastInteraction]


class Records:
    """Profiles and entities by id.

    Args:
        tables: The tables, or the rows of them that are needed. Members who opted out are excluded, so they never occur
            in a prompt.

    Raises:
        DataError: A field holds a value that a prompt cannot show (`field_values`).
    """

    def __init__(self, tables: "Tables | RecordTables") -> None:
        members = tables.members.filter(pc.invert(tables.members["opted_out"]))
        self.profiles = dict(
            zip(members["member_id"].to_pylist(), _texts("members", members, "member_id", "profile"), strict=True)
        )
        fields = _texts("entities", tables.entities, "entity_id", "fields")
        columns = (tables.entities[name].to_pylist() for name in ("entity_id", "entity_type"))
        self.entities = {
            id_: Entity.of_values(entity_type, values)
            for id_, entity_type, values in zip(*columns, fields, strict=True)
        }

    @staticmethod
    def read(folder: Path) -> "Records":
        """Read the records of a folder of tables; the interactions are not read.

        Raises:
            DataError: As in `read_table`, or as in `Records`.
        """
        return Records(RecordTables(read_table(folder, "members"), read_table(folder, "entities")))

    def history(self, interactions: pa.Table) -> list[PastInteraction]:
        """Convert rows of the interactions table to past interactions, sorted by time and then id."""
        return self._history(interactions.sort_by([("timestamp", "ascending"), ("interaction_id", "ascending")]))

    def members(self, interactions: pa.Table) -> Iterator[MemberHistory]:
        """Yield the histories of the members of some rows, in the order of their ids.

        Args:
            interactions: Rows of the interactions table, in any order. Rows of members without a profile are left out.
        """
        order = [("member_id", "ascending"), ("timestamp", "ascending"), ("interaction_id", "ascending")]
        rows = interactions.sort_by(order)
        if not rows.num_rows:
            return
        ids = rows["interaction_id"].to_pylist()
        runs = pc.run_end_encode(rows["member_id"].combine_chunks())
        start = 0
        for member_id, end in zip(runs.values.to_pylist(), runs.run_ends.to_pylist(), strict=True):
            if (profile := self.profiles.get(member_id)) is not None:
                yield MemberHistory(member_id, profile, ids[start:end], self._history(rows.slice(start, end - start)))
            start = end

    def _history(self, rows: pa.Table) -> list[PastInteraction]:
        return [
            PastInteraction(entity=self.entities[entity], surface=surface, action=action, timestamp=timestamp)
            for entity, surface, action, timestamp in zip(
                rows["entity_id"].to_pylist(),
                rows["surface"].to_pylist(),
                rows["action"].to_pylist(),
                micros(rows).to_pylist(),
                strict=True,
            )
        ]


def _texts(table: str, rows: pa.Table, key: str, column: str) -> list[dict[str, str]]:
    """Return what `field_values` returns for the records of a struct column. Equal texts are converted once."""
    records: list[dict[str, str]] = [{} for _ in range(rows.num_rows)]
    for index, field in enumerate(rows.schema.field(column).type):
        values = pc.struct_field(rows[column], [index]).combine_chunks()
        places = np.flatnonzero(values.is_valid().to_numpy(zero_copy_only=False)).tolist()
        values = values.drop_null()
        codes: Sequence[int] = range(len(values))
        if pa.types.is_string(field.type):
            encoded = values.dictionary_encode()
            values, codes = encoded.dictionary, encoded.indices.to_pylist()
        try:
            texts: list[str] = []
            for value in values.to_pylist():
                texts.append(field_text(field.name, value))
        except UserError as error:
            place = places[codes.index(len(texts))]
            raise DataError(f"table {table}, {rows[key][place].as_py()!r}: {error}") from error
        for place, code in zip(places, codes, strict=True):
            if text := texts[code]:
                records[place][field.name] = text
    return records
