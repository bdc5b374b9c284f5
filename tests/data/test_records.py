"""Records: profiles and entities with the text of their fields."""

from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pytest

from brew_data.records import Records
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
