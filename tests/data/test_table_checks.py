"""Tables are compared with the suite before anything is compiled."""

from collections.abc import Callable
from dataclasses import replace

import pyarrow as pa
import pytest

from brew_data.prompts.suite import TaskSuite, load_suite
from brew_data.schema import Tables
from brew_data.sources.synthetic.config import SyntheticConfig
from brew_data.sources.synthetic.generator import generate
from brew_data.table_checks import check_tables, null_shares


@pytest.fixture(scope="module")
def tables() -> Tables:
    return generate(SyntheticConfig(members=20, jobs=20, posts=20, interactions_per_member=20.0))


@pytest.fixture(scope="module")
def suite() -> TaskSuite:
    return load_suite("economic_graph")


def column(table: pa.Table, name: str, change: Callable[[str], str]) -> pa.Table:
    values = pa.array([change(value) for value in table[name].to_pylist()])
    return table.set_column(table.column_names.index(name), name, values)


def messages(tables: Tables, suite: TaskSuite) -> list[str]:
    return [problem.message for problem in check_tables(tables, suite) if problem.is_error]


def test_tables_of_the_suite_have_no_errors(tables: Tables, suite: TaskSuite) -> None:
    assert messages(tables, suite) == []


def test_unknown_surfaces_and_actions_are_counted(tables: Tables, suite: TaskSuite) -> None:
    rows = column(tables.interactions, "action", lambda action: "aply" if action == "apply" else action)
    rows = column(rows, "surface", lambda surface: "feeds" if surface == "feed" else surface)
    problems = [p for p in check_tables(replace(tables, interactions=rows), suite) if p.is_error]
    assert {p.message for p in problems} == {
        "action 'aply' is unknown on surface 'jobs'. Did you mean 'apply'?",
        "surface 'feeds' is not in suite economic_graph. Did you mean 'feed'?",
    }
    assert sum(p.count or 0 for p in problems) == sum(
        row["action"] == "aply" or row["surface"] == "feeds" for row in rows.to_pylist()
    )


def test_ids_that_are_contacts_and_broken_texts_are_warnings(tables: Tables, suite: TaskSuite) -> None:
    members = column(tables.members, "member_id", lambda id_: f"{id_}@example.com" if id_.endswith("1") else id_)
    rows = column(tables.interactions, "member_id", lambda id_: f"{id_}@example.com" if id_.endswith("1") else id_)
    titles = [row | {"title": "caf\ufffd"} if i < 3 else row for i, row in enumerate(members["profile"].to_pylist())]
    members = members.set_column(members.column_names.index("profile"), "profile", pa.array(titles))
    changed = replace(tables, members=members, interactions=rows)
    found = {p.message[:23]: p.count for p in check_tables(changed, suite) if p.table == "members" and not p.is_error}
    assert found == {"member_id has an @: an ": 2, "the field 'title' has t": 3}
    assert not [p for p in check_tables(tables, suite) if p.table in ("members", "entities") and "@" in p.message]


def test_repeated_interactions_are_a_warning(tables: Tables, suite: TaskSuite) -> None:
    rows = tables.interactions
    first = rows.slice(0, 2)
    ids = pa.array([10**9, 10**9 + 1])
    first = first.set_column(first.column_names.index("interaction_id"), "interaction_id", ids)
    again = pa.concat_tables([rows, first]).sort_by("timestamp")
    [problem] = [
        p for p in check_tables(replace(tables, interactions=again), suite) if "repeat an earlier" in p.message
    ]
    assert (problem.count, problem.is_error) == (2, False)


def test_types_without_a_template_and_entities_of_another_type(tables: Tables, suite: TaskSuite) -> None:
    entities = column(tables.entities, "entity_type", lambda kind: "advert" if kind == "job" else kind)
    assert any(
        "entity_type 'advert' has no template" in text for text in messages(replace(tables, entities=entities), suite)
    )
    swapped = column(tables.entities, "entity_type", lambda kind: "post")
    [problem] = [p for p in check_tables(replace(tables, entities=swapped), suite) if "another type" in p.message]
    assert "surface 'jobs' shows entities of type 'job'" in problem.message
    assert problem.count == tables.interactions["surface"].to_pylist().count("jobs")


def test_fields_that_the_suite_shows_and_the_tables_lack(tables: Tables, suite: TaskSuite) -> None:
    misspelt = replace(suite, profile=replace(suite.profile, fields=[*suite.profile.fields, "localtion"]))
    [message] = messages(tables, misspelt)
    assert "uses the field 'localtion' in the profile, which the members lack" in message
    unused = replace(
        suite,
        profile=replace(suite.profile, fields=["localtion"], phrases=["in {{ localtion }}"]),
        surfaces=[replace(surface, question=[]) for surface in suite.surfaces],
    )
    assert any("Did you mean 'location'?" in message for message in messages(tables, unused))


def test_shares_of_absent_values(tables: Tables, suite: TaskSuite) -> None:
    profiles = [{"industry": "health" if i else None, "title": "", "location": None} for i in range(20)]
    members = tables.members.set_column(tables.members.column_names.index("profile"), "profile", pa.array(profiles))
    shares = null_shares(replace(tables, members=members))
    assert shares["members.industry"] == pytest.approx(0.05)
    assert shares["members.title"] == shares["members.location"] == 1.0
    warnings = [p.message for p in check_tables(replace(tables, members=members), suite) if not p.is_error]
    assert "the field 'title' of the profile is absent in 100% of the rows." in warnings
