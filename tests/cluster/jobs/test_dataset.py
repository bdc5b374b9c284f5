"""The configuration, the folder and the check of a data set."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml

from brew_cluster.jobs.build_inputs import BuildInputs
from brew_cluster.jobs.dataset import phase_names
from brew_cluster.jobs.dataset_card import dataset_card, read_card, write_card
from brew_cluster.jobs.dataset_check import check_dataset
from brew_cluster.jobs.dataset_config import DatasetConfig, load_dataset_config
from brew_cluster.jobs.demo_config import DemoConfig, load_recipe
from brew_cluster.jobs.recipe import RECIPES
from brew_cluster.jobs.tables_state import TablesState
from brew_data.data_folder import InputFile
from brew_data.packed_bins.plan import BinsPlan
from brew_data.prompts.tokenizer import train_tokenizer
from brew_data.schema import read_tables
from brew_data.sources.quarantine import Quarantine
from brew_data.sources.synthetic.config import SyntheticConfig
from brew_data.split import Split
from brew_data.table_writer import WrittenTables
from brew_platform.errors import ConfigError, DataError, UserError

SMALL = [
    "source_config.members=100", "source_config.jobs=30", "source_config.posts=30",
    "source_config.interactions_per_member=20", "pairs=0",
]  # fmt: skip


def test_the_source_decides_the_type_of_its_settings() -> None:
    config = load_dataset_config("synthetic", ["source_config.members=7", "tokenizer.vocabulary_size=900"])
    assert isinstance(config.source_config, SyntheticConfig)
    assert config.source_config.members == 7
    assert config.tokenizer.vocabulary_size == 900
    with pytest.raises(ConfigError, match=r"Did you mean source_config\.members"):
        load_dataset_config("synthetic", ["source_config.membres=7"])
    with pytest.raises(ConfigError, match=r"was renamed: write tokenizer\.vocabulary_size"):
        load_dataset_config("synthetic", ["vocabulary_size=7"])


@pytest.mark.parametrize("recipe", sorted(RECIPES.glob("data_*.yaml")), ids=lambda path: path.stem)
def test_every_built_in_recipe_loads(recipe: Path) -> None:
    assert load_dataset_config(recipe.stem.removeprefix("data_")).source


@pytest.mark.parametrize("source", ["synthetic", "movielens"])
def test_the_recipes_of_demo_and_data_describe_the_same_data(source: str) -> None:
    demo, data = load_recipe(source, []), load_dataset_config(source)
    assert isinstance(demo, DemoConfig)
    for name in ("source", "source_config", "suite", "split", "prompt", "tokenizer"):
        assert getattr(demo, name) == getattr(data, name)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("split: {train_share: 0.8}\n", "has no source"),
        ("- a\n", "contains a list"),
        ("source: mars\n", "source 'mars' is unknown"),
        ("source: tables\nsuite: movielens\n", "source_config"),
        ("source: synthetic\nsplit: {last_days: 3}\nprompt: {context_length: 512}\npairs: -1\n", "pairs is -1"),
        (
            "source: synthetic\nsplit: {last_days: 3}\nprompt: {context_length: 512}\n"
            "corpora: {bins: {sources: {x: {kind: profiles}}}}\n",
            "corpora has a corpus 'bins', but a data set has a folder of that name",
        ),
        (
            "source: synthetic\nsplit: {last_days: 3}\nprompt: {context_length: 512}\nquarantine: {max_share: 2}\n",
            "quarantine.max_share is 2.0; give a finite number, at least 0 and at most 1",
        ),
    ],
)
def test_a_recipe_that_cannot_work_is_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(text)
    with pytest.raises(UserError, match=message):
        load_dataset_config(str(tmp_path / "recipe.yaml"))


def test_the_corpora_of_the_documentation_load(tmp_path: Path) -> None:
    text = (Path(__file__).parents[3] / "docs" / "corpora.md").read_text()
    [example] = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    recipe = "source: synthetic\nsplit: {last_days: 3}\nprompt: {context_length: 512}\n"
    (tmp_path / "recipe.yaml").write_text(recipe + example)
    config = load_dataset_config(str(tmp_path / "recipe.yaml"))
    assert list(config.corpora) == ["cpt", "instructions"]
    assert config.corpora["cpt"].tokens == 20_000_000
    assert config.corpora["cpt"].sources["entities"].strata_power == 0.5
    assert phase_names(config)[3:6] == ["evaluation", "cpt", "instructions"]
    check = check_dataset(load_dataset_config(str(tmp_path / "recipe.yaml"), SMALL))
    assert any("neither a .jsonl or .parquet file of conversations" in problem.message for problem in check.errors)


def test_what_is_known_of_written_tables_is_restored(tmp_path: Path) -> None:
    assert TablesState.read(tmp_path) is None
    quarantine = Quarantine()
    quarantine.count_rows("interactions", 5)
    for line in (1, 2):
        quarantine.add("interactions", file="a.csv", line=line, reason="bad", detail="x", values={})
    written = WrittenTables(rows={"members": 2}, shards=4, earliest=None, latest=9)
    split = Split(train_until=3, until=9, gap=1)
    inputs = BuildInputs(source=[InputFile(file="a.csv", sha256="5" * 64)], others={"the suite": "6" * 64})
    state = TablesState(
        inputs=inputs, written=written, split=split, quarantine=quarantine, removed={"a.b": {"links": 2}}
    )
    state.write(tmp_path)
    found = TablesState.read(tmp_path)
    assert found is not None
    assert found.inputs == inputs
    assert (found.written, found.split, found.removed) == (written, split, {"a.b": {"links": 2}})
    assert found.quarantine.counts() == quarantine.counts()
    assert (found.quarantine.examples, found.quarantine.rows) == (quarantine.examples, quarantine.rows)


def test_the_check_collects_problems_of_every_kind() -> None:
    config = load_dataset_config("synthetic", [*SMALL, "split.last_days=4000", "tokenizer.from=/nowhere"])
    check = check_dataset(config)
    assert [problem.table for problem in check.errors] == ["tokenizer", "split"]
    with pytest.raises(DataError, match="`brew360 data validate` lists 1 more"):
        check.require_good()
    few = check_dataset(load_dataset_config("synthetic", [*SMALL, "pairs=5000"]))
    assert any("pairs is 5,000, but the training rows allow about" in problem.message for problem in few.errors)
    tiny = check_dataset(load_dataset_config("synthetic", [*SMALL, "source_config.members=2"]))
    assert any("are held out for evaluation" in problem.message for problem in tiny.errors)


def test_a_base_with_a_smaller_context_is_refused(tmp_path: Path) -> None:
    train_tokenizer(["a b"], vocabulary_size=262).save(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "max_position_embeddings": 256}))
    check = check_dataset(load_dataset_config("synthetic", [*SMALL, f"tokenizer.from={tmp_path}"]))
    assert any("reads at most 256 tokens, but prompt.context_length is 512" in p.message for p in check.errors)


def test_the_card_describes_the_data(tmp_path: Path, write_bins: Callable[..., Path]) -> None:
    config: DatasetConfig = load_dataset_config("synthetic", [*SMALL, "source_config.pii_share=0.5"])
    check = check_dataset(config, tables_folder=tmp_path / "tables")
    check.require_good()
    tables = read_tables(tmp_path / "tables")
    assert check.suite is not None
    assert check.split is not None
    check.quarantine.add("interactions", file="a.csv", line=3, reason="a | b", values={})
    plan = BinsPlan.load(write_bins(tmp_path / "bins"))
    source = {"tokens": 10, "share": 1.0, "documents": 2, "tokens_available": 5, "repeats": 2.0}
    mix = {"tokens": 10, "sources": {"chats": source}, "quarantined": {"chats": {"there is no answer": 3}}}
    (tmp_path / "bins" / "mix.json").write_text(json.dumps(mix))
    card = dataset_card(
        config, tmp_path, inputs=[InputFile(file="a|b\n.csv", sha256="a" * 64)], suite=check.suite, split=check.split,
        quarantine=check.quarantine, removed=check.removed, prompt_digest="d", plans={"bins": plan},
        seconds={"tables": 1.234},
    )  # fmt: skip
    write_card(card, tmp_path)
    assert read_card(tmp_path) == card
    rows = tables.interactions.to_pylist()
    assert card["rows"] == len(rows)
    task = card["tasks"]["job_apply"]
    assert task["training_rows"] + task["benchmark_rows"] == sum(row["surface"] == "jobs" for row in rows)
    assert 0 < task["training_positive_rate"] < 1
    assert card["actions"]["jobs"]["apply"] == sum(row["action"] == "apply" for row in rows)
    assert card["config"]["source_config"]["members"] == 100
    assert (task["in_training"], task["history"]) == (True, "chronological")
    times = sorted(row["timestamp"] for row in rows)
    assert card["time_range"] == [time.replace(microsecond=0).isoformat() for time in (times[0], times[-1])]
    assert card["members_opted_out"] == len(check.opted_out) > 0
    assert sum(card["entities"].values()) == tables.entities.num_rows
    assert card["bins"]["bins"]["n_documents"] == 48
    assert card["bins"]["bins"]["documents"]["tokens"]["quantiles"]["100%"] < 16
    text = (tmp_path / "card.md").read_text()
    assert "| a\\|b\\n.csv | aaaa" in text
    plots = re.findall(r"!\[.*?\]\((plots/.*?)\)", text)
    assert plots == [f"plots/{name}.svg" for name in ("actions", "tokens", "bins-tokens", "bins-loss-tokens")]
    for plot in plots:
        assert ElementTree.parse(tmp_path / plot).getroot().tag.endswith("svg")
    assert "| interactions | a \\| b | 1 |" in text
    assert card["mix"] == {"bins": mix}
    assert "| bins | chats | 10 | 100.0% | 2 | 5 | 2.00 |" in text
    assert "| bins/chats | there is no answer | 3 |" in text
    removed = card["removed"]
    assert set(removed) == {"members", "interactions", "members.title", "entities.text"}
    assert 30 < sum(removed["members.title"].values()) < 70
    assert f"| members.title | e-mail addresses | {removed['members.title']['e-mail addresses']} |" in text
    assert "example.com" not in str(tables.members.to_pylist())
    assert yaml.safe_load(json.dumps(card)) == card


@pytest.mark.parametrize(
    ("text", "words"), [("[]", "reads 2 only"), ("{", "cannot be read"), ('{"format_version": 1}', "reads 2 only")]
)
def test_a_card_of_another_kind_is_refused(text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"card\.json cannot be read .*Build the data again"):
        read_card(tmp_path)
    (tmp_path / "card.json").write_text(text)
    with pytest.raises(DataError, match=words):
        read_card(tmp_path)
