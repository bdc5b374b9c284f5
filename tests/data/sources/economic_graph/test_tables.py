"""The tables of the graph: valid, the same for a seed, and with all that filters and tasks need."""

import dataclasses
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from brew_data.prompts.suite import load_suite
from brew_data.schema import TABLES, Tables
from brew_data.sources.economic_graph import tables as tables_module
from brew_data.sources.economic_graph.config import EconomicGraphConfig
from brew_data.sources.economic_graph.facts import ENTITY_TYPES
from brew_data.sources.economic_graph.source import EconomicGraph
from brew_data.sources.economic_graph.surfaces import SURFACES
from brew_data.sources.economic_graph.tables import generate, planted_contacts
from brew_data.sources.economic_graph.world import World
from brew_data.table_checks import check_tables
from brew_platform.errors import UserError

TINY = EconomicGraphConfig(members=20, months=3, interactions_per_member=20.0)


def test_a_seed_gives_one_graph() -> None:
    first, again = generate(TINY), EconomicGraph(config=TINY).read()
    other = generate(EconomicGraphConfig(members=20, months=3, interactions_per_member=20.0, seed=1))
    for name in TABLES:
        assert getattr(first, name).equals(getattr(again, name))
        assert not getattr(first, name).equals(getattr(other, name))


def test_batches_of_any_size_are_the_rows_of_the_tables(
    tables: Tables, config: EconomicGraphConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables_module, "_INTERACTION_ROWS", 1_000)
    monkeypatch.setattr(tables_module, "_NETWORK_ROWS", 100)
    parts: dict[str, list[pa.Table]] = {}
    for name, rows in EconomicGraph(config=config).batches():
        parts.setdefault(name, []).append(rows)
    assert set(parts) == set(TABLES)
    assert all(len(parts[name]) > 10 for name in ("interactions", "oracle", "connections"))
    for name, rows in parts.items():
        assert pa.concat_tables(rows).equals(getattr(tables, name))


def test_tables_have_what_the_suite_needs(tables: Tables) -> None:
    problems = check_tables(tables, load_suite("professional_network"))
    assert [problem for problem in problems if problem.is_error] == []
    assert set(tables.entities["entity_type"].unique().to_pylist()) == set(ENTITY_TYPES)
    seen = set(zip(*(tables.interactions[name].to_pylist() for name in ("surface", "action")), strict=True))
    assert seen == {(surface.name, action.name) for surface in SURFACES for action in surface.actions}


def test_the_oracle_has_every_action_of_every_interaction(tables: Tables) -> None:
    assert tables.oracle is not None
    totals = tables.oracle.group_by("interaction_id").aggregate([("probability", "sum"), ("action", "count")])
    assert totals.num_rows == tables.interactions.num_rows
    assert totals["probability_sum"].to_numpy() == pytest.approx(1)
    joined = tables.interactions.join(totals, "interaction_id")
    for surface in SURFACES:
        counts = joined.filter(pc.equal(joined["surface"], surface.name))["action_count"]
        assert set(counts.to_pylist()) == {len(surface.actions)}


def test_the_author_is_in_fields_of_their_own(tables: Tables) -> None:
    names = {}
    for row in tables.entities.to_pylist():
        if row["author_id"] is not None:
            [field] = {"author", "sender", "name"} & {name for name, value in row["fields"].items() if value}
            name = row["fields"][field].split(",")[0]
            assert names.setdefault(row["author_id"], name) == name  # one name for one member
            others = [value for key, value in row["fields"].items() if key != field and isinstance(value, str)]
            assert not any(name in text for text in others)
    assert len(names) > 50


def test_planted_contacts_are_where_the_truth_says(tables: Tables, world: World) -> None:
    truth = planted_contacts(world).to_pylist()
    assert {row["table"] for row in truth} == {"members", "entities"}
    profiles = dict(zip(tables.members["member_id"].to_pylist(), tables.members["profile"].to_pylist(), strict=True))
    fields = dict(zip(tables.entities["entity_id"].to_pylist(), tables.entities["fields"].to_pylist(), strict=True))
    for row in truth:
        text = (profiles if row["table"] == "members" else fields)[row["row_id"]][row["field"]]
        assert 0 <= row["start"] < row["end"] <= len(text)
        assert text[row["start"] : row["end"]].strip() == text[row["start"] : row["end"]]


def test_members_who_opted_out_are_in_all_tables(tables: Tables) -> None:
    out = tables.members.filter(tables.members["opted_out"])["member_id"]
    assert 5 <= len(out) <= 40
    for table, column in [("interactions", "member_id"), ("entities", "author_id"), ("connections", "other_id")]:
        assert pc.any(pc.is_in(getattr(tables, table)[column], value_set=out.combine_chunks())).as_py()


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ({"members": 3}, "members is 3; give an integer, at least 20."),
        ({"months": 2}, "months is 2"),
        ({"interest_share": 0.9}, "are together 1.25, but are at most 1"),
    ],
)
def test_a_setting_out_of_range_is_refused(setting: dict, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        EconomicGraphConfig(**setting)


def test_the_page_gives_the_defaults() -> None:
    page = (Path(__file__).parents[4] / "docs" / "economic_graph.md").read_text()
    written = dict(re.findall(r"^\| `(\w+)` \| ([\d.,]+) \|", page, flags=re.MULTILINE))
    defaults = {field.name: field.default for field in dataclasses.fields(EconomicGraphConfig)}
    assert {name: float(value.replace(",", "")) for name, value in written.items()} == defaults
