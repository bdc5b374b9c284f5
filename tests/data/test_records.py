"""Records: profiles and entities with the text of their fields."""

from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pytest

from brew_data.prompts.fields import field_values
from brew_data.records import Records, RecordTables
from brew_data.schema import INTERACTIONS, TIMESTAMP, Tables
from brew_platform.errors import DataError


def make_tables(profile: dict[str, Any], fields: dict[str, Any]) -> Tables:
    """One member and one entity, without interactions."""
    return Tables(
        members=pa.table({"member_id": ["ada"], "profile": [profile], "locale": ["en"], "opted_out": [False]}),
        entities=pa.table(
            {
                "entity_id": ["j1"],
                "entity_type": ["job"],
                "created_at": pa.array([datetime(2026, 1, 1, tzinfo=UTC)], TIMESTAMP),
                "fields": [fields],
            }
        ),
        interactions=pa.Table.from_pylist([], pa.schema(INTERACTIONS)),
    )


def test_fields_are_converted_and_absent_ones_left_out() -> None:
    records = Records(
        make_tables(
            {"title": " nurse ", "age": 30.0, "location": "", "score": float("nan")},
            {"title": "welder", "skills": ["steel", None], "remote": True},
        )
    )
    assert records.profiles == {"ada": {"title": "nurse", "age": "30"}}
    assert records.entities["j1"].fields == {"title": "welder", "skills": "steel", "remote": "yes"}
    assert records.entities["j1"].values == records.entities["j1"].fields


@pytest.mark.parametrize(
    ("profile", "fields", "message"),
    [
        (
            {"job": {"title": "x"}},
            {"a": "b"},
            "table members: the field 'job' of profile is of type struct<title: string>, which a prompt",
        ),
        (
            {"a": "b"},
            {"pay": float("inf")},
            "table entities, 'j1': the field 'pay' of fields is inf, which is not a finite",
        ),
    ],
)
def test_a_value_that_a_prompt_cannot_show_is_refused_with_its_row(
    profile: dict[str, Any], fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        Records(make_tables(profile, fields))


def test_records_have_the_texts_of_their_values_and_errors_the_row() -> None:
    fields = [
        {"title": "cook", "pay": 2.0, "tags": ["a", None]},
        {"title": None, "pay": None, "tags": []},
        {"title": "  cook ", "pay": 2.5, "tags": None},
        {"title": "call +49 30 1234567", "pay": float("nan"), "tags": ["b"]},
    ]
    entities = pa.table({"entity_id": ["a", "b", "c", "d"], "entity_type": ["job"] * 4, "fields": fields})
    members = pa.table({"member_id": ["m", "n"], "profile": [{"title": "x"}] * 2, "opted_out": [True, False]})
    records = Records(RecordTables(members, entities))
    assert {id_: entity.values for id_, entity in records.entities.items()} == {
        id_: field_values(values) for id_, values in zip("abcd", fields, strict=True)
    }
    assert records.profiles == {"n": {"title": "x"}}
    wrong = pa.table({"entity_id": ["a", "b", "c"], "entity_type": ["job"] * 3,
                      "fields": [{"pay": None}, {"pay": 1.0}, {"pay": float("inf")}]})  # fmt: skip
    with pytest.raises(DataError, match="table entities, 'c': field 'pay' is inf"):
        Records(RecordTables(members, wrong))


def test_histories_are_grouped_by_member_and_sorted_by_time() -> None:
    entities = pa.table({"entity_id": ["e"], "entity_type": ["job"], "fields": [{"title": "cook"}]})
    members = pa.table(
        {"member_id": ["b", "a", "c"], "profile": [{"title": id_} for id_ in "bac"], "opted_out": [False, False, True]}
    )
    rows = pa.table(
        {
            "interaction_id": [4, 3, 2, 1, 5],
            "member_id": ["b", "a", "b", "a", "c"],
            "entity_id": ["e"] * 5,
            "surface": ["jobs"] * 5,
            "action": ["skip"] * 5,
            "timestamp": pa.array([7, 9, 7, 8, 1], TIMESTAMP),
        }
    )
    found = list(Records(RecordTables(members, entities)).members(rows))
    assert [(member.member_id, member.interaction_ids) for member in found] == [("a", [1, 3]), ("b", [2, 4])]
    assert [past.timestamp for past in found[0].history] == [8, 9]
    assert found[0].profile == {"title": "a"}
    assert list(Records(RecordTables(members, entities)).members(rows.slice(0, 0))) == []
