"""The interactions of one task as arrays, and the candidates that a baseline scores.

Shape suffixes: N interactions, Q queries, M members, E entities, V values of a field.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from brew_data.prompts.suite import TaskSuite
from brew_data.prompts.tasks import TaskSpec
from brew_data.schema import AUTHOR, Tables, micros
from brew_platform.errors import UserError

__all__ = ["FieldValues", "Fields", "Queries", "TaskInteractions"]

Array = np.ndarray[Any, Any]
MOST_VALUES = 100
_NUMBER = re.compile(r"_(\d+(?:\.\d+)?)$")
_YEAR = re.compile(r"\((\d{4})\)\s*$")


@dataclass(frozen=True, kw_only=True, eq=False)
class FieldValues:
    """The values of a categorical field. An owner (a member or an entity) may have several, as a film has genres."""

    owner_V: Array  # int64, ascending
    code_V: Array  # int64, from 0
    names: list[str]  # by code

    @property
    def is_categorical(self) -> bool:
        """Whether the values are few and repeated; otherwise the field is free text."""
        return len(self.names) <= min(MOST_VALUES, len(self.owner_V) / 2)

    def pairs(self, owner_Q: Array) -> tuple[Array, Array]:
        """Return the positions in `owner_Q`, ascending, and the codes of all values of those owners."""
        first_Q = np.searchsorted(self.owner_V, owner_Q, side="left")
        count_Q = np.searchsorted(self.owner_V, owner_Q, side="right") - first_Q
        query_V = np.repeat(np.arange(len(owner_Q)), count_Q)
        offset_V = np.arange(len(query_V)) - np.repeat(np.cumsum(count_Q) - count_Q, count_Q)
        return query_V, self.code_V[np.repeat(first_Q, count_Q) + offset_V]


@dataclass(frozen=True, kw_only=True, eq=False)
class Fields:
    """The fields of members or entities as a baseline reads them."""

    values: Mapping[str, FieldValues]  # categorical, by field
    numbers: Mapping[str, Array]  # float64 by field, one value per owner; NaN if it has none
    texts: Mapping[str, list[str]]  # of every field of text, categorical or not; "" without one

    @staticmethod
    def of(records: pa.ChunkedArray) -> "Fields":
        """Read a column of structs.

        A number or a boolean is a number. A list of texts is categorical if it has at most 100 different values, and
        each occurs twice on average. So is a text for whose parts, separated by ", ", or for whose words this holds. Of
        another text the year is read that stands in parentheses at its end, as in titles of films. Other fields are
        left out.
        """
        values: dict[str, FieldValues] = {}
        numbers: dict[str, Array] = {}
        texts: dict[str, list[str]] = {}
        for field in records.type:
            column = pc.struct_field(records.combine_chunks(), field.name)
            if pa.types.is_boolean(field.type) or pa.types.is_integer(field.type) or pa.types.is_floating(field.type):
                numbers[field.name] = column.cast(pa.float64()).to_numpy(zero_copy_only=False).astype(np.float64)
            elif pa.types.is_string(field.type) or pa.types.is_large_string(field.type):
                own = texts[field.name] = [text or "" for text in column.to_pylist()]
                found = _values([text.split(", ") for text in own])
                if not found.is_categorical:
                    found = _values([text.split() for text in own])
                if found.is_categorical:
                    values[field.name] = found
                elif not np.isnan(years := _years(own)).all():
                    numbers[f"{field.name}_year"] = years
            elif pa.types.is_list(field.type) and pa.types.is_string(field.type.value_type):
                lists = [[part for part in parts or [] if part] for parts in column.to_pylist()]
                texts[field.name] = [", ".join(parts) for parts in lists]
                found = _values(lists)
                if found.is_categorical:
                    values[field.name] = found
        values = {name: found for name, found in values.items() if found.names}
        return Fields(values=values, numbers=numbers, texts={name: own for name, own in texts.items() if any(own)})


@dataclass(frozen=True, kw_only=True, eq=False)
class Queries:
    """Candidates to score. A baseline may use what happened strictly before a query's time, and nothing else."""

    member_Q: Array  # int64, positions in the members table
    entity_Q: Array  # int64, positions in the entities table
    before_Q: Array  # int64 microseconds since 1970, UTC

    def __len__(self) -> int:
        return len(self.member_Q)


