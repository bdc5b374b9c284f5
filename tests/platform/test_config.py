"""Configuration: merging, and the messages of errors."""

from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

import pytest

from brew_platform.config import config_digest, load_config
from brew_platform.errors import ConfigError


class Kind(Enum):
    DENSE = 1
    MOE = 2


@dataclass(frozen=True, kw_only=True)
class Task:
    name: str
    weight: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Model:
    layers: int = 2
    kind: Kind = Kind.DENSE


@dataclass(frozen=True, kw_only=True)
class Recipe:
    out: Path
    model: Model = field(default_factory=Model)
    tasks: list[Task] = field(default_factory=list)
    by_name: dict[str, Task] = field(default_factory=dict)
    teacher: Model | None = None
    steps: int | None = None
    words: tuple[str, ...] = ("yes", "no")

    def __post_init__(self) -> None:
        if self.steps == 0:
            raise ConfigError("steps=0 trains nothing: give at least 1.")


TASKS = [{"name": "jobs"}, {"name": "posts", "weight": 2}]


def load(*sources: Any, overrides: list[str] | None = None) -> Recipe:
    return load_config(Recipe, {"out": "runs/a"}, *sources, overrides=overrides or [])


def test_later_sources_win_and_overrides_win_over_all(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("model: {layers: 4, kind: MOE}\nsteps: 10\n")
    loaded = load(recipe, {"steps": 20}, overrides=["model.layers=8", "teacher.layers=16"])
    model = Model(layers=8, kind=Kind.MOE)
    assert loaded == Recipe(out=Path("runs/a"), model=model, steps=20, teacher=Model(layers=16))
    assert load(str(recipe)).steps == 10


def test_lists_of_dataclasses_are_real_and_their_elements_can_be_overridden() -> None:
    loaded = load(
        {"tasks": TASKS}, overrides=["tasks[0].weight=3", "tasks.1.name=articles", "words=[a, b]", "steps=null"]
    )
    assert loaded.tasks == [Task(name="jobs", weight=3.0), Task(name="articles", weight=2.0)]
    assert list(loaded.words) == ["a", "b"]
    assert loaded.steps is None


def test_an_empty_file_changes_nothing_and_interpolation_works(tmp_path: Path) -> None:
    (tmp_path / "empty.yaml").write_text("")
    assert load(tmp_path / "empty.yaml", {"steps": "${model.layers}"}).steps == 2


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ({"modle": {}}, "unknown key modle in the settings. Did you mean model? Known keys: out, model, tasks"),
        ({"model": {"layer": 1}}, "unknown key model.layer in the settings. Did you mean model.layers?"),
        (
            {"tasks": [{"name": "a"}, {"wieght": 1}]},
            "unknown key tasks[1].wieght in the settings. Did you mean tasks",
        ),
        ({"tasks": [{"name": "a"}, {"wieght": 1}]}, "Did you mean tasks[1].weight? Known keys: name, weight."),
        ({"by_name": {"jobs": {"nam": "x"}}}, "unknown key by_name.jobs.nam in the settings."),
        (
            {"model": {"layers": "many"}},
            "model.layers='many' in the settings has the wrong type: model.layers ",
        ),
        ({"model": {"layers": "many"}}, "must be int, but is a str. Set a value of that type."),
        ({"model": {"layers": None}}, "model.layers must be int, but is a NoneType"),
        ({"model": {"kind": "SPARSE"}}, "model.kind must be one of DENSE, MOE, but is a str"),
        (
            {"model": 3},
            "model=3 in the settings has the wrong type: model must be settings (layers, kind), but is a int",
        ),
        ({"tasks": {"name": "a"}}, "tasks must be a list of Task, but is a dict"),
        ({"tasks": ["a"]}, "tasks[0]='a' in the settings has the wrong type: tasks[0] must be settings (name, weight)"),
        ({"tasks": [{"name": "a", "weight": "x"}]}, "tasks[0].weight='x'"),
        ({"steps": [1]}, "steps must be int or null, but is a list"),
        ({"teacher": {"layers": 1.5}}, "teacher.layers=1.5"),
        ({"words": [["a"]]}, "words[0]=['a']"),
        ({"words": [True]}, "words[0]=True in the settings has the wrong type: words[0] must be str, but is a bool"),
        ({"by_name": {"jobs": {"name": 7}}}, "by_name.jobs.name must be str, but is a int. Put the text in quotes."),
        ({"steps": "${nowhere}"}, "steps: Interpolation key 'nowhere' not found. Write the value itself there."),
    ],
)
def test_a_merge_error_names_key_value_and_remedy(source: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(source)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("model.layers", "the override 'model.layers' is not of the form key=value. Write for example model.layers=2."),
        ("=3", "is not of the form key=value"),
        ("model..layers=3", "is not of the form key=value"),
        ("model.layers=[1", "the value of the override 'model.layers=[1' is not valid YAML (did not find"),
        ("tasks[7].weight=1", "names element '7' of a list of 2 elements (0 is the first). Use an index that exists"),
        ("model.layrs=3", "unknown key model.layrs in the override 'model.layrs=3'. Did you mean model.layers?"),
        ("model.layers.x=3", "model.layers={'x': 3} in the override 'model.layers.x=3' has the wrong type"),
    ],
)
def test_a_wrong_override_is_named_with_the_correct_form(override: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load({"tasks": TASKS}, overrides=[override])
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"model: {layers: [", "is not valid YAML ("),
        (b"steps: 1\nsteps: 2\n", "is not valid YAML ("),
        (b"- 1\n- 2\n", "contains a list, but settings are `key: value` lines. Write a key before each value."),
        (b"3\n", "it contains no settings. Pass the path of a readable YAML file"),
        (b"out: \xff\n", "is not UTF-8 text"),
        (None, "No such file or directory. Pass the path of a readable YAML file"),
    ],
)
def test_a_wrong_file_is_named_with_the_remedy(tmp_path: Path, content: bytes | None, words: str) -> None:
    path = tmp_path / "recipe.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert words in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_missing_value_says_how_to_give_it() -> None:
    with pytest.raises(
        ConfigError, match=r"^out has no value and no default\. Set it in the recipe, or as out=VALUE\.$"
    ):
        load_config(Recipe)


