"""Tables are written as prompts show them: as text without contacts, and the rows that had contacts are counted."""

from datetime import date

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from brew_data.privacy.redaction import EMAIL, LINK, PHONE
from brew_data.prompts.fields import field_values
from brew_data.records import Records
from brew_data.schema import INTERACTIONS, TIMESTAMP, Tables
from brew_data.sources.synthetic.config import SyntheticConfig
from brew_data.sources.synthetic.generator import generate
from brew_data.sources.synthetic.vocabulary import CONTACTS
from brew_data.table_cleaning import clean_tables


def make_tables(profiles: pa.Array) -> Tables:
    """Members with these profiles, and no entity."""
    count = len(profiles)
    return Tables(
        members=pa.table(
            {
                "member_id": pa.array([f"m{i}" for i in range(count)], pa.string()),
                "profile": profiles,
                "locale": pa.array(["en"] * count, pa.string()),
                "opted_out": pa.array([False] * count, pa.bool_()),
            }
        ),
        entities=pa.table(
            {
                "entity_id": pa.array([], pa.string()),
                "entity_type": pa.array([], pa.string()),
                "created_at": pa.array([], TIMESTAMP),
                "fields": pa.array([], pa.struct([])),
            }
        ),
        interactions=pa.Table.from_pylist([], pa.schema(INTERACTIONS)),
    )


def test_contacts_are_removed_and_counted_by_field_and_kind() -> None:
    profiles = pa.array(
        [
            {"title": "nurse  mail ana@example.com", "about": "law"},
            {"title": "nurse  mail ana@example.com", "about": "b@c.de and +1 202-555-0142"},
            {"title": "a@b.com", "about": "see linkedin.com/in/a"},
            {"title": None, "about": " "},
        ]
    )
    tables, counts = clean_tables(make_tables(profiles))
    assert tables.members["profile"].to_pylist() == [
        {"title": "nurse mail", "about": "law"},
        {"title": "nurse mail", "about": "and"},
        {"title": None, "about": "see"},
        {"title": None, "about": None},
    ]
    assert counts == {"members.title": {EMAIL: 3}, "members.about": {EMAIL: 1, PHONE: 1, LINK: 1}}


def test_values_of_other_types_become_text() -> None:
    kinds = {
        "n": pa.float64(), "tags": pa.list_(pa.string()), "on": pa.bool_(), "day": pa.date32(), "c": pa.large_string(),
    }  # fmt: skip
    row = {"n": 3.0, "tags": ["a", "x@y.zz", None, "b"], "on": True, "day": date(2024, 5, 1), "c": "red"}
    columns = {name: pa.array([row[name], None], kind) for name, kind in kinds.items()}
    columns["c"] = columns["c"].dictionary_encode()
    profiles = pa.StructArray.from_arrays(list(columns.values()), names=list(columns))
    tables, counts = clean_tables(make_tables(profiles))
    first, second = tables.members["profile"].to_pylist()
    assert first == {"n": "3", "tags": "a, b", "on": "yes", "day": "2024-05-01", "c": "red"}
    assert set(second.values()) == {None}
    assert counts == {"members.tags": {EMAIL: 1}}


TEXTS = st.sampled_from([*CONTACTS, "x, a@b.cc, y", "call +1 202 555", "0142"])
VALUES = st.one_of(st.none(), st.text(max_size=12), TEXTS)


@given(st.lists(st.one_of(VALUES, st.lists(VALUES, max_size=3)), min_size=1, max_size=6))
@settings(max_examples=40, deadline=None)
def test_a_record_of_the_tables_gives_the_prompt_of_a_request(values: list) -> None:
    texts = [value for value in values if not isinstance(value, list)]
    lists = [value for value in values if isinstance(value, list)]
    for column, kind in ((texts, pa.string()), (lists, pa.list_(pa.string()))):
        profiles = pa.array([{"x": value} for value in column], pa.struct([("x", kind)]))
        tables, _ = clean_tables(make_tables(profiles))
        read = Records(tables).profiles
        assert [read[f"m{i}"] for i in range(len(column))] == [field_values({"x": value}) for value in column]


def test_every_contact_of_the_synthetic_graph_is_removed_and_nothing_else() -> None:
    config = SyntheticConfig(members=400, jobs=10, posts=400, interactions_per_member=1.0, pii_share=0.3)
    planted = generate(config)
    tables, counts = clean_tables(planted)
    for table, column, field in (("members", "profile", "title"), ("entities", "fields", "text")):
        before = [row[field] for row in getattr(planted, table)[column].to_pylist()]
        after = [row[field] for row in getattr(tables, table)[column].to_pylist()]
        with_contact = [text is not None and text.endswith(CONTACTS) for text in before]
        assert sum(counts[f"{table}.{field}"].values()) == sum(with_contact) > 50
        for old, new, had_contact in zip(before, after, with_contact, strict=True):
            if had_contact:
                assert old.startswith(new)
                assert "example.com" not in new
                assert "555" not in new
            else:
                assert new == old
    assert set(counts) == {"members.title", "entities.text"}
    assert clean_tables(tables) == (tables, {})
