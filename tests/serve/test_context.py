"""The member context gives back what the tables hold, and only that."""

from pathlib import Path

import pyarrow as pa
import pytest

from brew_data.compiler import Entity, Past
from brew_data.tables import Tables
from brew_platform.errors import UserError
from brew_serve.context import MemberContext, UnknownId


@pytest.fixture
def context(tables: Tables, tmp_path: Path) -> MemberContext:
    MemberContext.build(tables, tmp_path / "context.sqlite")
    assert [path.name for path in tmp_path.iterdir()] == ["context.sqlite"]
    context = MemberContext(tmp_path / "context.sqlite")
    yield context
    context.close()


def test_a_member_has_their_profile_and_history_in_order(context: MemberContext, history: list[Past]) -> None:
    profile, past = context.member("ada")
    assert profile == {"title": "engineer", "location": "berlin"}
    assert past == history


def test_an_entity_has_its_type_and_the_fields_that_are_not_null(context: MemberContext) -> None:
    assert context.entity("e0") == Entity(entity_type="job", fields={"title": "data engineer", "company": "acme"})
    assert context.entity("e1") == Entity(entity_type="post", fields={"topic": "nurse"})


def test_a_member_who_opted_out_is_unknown_like_one_who_never_was(context: MemberContext) -> None:
    for member in ["gone", "nobody", "' OR 1=1 --"]:
        with pytest.raises(UnknownId, match="is unknown here, or has opted out"):
            context.member(member)


def test_an_unknown_entity_is_refused(context: MemberContext) -> None:
    with pytest.raises(UnknownId, match="candidate 'e99' is unknown here"):
        context.entity("e99")


def test_it_is_read_only(context: MemberContext) -> None:
    with pytest.raises(Exception, match="readonly"):
        context._db.execute("DELETE FROM members")


def test_building_again_replaces_it(context: MemberContext, tables: Tables, tmp_path: Path) -> None:
    fewer = Tables(members=tables.members.slice(0, 1), entities=tables.entities, interactions=tables.interactions[:0])
    MemberContext.build(fewer, tmp_path / "context.sqlite")
    replaced = MemberContext(tmp_path / "context.sqlite")
    assert replaced.member("ada")[1] == []
    replaced.close()


def test_what_is_no_context_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist: build the member context first"):
        MemberContext(tmp_path / "missing.sqlite")
    (tmp_path / "other.sqlite").write_bytes(pa.py_buffer(b"not a database at all" * 99).to_pybytes())
    with pytest.raises(UserError, match="is no member context"):
        MemberContext(tmp_path / "other.sqlite")
