"""The synthetic economic graph: reproducible, with true probabilities, and as hard as docs/synthetic.md says."""

import dataclasses
import re
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from brew_data.oracle import true_probabilities
from brew_data.schema import Tables
from brew_data.sources.synthetic.config import SURFACES, SyntheticConfig, benchmark_start
from brew_data.sources.synthetic.generator import generate
from brew_data.sources.synthetic.reachability import measure
from brew_platform.errors import UserError

SMALL = SyntheticConfig(members=60, jobs=80, posts=80, interactions_per_member=30.0)


@pytest.fixture(scope="module")
def tables() -> Tables:
    return generate(SyntheticConfig())


@pytest.fixture(scope="module")
def reaches(tables: Tables) -> list:
    return measure(tables, benchmark_start(SyntheticConfig()))


def test_the_same_seed_gives_the_same_tables():
    first, second = generate(SMALL), generate(SMALL)
    for name in ["members", "entities", "interactions", "oracle"]:
        assert getattr(first, name).equals(getattr(second, name))


def test_another_seed_gives_other_tables():
    other = generate(SyntheticConfig(members=60, jobs=80, posts=80, interactions_per_member=30.0, seed=1))
    for name in ["members", "entities", "interactions"]:
        assert not getattr(generate(SMALL), name).equals(getattr(other, name))


def test_a_graph_of_one_is_a_graph():
    tables = generate(SyntheticConfig(members=1, jobs=1, posts=1, interactions_per_member=5.0))
    assert tables.interactions.num_rows <= len(SURFACES)  # no member sees an entity twice on a surface


def test_default_size_is_minutes_of_training(tables: Tables):
    assert 110_000 <= tables.interactions.num_rows <= 130_000
    by_member = tables.interactions.group_by("member_id").aggregate([("entity_id", "count")])["entity_id_count"]
    assert pc.max(by_member).as_py() > 5 * pc.mean(by_member).as_py()  # heavy-tailed activity


def test_profiles_and_fields_are_strings_null_where_absent(tables: Tables):
    for kind in [tables.members.schema.field("profile").type, tables.entities.schema.field("fields").type]:
        assert all(child.type == pa.string() for child in kind)
    entities = tables.entities.to_pylist()
    job, post = entities[0], entities[-1]
    assert (job["entity_type"], post["entity_type"]) == ("job", "post")
    assert {name for name, value in job["fields"].items() if value} == {
        "title", "seniority", "industry", "company", "location", "skills", "applicants",
    }  # fmt: skip
    assert {name for name, value in post["fields"].items() if value} == {
        "industry", "topic", "format", "author", "followers", "text",
    }  # fmt: skip


def test_actions_and_types_are_those_of_the_surface(tables: Tables):
    kind = tables.entities.select(["entity_id", "entity_type"])
    rows = tables.interactions.join(kind, "entity_id")
    seen = set(zip(*(rows[c].to_pylist() for c in ["surface", "entity_type", "action"]), strict=True))
    assert seen == {(s.name, s.entity_type, action) for s in SURFACES for action in (s.positive, s.negative)}


def test_nothing_is_shown_before_it_exists_and_nothing_twice(tables: Tables):
    created = tables.entities.select(["entity_id", "created_at"])
    rows = tables.interactions.join(created, "entity_id")
    assert pc.all(pc.less(rows["created_at"], rows["timestamp"])).as_py()
    keys = tables.interactions.group_by(["member_id", "entity_id", "surface"]).aggregate([])
    assert keys.num_rows == tables.interactions.num_rows


def test_the_log_spans_the_months_in_order(tables: Tables):
    times = tables.interactions["timestamp"]
    start = benchmark_start(SyntheticConfig())
    assert times[0].as_py() >= start - timedelta(days=150)
    assert times[-1].as_py() < start + timedelta(days=30)
    assert tables.interactions["interaction_id"].to_pylist() == list(range(len(times)))


def test_the_benchmark_month_has_cold_start_members_and_new_entities(tables: Tables):
    late = pc.greater_equal(tables.interactions["timestamp"], pa.scalar(benchmark_start(SyntheticConfig())))
    before, after = tables.interactions.filter(pc.invert(late)), tables.interactions.filter(late)
    for key, least in [("member_id", 50), ("entity_id", 200)]:
        assert len(set(after[key].to_pylist()) - set(before[key].to_pylist())) >= least


