"""Converts rows of the tables to the records that the prompt compiler reads."""

from pathlib import Path

import pyarrow as pa

from brew_data.prompts.compiler import Entity, PastInteraction
from brew_data.schema import Tables, micros, read_tables

__all__ = ["Records"]


class Records:
    """Profiles and entities by id.

    Args:
        tables: The tables. Members who opted out are excluded, so they never occur in a prompt.
    """

    def __init__(self, tables: Tables) -> None:
        self.profiles: dict[str, dict[str, object]] = {
            row["member_id"]: row["profile"] for row in tables.members.to_pylist() if not row["opted_out"]
        }
        self.entities = {
            row["entity_id"]: Entity(entity_type=row["entity_type"], fields=row["fields"])
            for row in tables.entities.to_pylist()
        }

    @staticmethod
    def read(folder: Path) -> "Records":
        """Read the records of a folder of tables.

        Raises:
            DataError: As in `read_tables`.
        """
        return Records(read_tables(folder))

    def history(self, interactions: pa.Table) -> list[PastInteraction]:
        """Convert rows of the interactions table to past interactions, sorted by time and then id."""
        rows = interactions.sort_by([("timestamp", "ascending"), ("interaction_id", "ascending")])
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