@dataclass(frozen=True, kw_only=True, eq=False)
class TaskInteractions:
    """The interactions of a task's surface, sorted by time, without members who have opted out."""

    task: str
    surface: str
    id_N: Array  # int64 interaction ids
    member_N: Array  # int64, positions in the members table
    entity_N: Array  # int64, positions in the entities table
    time_N: Array  # int64 microseconds since 1970, UTC
    label_N: Array  # bool
    # float64: the number in the action's name, as 4 of rated_4, if all actions have one; otherwise the label, 0 or 1.
    value_N: Array
    members: Fields
    entities: Fields
    type_E: Array  # int64 codes of the entity types
    author_E: Array  # int64, positions in the authors; -1 without an author
    member_ids: list[str]
    locales: list[str]

    @staticmethod
    def of(tables: Tables, suite: TaskSuite, task: TaskSpec) -> "TaskInteractions":
        """Encode the tables of a task.

        Raises:
            UserError: The surface of the task has no interactions.
        """
        out = tables.members.filter(tables.members["opted_out"])["member_id"].combine_chunks()
        rows = tables.interactions.filter(pc.equal(tables.interactions["surface"], task.surface))
        rows = rows.filter(pc.invert(pc.is_in(rows["member_id"], value_set=out)))
        if not rows.num_rows:
            raise UserError(f"task {task.name}: the surface {task.surface} has no interactions. Leave the task out.")
        positive = pa.array(suite.positive_actions(task), pa.string())
        label_N = pc.is_in(rows["action"], value_set=positive).to_numpy(zero_copy_only=False).astype(bool)
        actions = rows["action"].combine_chunks().dictionary_encode()
        numbers = [_NUMBER.search(action) for action in actions.dictionary.to_pylist()]
        value_N = label_N.astype(np.float64)
        if all(numbers):
            value_N = np.array([float(found[1]) for found in numbers if found])[actions.indices.to_numpy()]
        authors = np.full(tables.entities.num_rows, -1, dtype=np.int64)
        if AUTHOR in tables.entities.column_names:
            authors = _codes(tables.entities[AUTHOR])
        return TaskInteractions(
            task=task.name,
            surface=task.surface,
            id_N=rows["interaction_id"].to_numpy(),
            member_N=_index(rows["member_id"], tables.members["member_id"]),
            entity_N=_index(rows["entity_id"], tables.entities["entity_id"]),
            time_N=micros(rows).to_numpy(),
            label_N=label_N,
            value_N=value_N,
            members=Fields.of(tables.members["profile"]),
            entities=Fields.of(tables.entities["fields"]),
            type_E=_codes(tables.entities["entity_type"]),
            author_E=authors,
            member_ids=tables.members["member_id"].to_pylist(),
            locales=tables.members["locale"].to_pylist(),
        )

    def __len__(self) -> int:
        return len(self.id_N)

    def take(self, keep_N: Array) -> "TaskInteractions":
        """Return the interactions at some positions, or of a mask; the members and entities remain."""
        names = ("id_N", "member_N", "entity_N", "time_N", "label_N", "value_N")
        return replace(self, **{name: getattr(self, name)[keep_N] for name in names})

    def until(self, cut: int) -> "TaskInteractions":
        """Return the interactions up to a time, inclusive, in microseconds.

        Raises:
            UserError: There are none.
        """
        kept = self.take(self.time_N <= cut)
        if not len(kept):
            raise UserError(f"task {self.task}: no interaction is before the cut, so nothing can be fitted. Move it.")
        return kept

    def streaming(self) -> Queries:
        """Return one query per interaction; its history is everything strictly earlier."""
        return Queries(member_Q=self.member_N, entity_Q=self.entity_N, before_Q=self.time_N)

    def frozen(self, cut: int) -> Queries:
        """Return one query per interaction; its history stops at `cut`, inclusive, so all form one slate per member."""
        before_Q = np.full(len(self), cut + 1, dtype=np.int64)
        return Queries(member_Q=self.member_N, entity_Q=self.entity_N, before_Q=before_Q)

    def validation_cut(self, cut: int, share: float = 0.8) -> int:
        """Return the time up to which a model is fitted when settings are chosen on the later rows before `cut`."""
        time_N = self.until(cut).time_N
        return int(time_N[max(0, round(share * len(time_N)) - 1)])

    def between(self, after: int, until: int) -> "TaskInteractions":
        """Return the interactions later than one time and not later than another."""
        return self.take((self.time_N > after) & (self.time_N <= until))


def _index(ids: pa.ChunkedArray, owners: pa.ChunkedArray) -> Array:
    return np.asarray(pc.index_in(ids, value_set=owners.combine_chunks()).to_numpy(), dtype=np.int64)


def _codes(column: pa.ChunkedArray) -> Array:
    encoded = column.combine_chunks().dictionary_encode()
    return np.asarray(pc.fill_null(encoded.indices, -1).to_numpy(zero_copy_only=False), dtype=np.int64)


def _values(parts: Sequence[Sequence[str]]) -> FieldValues:
    pairs = [(owner, part) for owner, own in enumerate(parts) for part in dict.fromkeys(own) if part]
    names = sorted({part for _, part in pairs})
    codes = {name: code for code, name in enumerate(names)}
    return FieldValues(
        owner_V=np.array([owner for owner, _ in pairs], dtype=np.int64),
        code_V=np.array([codes[part] for _, part in pairs], dtype=np.int64),
        names=names,
    )


def _years(texts: list[str]) -> Array:
    found = (_YEAR.search(text) for text in texts)
    return np.array([float(match[1]) if match else np.nan for match in found])
