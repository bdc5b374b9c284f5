"""Computes the quantiles of numbers that a suite shows as percentiles, from the rows of training."""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from brew_data.prompts.percentiles import percentile_cuts
from brew_data.prompts.suite import TaskSuite
from brew_data.prompts.templates import RecordTemplate

__all__ = ["with_quantiles"]

_NUMBER = r"^-?[0-9]+(\.[0-9]+)?$"


def with_quantiles(
    suite: TaskSuite, members: Iterable[pa.Table], entities: Iterable[pa.Table], *, until: int
) -> TaskSuite:
    """Return a suite that has the quantiles of all numbers that its templates show as percentiles.

    Quantiles that the suite has already are kept, so that data that are added to a data set show the same buckets.

    Args:
        suite: The suite; it is returned unchanged if it lacks no quantiles.
        members: The members table in parts. Members who opted out are left out.
        entities: The entities table in parts. Only entities that exist at the end of training are used.
        until: The end of training, in microseconds since 1970, UTC.
    """

    def template_of(kind: str | None) -> RecordTemplate:
        return suite.profile if kind is None else suite.entities[kind]

    missing = [
        (kind, name)
        for kind, names in suite.percentiles.items()
        for name in sorted(names)
        if name not in template_of(kind).quantiles
    ]
    if not missing:
        return suite
    found: dict[tuple[str | None, str], list[np.ndarray]] = {key: [np.empty(0)] for key in missing}
    profile_fields = [name for kind, name in missing if kind is None]
    if profile_fields:
        for table in members:
            rows = table.filter(pc.invert(table["opted_out"]))
            for name in profile_fields:
                found[None, name].append(_numbers(rows["profile"], name))
    entity_fields = [(kind, name) for kind, name in missing if kind is not None]
    if entity_fields:
        for table in entities:
            known = table.filter(pc.less_equal(table["created_at"].cast(pa.int64()), until))
            for kind, name in entity_fields:
                rows = known.filter(pc.equal(known["entity_type"], kind))
                found[kind, name].append(_numbers(rows["fields"], name))

    def completed(kind: str | None) -> RecordTemplate:
        template = template_of(kind)
        cuts = {key[1]: percentile_cuts(np.concatenate(parts)) for key, parts in found.items() if key[0] == kind}
        return replace(template, quantiles=template.quantiles | cuts)

    return replace(suite, profile=completed(None), entities={name: completed(name) for name in suite.entities})


def _numbers(records: pa.ChunkedArray, name: str) -> np.ndarray:
    """Return the finite numbers of a field, shape (numbers,); text counts if it is written like a number."""
    if records.type.get_field_index(name) < 0:
        return np.empty(0)
    column = pc.struct_field(records, name).drop_null()
    kind = column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        column = pc.utf8_trim_whitespace(column)
        column = column.filter(pc.match_substring_regex(column, _NUMBER))
    elif not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)):
        return np.empty(0)
    numbers = column.cast(pa.float64()).to_numpy()
    return numbers[np.isfinite(numbers)]
