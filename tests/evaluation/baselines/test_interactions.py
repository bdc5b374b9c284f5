"""Interactions as arrays: labels, values, fields, cuts and queries."""

import numpy as np
import pyarrow as pa
import pytest

from brew_eval.baselines.interactions import Fields, FieldValues, TaskInteractions
from brew_platform.errors import UserError

from .tiny import DAY, SUITE, TASK, make_rows, make_tables


def test_labels_are_positive_outcomes_and_values_are_stars() -> None:
    rows = make_rows([0, 1, 0], [0, 1, 1], [5, 3, 4], [2, 1, 3])
    assert rows.time_N.tolist() == [DAY, 2 * DAY, 3 * DAY]
    assert rows.label_N.tolist() == [False, True, True]
    assert rows.value_N.tolist() == [3, 5, 4]
    assert (rows.member_N.tolist(), rows.entity_N.tolist()) == ([1, 0, 0], [1, 0, 1])


def test_members_who_opted_out_are_left_out() -> None:
    tables = make_tables([0, 1], [0, 0], [5, 3], [1, 2])
    index = tables.members.column_names.index("opted_out")
    object.__setattr__(tables, "members", tables.members.set_column(index, "opted_out", pa.array([True, False])))
    assert TaskInteractions.of(tables, SUITE, TASK).member_N.tolist() == [1]


def test_a_surface_without_interactions_is_refused() -> None:
    tables = make_tables([0], [0], [5], [1])
    object.__setattr__(tables, "interactions", tables.interactions.slice(0, 0))
    with pytest.raises(UserError, match="no interactions"):
        TaskInteractions.of(tables, SUITE, TASK)


def test_a_cut_before_all_interactions_is_refused() -> None:
    with pytest.raises(UserError, match="Move it"):
        make_rows([0], [0], [5], [1]).until(DAY - 1)


def test_queries_are_streaming_or_frozen() -> None:
    rows = make_rows([0, 0, 0], [0, 1, 2], [5, 3, 1], [1, 2, 3])
    assert rows.streaming().before_Q.tolist() == rows.time_N.tolist()
    assert rows.frozen(2 * DAY).before_Q.tolist() == [2 * DAY + 1] * 3
    assert rows.between(DAY, 2 * DAY).id_N.tolist() == [1]
    assert rows.validation_cut(3 * DAY, share=0.67) == 2 * DAY


def test_fields_are_read_by_type() -> None:
    records = [
        {
            "genres": "Drama, War" if row % 2 else "Comedy",
            "words": f"a{row % 30} b{row % 7} c{row % 11}",
            "title": f"Film {row} ({1900 + row})",
            "free": f"text {row}",
            "skills": ["x", "y"] if row else None,
            "price": float(row) if row else None,
            "open": row == 1,
        }
        for row in range(200)
    ]
    fields = Fields.of(pa.chunked_array([pa.array(records)]))
    assert {name: len(values.names) for name, values in fields.values.items()} == {
        "genres": 3,
        "words": 48,
        "skills": 2,
    }
    assert fields.values["genres"].names == ["Comedy", "Drama", "War"]
    assert fields.numbers["title_year"][:2].tolist() == [1900, 1901]
    assert np.isnan(fields.numbers["price"][0])
    assert fields.numbers["open"][:3].tolist() == [0, 1, 0]
    assert set(fields.numbers) == {"title_year", "price", "open"}


def test_pairs_lists_the_values_of_each_owner() -> None:
    values = FieldValues(owner_V=np.array([0, 0, 2]), code_V=np.array([5, 6, 7]), names=[""] * 8)
    query_V, code_V = values.pairs(np.array([2, 1, 0, 2]))
    assert (query_V.tolist(), code_V.tolist()) == ([0, 2, 2, 3], [7, 5, 6, 7])