def test_privacy_has_something_to_remove(tables: Tables):
    assert 0.005 < pc.mean(pc.cast(tables.members["opted_out"], pa.float64())).as_py() < 0.05
    texts = [row["text"] or "" for row in tables.entities["fields"].to_pylist()]
    texts += [row["title"] for row in tables.members["profile"].to_pylist()]
    marked = [text for text in texts if "@example.com" in text or "555-01" in text]
    assert 1 <= len(marked) < 0.02 * len(texts)


def test_the_oracle_is_calibrated(tables: Tables):
    config = SyntheticConfig()
    for surface in SURFACES:
        of_task = tables.interactions.filter(pc.equal(tables.interactions["surface"], surface.name))
        truth = true_probabilities(tables.oracle, of_task["interaction_id"].to_numpy(), [surface.positive])
        positive = pc.equal(of_task["action"], surface.positive).to_numpy(zero_copy_only=False)
        assert truth.mean() == pytest.approx(getattr(config, surface.rate), abs=1e-6)
        assert positive.mean() == pytest.approx(truth.mean(), abs=0.01)
        high = truth > 0.7
        assert positive[high].mean() == pytest.approx(truth[high].mean(), abs=0.02)


def test_the_oracle_is_in_no_other_table(tables: Tables):
    truth = {str(value) for value in tables.oracle["probability"].to_pylist()}
    for table in [tables.members, tables.entities, tables.interactions]:
        assert not any(pa.types.is_floating(column.type) for column in table.flatten().columns)
        for column in table.flatten().columns:
            assert truth.isdisjoint(column.cast(pa.string()).unique().to_pylist())


def test_difficulty_is_realistic(reaches: list):
    assert [reach.task for reach in reaches] == ["job_apply", "post_like", "post_open"]
    for reach in reaches:
        assert reach.rows > 5_000
        assert 0.58 <= reach.popularity_auc <= 0.68
        assert 0.75 <= reach.oracle_auc <= 0.88


def test_most_of_the_truth_can_be_read_from_text_and_history_matters(reaches: list):
    for reach in reaches:
        assert reach.share(reach.history_auc) >= 0.8
        assert 0.4 <= reach.share(reach.profile_auc) <= reach.share(reach.history_auc) - 0.1


def test_measuring_without_an_oracle_is_refused_with_the_remedy(tables: Tables):
    bare = Tables(members=tables.members, entities=tables.entities, interactions=tables.interactions)
    with pytest.raises(UserError, match=r"have no oracle, .* Use generate\(config\)\."):
        measure(bare, benchmark_start(SyntheticConfig()))


@pytest.mark.parametrize(
    ("setting", "text"),
    [
        ({"members": 0}, "members is 0; give an integer, at least 1."),
        ({"months": 1}, "months is 1; give an integer, at least 2 and at most 1,200."),
        ({"like_rate": 1.0}, "like_rate is 1.0; give a finite number, more than 0 and less than 1."),
        ({"interest_share": 0.9}, "interest_share is 0.9 and related_share is 0.3, but together they are at most 1."),
    ],
)
def test_a_setting_out_of_range_is_named_with_the_remedy(setting: dict, text: str):
    with pytest.raises(UserError) as caught:
        SyntheticConfig(**setting)
    assert text in str(caught.value)


def test_action_noise_is_that_of_a_coin_with_the_true_probability(tables: Tables):
    actions = [s.positive for s in SURFACES]
    positive = np.isin(tables.interactions["action"].to_numpy(), actions)
    truth = true_probabilities(tables.oracle, tables.interactions["interaction_id"].to_numpy(), actions)
    surprise = np.mean((positive - truth) ** 2) / np.mean(truth * (1 - truth))
    assert surprise == pytest.approx(1.0, abs=0.02)


def test_the_page_gives_the_defaults():
    page = (Path(__file__).parents[4] / "docs" / "synthetic.md").read_text()
    written = dict(re.findall(r"^\| `(\w+)` \| ([\d.,]+) \|", page, flags=re.MULTILINE))
    defaults = {field.name: field.default for field in dataclasses.fields(SyntheticConfig)}
    assert {name: float(value.replace(",", "")) for name, value in written.items()} == defaults
