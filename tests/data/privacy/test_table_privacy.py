"""Tables are written as prompts show them: as text without identifiers, without members who opted out, by pseudonym."""

from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brew_data.privacy.config import PrivacyConfig
from brew_data.privacy.detector import EMAIL, LINK, PHONE
from brew_data.privacy.pseudonyms import PseudonymConfig, Pseudonyms
from brew_data.privacy.table_privacy import PrivacyStage, make_private
from brew_data.prompts.fields import field_values
from brew_data.records import Records
from brew_data.schema import INTERACTIONS, TABLES, TIMESTAMP, Tables
from brew_data.sources.synthetic.config import SyntheticConfig
from brew_data.sources.synthetic.generator import generate
from brew_data.sources.synthetic.vocabulary import CONTACTS
from brew_platform.errors import DataError, UserError

KEY = "0123456789abcdef" * 2


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


def clean(tables: Tables) -> tuple[Tables, dict[str, dict[str, int]]]:
    return make_private(tables, PrivacyConfig())


def network() -> Tables:
    """Members ann, bob (opted out) and cid; a post and a person card of each; interactions and connections of all."""
    people = ["ann", "bob", "cid"]
    interactions = [
        {"member_id": member, "entity_id": entity, "surface": "s", "action": "a"}
        for member in people
        for entity in ("post-ann", "post-bob", "card-1", "card-2")
    ]
    count = len(interactions)
    return Tables(
        members=pa.table(
            {
                "member_id": people,
                "profile": [{"title": f"headline of {name}"} for name in people],
                "locale": ["en"] * 3,
                "opted_out": [False, True, False],
            }
        ),
        entities=pa.table(
            {
                "entity_id": ["post-ann", "post-bob", "card-1", "card-2", "job"],
                "entity_type": ["post", "post", "person", "person", "job"],
                "created_at": pa.array([0] * 5, TIMESTAMP),
                "fields": [
                    {"author": "Ann Lee", "text": "Bob Ray wrote this"},
                    {"author": "Bob Ray", "text": "by bob ray, a Bobcat"},
                    {"author": None, "text": "headline of ann"},
                    {"author": None, "text": "headline of bob"},
                    {"author": None, "text": "nurse"},
                ],
                "author_id": ["ann", "bob", "ann", "bob", None],
            }
        ),
        interactions=pa.table(
            {
                "interaction_id": pa.array(range(count), pa.int64()),
                **{
                    name: [row[name] for row in interactions]
                    for name in ("member_id", "entity_id", "surface", "action")
                },
                "timestamp": pa.array(range(count), TIMESTAMP),
            }
        ).select(list(INTERACTIONS)),
        oracle=pa.table(
            {
                "interaction_id": pa.array(range(count), pa.int64()),
                "action": ["a"] * count,
                "probability": [0.5] * count,
            }
        ),
        connections=pa.table(
            {
                "member_id": ["ann", "bob", "cid", "ann"],
                "other_id": ["bob", "cid", "bob", "cid"],
                "kind": ["follow"] * 4,
                "timestamp": pa.array([0] * 4, TIMESTAMP),
            }
        ),
    )


def test_identifiers_are_removed_and_counted_by_field_and_kind() -> None:
    profiles = pa.array(
        [
            {"title": "nurse  mail ana@example.com", "about": "law"},
            {"title": "nurse  mail ana@example.com", "about": "b@c.de and +1 202-555-0142"},
            {"title": "a@b.com", "about": "see linkedin.com/in/a"},
            {"title": None, "about": " "},
        ]
    )
    tables, counts = clean(make_tables(profiles))
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
    tables, counts = clean(make_tables(profiles))
    first, second = tables.members["profile"].to_pylist()
    assert first == {"n": "3", "tags": "a, b", "on": "yes", "day": "2024-05-01", "c": "red"}
    assert set(second.values()) == {None}
    assert counts == {"members.tags": {EMAIL: 1}}


TEXTS = st.sampled_from([*CONTACTS, "x, a@b.cc, y", "call +1 202 555", "0142", "12 Oak", "Street"])
VALUES = st.one_of(st.none(), st.text(max_size=12), TEXTS)


@given(st.lists(st.one_of(VALUES, st.lists(VALUES, max_size=3)), min_size=1, max_size=6))
@settings(max_examples=40, deadline=None)
def test_a_record_of_the_tables_gives_the_prompt_of_a_request(values: list) -> None:
    texts = [value for value in values if not isinstance(value, list)]
    lists = [value for value in values if isinstance(value, list)]
    for column, kind in ((texts, pa.string()), (lists, pa.list_(pa.string()))):
        profiles = pa.array([{"x": value} for value in column], pa.struct([("x", kind)]))
        tables, _ = clean(make_tables(profiles))
        read = Records(tables).profiles
        assert [read[f"m{i}"] for i in range(len(column))] == [field_values({"x": value}) for value in column]


def test_every_contact_of_the_synthetic_graph_is_removed_and_nothing_else() -> None:
    config = SyntheticConfig(members=400, jobs=10, posts=400, interactions_per_member=1.0, pii_share=0.3)
    planted = generate(config)
    tables, counts = clean(planted)
    members = planted.members.filter(pc.invert(planted.members["opted_out"]))
    for table, rows, column, field in (
        ("members", members, "profile", "title"),
        ("entities", planted.entities, "fields", "text"),
    ):
        before = [row[field] for row in rows[column].to_pylist()]
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
    assert {place for place in counts if "." in place} == {"members.title", "entities.text"}
    assert clean(tables) == (tables, {})


