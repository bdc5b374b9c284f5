"""Writes the fields of members and entities as prompts show them: as text, without contacts."""

from collections import Counter
from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc

from brew_data.privacy.redaction import redact
from brew_data.prompts.fields import field_text
from brew_data.schema import Tables
from brew_data.sources.values import texts

__all__ = ["ContactCounts", "clean_tables"]

ContactCounts = dict[str, dict[str, int]]
"""Rows in which a contact was removed, by `table.field` and kind of contact."""


def clean_tables(tables: Tables) -> tuple[Tables, ContactCounts]:
    """Convert all fields to text by the rule of prompts, which removes contacts.

    Prompts of the result are those of the tables: the rule applied twice changes nothing more.

    Returns:
        The tables, and in how many rows contacts were removed.
    """
    counts: ContactCounts = {}
    members = _clean_column(tables.members, "members", "profile", counts)
    entities = _clean_column(tables.entities, "entities", "fields", counts)
    return replace(tables, members=members, entities=entities), counts


def _clean_column(rows: pa.Table, table: str, column: str, counts: ContactCounts) -> pa.Table:
    fields = list(rows.schema.field(column).type)
    if not fields:
        return rows
    cleaned = []
    for index, field in enumerate(fields):
        values, found = _clean(texts(pc.struct_field(rows[column], [index])))
        cleaned.append(values)
        if found:
            counts[f"{table}.{field.name}"] = dict(found)
    struct = pa.StructArray.from_arrays(cleaned, names=[field.name for field in fields])
    return rows.set_column(rows.column_names.index(column), column, struct)


def _clean(values: pa.Array) -> tuple[pa.Array, Counter[str]]:
    """Remove contacts from each distinct text, and count the rows by kind."""
    counted = pc.value_counts(values)
    changed: dict[str, str | None] = {}
    found: Counter[str] = Counter()
    for text, rows in zip(counted.field("values").to_pylist(), counted.field("counts").to_pylist(), strict=True):
        if text is not None and (short := field_text("", text)) != (line := " ".join(text.split())):
            kinds: Counter[str] = Counter()
            redact(line, kinds)
            found.update(dict.fromkeys(kinds, rows))
            changed[text] = short or None
    if not changed:
        return values, found
    index = pc.index_in(values, value_set=pa.array(list(changed), pa.string()))
    short = pa.array(list(changed.values()), pa.string()).take(index)
    return pc.if_else(pc.is_valid(index), short, values), found
