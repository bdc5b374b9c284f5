"""Settings keep the characters that were written, and YAML that is ambiguous or dangerous is refused."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from brew_platform.config import load_config
from brew_platform.errors import ConfigError
from brew_platform.settings import NonNegativeInt, Settings
from brew_platform.yaml_files import parse_yaml, read_yaml


@dataclass(kw_only=True)
class Texts(Settings):
    label: str = ""
    alias: str | None = None
    names: list[str] = field(default_factory=list)
    values: dict[str, dict[str, str]] = field(default_factory=dict)
    number: NonNegativeInt = 0
    flag: bool = False


@pytest.mark.parametrize(
    "written",
    [
        "yes",
        "010",
        "12:30",
        "off",
        "1e3",
        "3.0",
        "0x1F",
        "0o17",
        "1_000",
        "True",
        ".inf",
        "2024-01-01",
        "1:30.5",
        "007",
    ],
)
def test_a_text_field_keeps_the_characters_that_were_written(written: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(
        f"label: {written}\nalias: {written}\nnames: [{written}]\nvalues: {{{written}: {{{written}: {written}}}}}\n"
    )
    from_file = load_config(Texts, path)
    assert (from_file.label, from_file.alias, from_file.names) == (written, written, [written])
    assert from_file.values == {written: {written: written}}
    overridden = load_config(
        Texts, overrides=[f"label={written}", f"names=[{written}]", f"values.x={{{written}: {written}}}"]
    )
    assert (overridden.label, overridden.names, overridden.values) == (written, [written], {"x": {written: written}})


def test_numbers_and_truth_values_are_read_as_before(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("number: 10\nflag: yes\nalias: null\nlabel: '010'\n")
    loaded = load_config(Texts, tmp_path / "recipe.yaml", overrides=["number=0x10"])
    assert loaded == Texts(number=16, flag=True, alias=None, label="010")
    assert parse_yaml("{n: 10, f: yes, a: null, t: '010', id: 12345e67}") == {
        "n": 10, "f": True, "a": None, "t": "010", "id": "12345e67",
    }  # fmt: skip


def test_a_section_of_a_recipe_keeps_the_characters_of_its_texts(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("texts: {label: 010, number: 010, names: [yes]}\nother: 1\n")
    loaded = load_config(Texts, read_yaml(tmp_path / "recipe.yaml")["texts"], key="texts")
    assert loaded == Texts(label="010", number=8, names=["yes"])


@pytest.mark.parametrize(
    "text",
    [
        "label: a\nlabel: b\n",
        "values: {x: {5: a, 5: b}}\n",
        "values: {x: {5: a, '5': b}}\n",
        "values: {yes: {}, yes: {}}\n",
        "names: &n [a]\nvalues: {x: {a: b, a: c}}\n",
    ],
)
def test_a_key_that_occurs_twice_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"recipe\.yaml is not valid YAML \(.* the key \w+ occurs twice .*line \d"):
        load_config(Texts, tmp_path / "recipe.yaml")
    with pytest.raises(ValueError, match="occurs twice"):
        parse_yaml(text)


def test_merge_keys_and_a_byte_order_mark_are_read(tmp_path: Path) -> None:
    text = "values:\n  a: &base {x: yes, y: 010}\n  b: {<<: *base, y: 1e3}\n"
    (tmp_path / "recipe.yaml").write_text(text, encoding="utf-8-sig")
    loaded = load_config(Texts, tmp_path / "recipe.yaml")
    assert loaded.values == {"a": {"x": "yes", "y": "010"}, "b": {"x": "yes", "y": "1e3"}}


@pytest.mark.parametrize("text", ["number: " + "9" * 5_000, "names: " + "[" * 3_000, "names: &a [*a]", "label: !!x y"])
def test_yaml_that_cannot_be_read_is_one_sentence(text: str, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(text)
    with pytest.raises(ConfigError, match="is not valid YAML"):
        load_config(Texts, tmp_path / "recipe.yaml")
    with pytest.raises(ConfigError, match="is not valid YAML"):
        load_config(Texts, overrides=[text.replace(": ", "=")])


@pytest.mark.parametrize("text", ["names: " + "[" * 100_000, "- " * 100_000, "names: " + "{a: " * 100_000])
def test_deep_yaml_does_not_end_the_process(text: str, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(text)
    with pytest.raises(ConfigError, match="more than 500 maps and lists inside each other"):
        load_config(Texts, tmp_path / "recipe.yaml")
    with pytest.raises(ValueError, match="inside each other"):
        parse_yaml(text)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("label=fixed #42", "has a #, which begins a comment in YAML. Put the value in quotes"),
        ("label=#42", "has a #, which begins a comment"),
        ("label=null", "label=None in the override 'label=null' has the wrong type: label must be str"),
        ("names=[a, ~]", "names[1]=None"),
        ("label=[remote]", "label=['remote']"),
        ("label=a: b", "label={'a': 'b'}"),
        ("label=@x", "put plain text in quotes"),
        ("values={x: {a: b, a: c}}", "is not valid YAML (the key a occurs twice)"),
        ("number=" + "9" * 400, "number is 999"),
    ],
)
def test_a_text_that_yaml_would_change_is_refused(override: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(Texts, overrides=[override])
    assert words in str(caught.value)


def test_quotes_keep_a_text_as_it_is() -> None:
    loaded = load_config(Texts, overrides=["label='fixed #42'", 'alias="null"', "names=['[remote]', a#b]"])
    assert loaded == Texts(label="fixed #42", alias="null", names=["[remote]", "a#b"])
