"""Writes the fields of members and entities as prompts show them: as text, without identifiers of persons."""

from collections import Counter

import pyarrow as pa
import pyarrow.compute as pc

from brew_data.privacy.redaction import redact
from brew_data.privacy.report import Removals, count_removed
from brew_data.prompts.fields import field_text
from brew_data.sources.values import texts

__all__ = ["clean_rows"]

_COLUMNS = {"members": "profile", "entities": "fields"}


def clean_rows(table: str, rows: pa.Table, removals: Removals) -> pa.Table:
    """Convert all fields of rows to text by the rule of prompts, which removes identifiers.

    Prompts of the result are those of the rows: the rule applied twice changes nothing more.

    Args:
        table: The name of the table; only members and entities have fields.
        rows: Some of its rows.
        removals: Receives the number of rows in which an identifier was removed, by `table.field` and kind.
    """
    column = _COLUMNS.get(table)
    fields = [] if column is None else list(rows.schema.field(column).type)
    if not fields:
        return rows
    cleaned = []
    for index, field in enumerate(fields):
        values, found = _clean(texts(pc.struct_field(rows[column], [index])))
        cleaned.append(values)
        count_removed(removals, f"{table}.{field.name}", found)
    struct = pa.StructArray.from_arrays(cleaned, names=[field.name for field in fields])
    return rows.set_column(rows.column_names.index(column), column, struct)


def _clean(values: pa.Array) -> tuple[pa.Array, Counter[str]]:
    """Remove identifiers from each distinct text, and count the rows by kind."""
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
