"""Removes members who opted out: their rows, their connections, and their authorship."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from brew_data.privacy.report import Removals, count_removed
from brew_data.prompts.fields import field_text
from brew_data.schema import AUTHOR
from brew_platform.errors import UserError

__all__ = ["OPTED_OUT", "OptOut", "read_opted_out"]

OPTED_OUT = "members who opted out"  # what is removed of the members, in the report


def read_opted_out(path: Path) -> list[str]:
    """Read a list of member ids, one per line; empty lines are ignored.

    Raises:
        UserError: The file cannot be read, or is not UTF-8.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"privacy.opted_out_file {path} cannot be read ({error}). Write one member id per line, as UTF-8."
        ) from error
    return sorted({line.strip() for line in lines} - {""})


class OptOut:
    """Removes members from rows of the tables.

    The methods take any part of a table. All members come first, entities before interactions, and interactions before
    the oracle, because what refers to a removed row is removed, too.

    Args:
        listed: Ids of members who opted out, besides those of the column opted_out; strings.
        author_fields: The fields of entities with the author's name.
        profile_types: The types of entities that describe the member `author_id`.
        removals: Receives the numbers of rows.
    """

    def __init__(
        self, listed: pa.Array, *, author_fields: Sequence[str], profile_types: Sequence[str], removals: Removals
    ) -> None:
        self.ids = listed
        self._removals = removals
        self._author_fields, self._profile_types = author_fields, pa.array(profile_types, pa.string())
        self._entities, self._interactions = pa.array([], pa.string()), pa.array([], pa.int64())  # that were removed

    def members(self, rows: pa.Table) -> pa.Table:
        """Remove the members who opted out."""
        gone = pc.or_(rows["opted_out"], pc.is_in(rows["member_id"], value_set=self.ids))
        self.ids = pc.unique(pa.concat_arrays([self.ids, *rows["member_id"].filter(gone).chunks]))
        return self._without("members", rows, gone, OPTED_OUT)

    def connections(self, rows: pa.Table) -> pa.Table:
        """Remove the connections of the members, in both directions."""
        gone = pc.or_(*(pc.is_in(rows[key], value_set=self.ids) for key in ("member_id", "other_id")))
        return self._without("connections", rows, gone, f"of {OPTED_OUT}")

    def entities(self, rows: pa.Table) -> pa.Table:
        """Remove the entities about the members, and the author of those that they wrote.

        Args:
            rows: The fields are text.
        """
        if AUTHOR not in rows.column_names:
            return rows
        by_member = pc.is_in(rows[AUTHOR], value_set=self.ids)
        about = pc.and_(by_member, pc.is_in(rows["entity_type"], value_set=self._profile_types))
        removed = pc.unique(rows["entity_id"].filter(about))
        self._entities = pa.concat_arrays([self._entities, removed])
        rows = self._without("entities", rows, about, f"about {OPTED_OUT}")
        return self._without_authors(rows)

    def interactions(self, rows: pa.Table) -> pa.Table:
        """Remove the interactions of the members, and those with entities about them."""
        of_members = pc.is_in(rows["member_id"], value_set=self.ids)
        with_entities = pc.is_in(rows["entity_id"], value_set=self._entities)
        removed = rows["interaction_id"].filter(pc.or_(of_members, with_entities))
        self._interactions = pa.concat_arrays([self._interactions, *removed.chunks])
        with_entities = pc.and_(with_entities, pc.invert(of_members)).filter(pc.invert(of_members))
        rows = self._without("interactions", rows, of_members, f"of {OPTED_OUT}")
        return self._without("interactions", rows, with_entities, f"with entities about {OPTED_OUT}")

    def oracle(self, rows: pa.Table) -> pa.Table:
        """Remove the probabilities of the interactions that were removed."""
        if not len(self._interactions):
            return rows
        return rows.filter(pc.invert(pc.is_in(rows["interaction_id"], value_set=self._interactions)))

    def _without(self, table: str, rows: pa.Table, gone: pa.ChunkedArray, reason: str) -> pa.Table:
        if not (count := pc.sum(gone).as_py()):
            return rows
        count_removed(self._removals, table, {reason: count})
        return rows.filter(pc.invert(gone))

    def _without_authors(self, rows: pa.Table) -> pa.Table:
        """Clear the author of the members' entities: the id, the fields with the name, and the name in other fields."""
        by_member = pc.is_in(rows[AUTHOR], value_set=self.ids)
        if not (count := pc.sum(by_member).as_py()):
            return rows
        count_removed(self._removals, "entities", {f"authors: {OPTED_OUT}": count})
        authors = pc.if_else(by_member, pa.scalar(None, pa.string()), rows[AUTHOR])
        rows = rows.set_column(rows.column_names.index(AUTHOR), AUTHOR, authors)
        column, field = rows.column_names.index("fields"), rows.schema.field("fields")
        changed = rows.filter(by_member)
        fields = [self._without_name(fields) for fields in changed["fields"].to_pylist()]
        changed = changed.set_column(column, field, pa.array(fields, field.type))
        is_changed_N = by_member.to_numpy()
        order_N = np.argsort(np.argsort(is_changed_N, kind="stable"))  # of each row, its place after the others
        return pa.concat_tables([rows.filter(pc.invert(by_member)), changed]).take(pa.array(order_N))

    def _without_name(self, fields: dict[str, object]) -> dict[str, object]:
        names = [name for field in self._author_fields if isinstance(name := fields.get(field), str) and name]
        others = {name: None if name in self._author_fields else value for name, value in fields.items()}
        if not names:
            return others
        pattern = re.compile("|".join(rf"(?<!\w){re.escape(name)}(?!\w)" for name in names), re.IGNORECASE)
        return {
            name: field_text(name, pattern.sub("", value)) or None if isinstance(value, str) else value
            for name, value in others.items()
        }
