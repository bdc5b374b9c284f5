"""Converts rows of the tables to the records that the prompt compiler reads."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from brew_data.prompts.entity import Entity, PastInteraction
from brew_data.prompts.fields import field_values
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
        self.profiles: dict[str, dict[str, str]] = {
            row["member_id"]: _values("members", row["member_id"], row["profile"])
            for row in tables.members.select(["member_id", "profile", "opted_out"]).to_pylist()
            if not row["opted_out"]
        }
        self.entities = {
            row["entity_id"]: Entity.of_values(row["entity_type"], _values("entities", row["entity_id"], row["fields"]))
            for row in tables.entities.select(["entity_id", "entity_type", "fields"]).to_pylist()
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


def _values(table: str, id_: str, fields: Mapping[str, object]) -> dict[str, str]:
    try:
        return field_values(fields)
    except UserError as error:
        raise DataError(f"table {table}, {id_!r}: {error}") from error