def test_members_who_opted_out_are_gone_from_all_tables() -> None:
    tables, counts = clean(network())
    assert tables.members["member_id"].to_pylist() == ["ann", "cid"]
    assert tables.entities.select(["entity_id", "author_id", "fields"]).to_pylist() == [
        {"entity_id": "post-ann", "author_id": "ann", "fields": {"author": "Ann Lee", "text": "Bob Ray wrote this"}},
        {"entity_id": "post-bob", "author_id": None, "fields": {"author": None, "text": "by , a Bobcat"}},
        {"entity_id": "card-1", "author_id": "ann", "fields": {"author": None, "text": "headline of ann"}},
        {"entity_id": "job", "author_id": None, "fields": {"author": None, "text": "nurse"}},
    ]
    pairs = [(row["member_id"], row["entity_id"]) for row in tables.interactions.to_pylist()]
    assert pairs == [(member, entity) for member in ("ann", "cid") for entity in ("post-ann", "post-bob", "card-1")]
    assert tables.oracle is not None
    assert tables.oracle["interaction_id"].to_pylist() == tables.interactions["interaction_id"].to_pylist()
    assert tables.connections is not None
    assert tables.connections.select(["member_id", "other_id"]).to_pylist() == [{"member_id": "ann", "other_id": "cid"}]
    assert counts == {
        "members": {"members who opted out": 1},
        "entities": {"about members who opted out": 1, "authors: members who opted out": 1},
        "interactions": {"of members who opted out": 4, "with entities about members who opted out": 2},
        "connections": {"of members who opted out": 3},
    }


def test_a_list_opts_members_out_and_needs_no_column(tmp_path: Path) -> None:
    path = tmp_path / "out.txt"
    path.write_text("\ufeffcid\n\n unknown \n", encoding="utf-8")
    tables, _ = make_private(network(), PrivacyConfig(opted_out_file=str(path)))
    assert tables.members["member_id"].to_pylist() == ["ann"]
    assert set(tables.interactions["member_id"].to_pylist()) == {"ann"}
    path.write_bytes(b"\xff\xfe\xff")
    with pytest.raises(UserError, match=r"opted_out_file .*out\.txt cannot be read.*one member id per line"):
        make_private(network(), PrivacyConfig(opted_out_file=str(path)))


@given(st.integers(1, 5), st.lists(st.booleans(), min_size=3, max_size=3))
@settings(max_examples=20, deadline=None)
def test_batches_of_any_size_give_the_same_tables_and_counts(size: int, opted_out: list[bool]) -> None:
    tables = network()
    index = tables.members.column_names.index("opted_out")
    changed: dict[str, Any] = tables.present() | {"members": tables.members.set_column(index, "opted_out", [opted_out])}
    whole, whole_counts = make_private(Tables(**changed), PrivacyConfig())
    counts: dict[str, dict[str, int]] = {}
    stage = PrivacyStage(PrivacyConfig(), counts)
    for name in TABLES:
        rows = changed[name]
        parts = [stage.apply(name, rows.slice(start, size)) for start in range(0, rows.num_rows, size)]
        assert pa.concat_tables(parts).to_pylist() == getattr(whole, name).to_pylist()
    assert counts == whole_counts
    gone = {member for member, is_out in zip(["ann", "bob", "cid"], opted_out, strict=True) if is_out}
    assert stage.opted_out == gone
    shown = [value for name in TABLES for row in getattr(whole, name).to_pylist() for value in row.values()]
    assert not gone & {value for value in shown if isinstance(value, str)}
    assert not any(f"headline of {member}" in str(value) for member in gone for value in shown)


def test_member_ids_become_pseudonyms_in_all_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PSEUDONYM_KEY", KEY)
    config = PrivacyConfig(pseudonyms=PseudonymConfig(env="PSEUDONYM_KEY"))
    of = Pseudonyms(KEY.encode()).of
    plain, _ = clean(network())
    tables, counts = make_private(network(), config)
    assert counts == clean(network())[1]
    for name, column in (
        ("members", "member_id"),
        ("entities", "author_id"),
        ("interactions", "member_id"),
        ("connections", "member_id"),
        ("connections", "other_id"),
    ):
        ids = getattr(plain, name)[column].to_pylist()
        assert getattr(tables, name)[column].to_pylist() == [None if id_ is None else of(id_) for id_ in ids]
    stage = PrivacyStage(config, {})
    stage.apply("members", network().members)
    assert stage.opted_out == {"bob", of("bob")}


def test_an_entity_id_with_the_id_of_its_member_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PSEUDONYM_KEY", KEY)
    tables = network()
    ids = pa.array(["post-ann", "post-bob", "card-of-ann", "card-2", "job"])
    stage = PrivacyStage(PrivacyConfig(pseudonyms=PseudonymConfig(env="PSEUDONYM_KEY")), {})
    with pytest.raises(DataError, match="the ids of 1 entities contain the id of the member whom they describe"):
        stage.apply("entities", tables.entities.set_column(0, "entity_id", ids))