def test_an_owners_own_check_comes_out_unchanged() -> None:
    with pytest.raises(ConfigError, match=r"^steps=0 trains nothing"):
        load(overrides=["steps=0"])


def test_the_digest_depends_on_the_settings_only() -> None:
    digest = config_digest(load())
    assert digest == config_digest(load(overrides=["model.layers=2"]))
    assert digest != config_digest(load(overrides=["model.layers=3"]))
    assert config_digest({"b": 1, "a": [1.5]}) == config_digest({"a": [1.5], "b": 1})
    assert len(digest) == 64
    with pytest.raises(ConfigError, match=r"this configuration has no digest: .* Use numbers, strings, lists and maps"):
        config_digest({"rate": float("nan")})
    with pytest.raises(ConfigError, match="a set has no canonical form"):
        config_digest({"names": {"a"}})


@dataclass(frozen=True, kw_only=True)
class Origin:
    from_: str | None = None  # the key is a Python keyword
    size: int = 1


@dataclass(frozen=True, kw_only=True)
class Import:
    origin: Origin = field(default_factory=Origin)
    others: list[Origin] = field(default_factory=list)
    named: dict[str, Origin] = field(default_factory=dict)


def test_a_field_whose_key_is_a_keyword_is_written_without_its_underscore(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("origin: {from: a}\nothers: [{from: b}]\nnamed: {x: {from: c}}\n")
    loaded = load_config(Import, recipe, overrides=["origin.size=2", "others[0].from=d"])
    assert loaded == Import(
        origin=Origin(from_="a", size=2), others=[Origin(from_="d")], named={"x": Origin(from_="c")}
    )
    assert load_config(Import, overrides=["origin.from=e"]).origin == Origin(from_="e")
    assert config_digest(Origin(from_="a")) == config_digest({"from": "a", "size": 1})


@pytest.mark.parametrize("key", ["from_", "frm"])
def test_the_field_name_of_a_keyword_key_is_unknown(key: str) -> None:
    with pytest.raises(
        ConfigError, match=rf"unknown key origin\.{key} in .*Did you mean origin\.from\? Known keys: from, size"
    ):
        load_config(Import, {"origin": {key: "a"}})


def test_a_section_of_the_wrong_type_names_its_keys() -> None:
    with pytest.raises(ConfigError, match=r"origin must be settings \(from, size\)"):
        load_config(Import, {"origin": 3})
