"""Templates: what they can do, and that every mistake is found when the suite is loaded."""

import pickle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2.sandbox import ImmutableSandboxedEnvironment

from brew_data.prompts.phrases import Phrase, check_literal
from brew_data.prompts.questions import Question
from brew_data.prompts.suite import SUITES, TaskSuite, load_suite
from brew_data.prompts.templates import RecordTemplate
from brew_platform.errors import ConfigError

SUITE = """
name: mine
format_version: 3
profile:
  fields: [title, industry]
  phrases: ["{{ title }}"]
entities:
  job:
    fields: [title, location]
    phrases: [PHRASE]
surfaces:
  - name: jobs
    entity_type: job
    question: [QUESTION]
    actions: [{name: apply, label: apply}, {name: skip, label: skip}]
"""
TASK = """
name: job_apply
surface: jobs
instruction: INSTRUCTION
positive: [apply]
history: {surfaces: [jobs]}
"""


def write_suite(
    folder: Path,
    phrase: str = '"{{ title }}"',
    question: str = "job",
    instruction: str = "Predict.",
    history: str = "{surfaces: [jobs]}",
) -> Path:
    (folder / "tasks").mkdir(parents=True, exist_ok=True)
    (folder / "suite.yaml").write_text(SUITE.replace("PHRASE", phrase).replace("QUESTION", question))
    (folder / "tasks" / "a.yaml").write_text(
        TASK.replace("INSTRUCTION", instruction).replace("{surfaces: [jobs]}", history)
    )
    return folder


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{{ titel }}", "suite mine, entities.job, phrase 1, .* uses the field 'titel', .* Did you mean title?"),
        ("{{ industry }}", "uses the field 'industry', which is not declared"),
        ("{title", "has a lone brace. Write fields with two braces, {{ title }}"),
        ("{titel}", "has a lone brace. Write fields with two braces, {{ titel }}"),
        ("in {location}", "has a lone brace"),
        ("title}", "has a lone brace"),
        ("{{ title }", "is not a valid Jinja2 template"),
        ("{{ title", "is not a valid Jinja2 template"),
        ("{% if title %}", "is not a valid Jinja2 template"),
        ("{{ title | nope }}", "No filter named 'nope'.*The filters are lines, lower"),
        ("{{ title | lines(3) }}", "cannot be rendered"),
        ("{{ title is even }}", "No test named 'even'"),
        ("{{ title.__class__ }}", "uses Getattr, which templates may not"),
        ("{{ title * 999999999 }}", "uses Mul, which templates may not"),
        ("{% for x in title %}{{ x }}{% endfor %}", "uses For, which templates may not"),
        ("{% include 'x' %}", "uses Include, which templates may not"),
        ("{{ range(9) }}", "uses Call, which templates may not"),
        ("{% set x = 1 %}a", "uses Assign, which templates may not"),
        ("", "renders blank text"),
        ("  ", "renders blank text"),
        ("{# title #}", "renders blank text"),
        ("{% if title %} {% endif %}", "renders blank text"),
    ],
)
def test_a_malformed_phrase_is_refused_when_the_suite_is_loaded(tmp_path: Path, source: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_suite(write_suite(tmp_path, phrase=repr(source) if "'" not in source else f'"{source}"'))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"question": '"job for {{ industy }}"'}, "surfaces.jobs, question 1, .* 'industy', .* Did you mean industry?"),
        ({"question": '"job for {industry}"'}, "surfaces.jobs, question 1, .* has a lone brace"),
        ({"question": '"{{ entity }} or {{ entity }}"'}, "must show {{ entity }} once"),
        ({"question": '"{{ entity | upper }}"'}, "must show {{ entity }} once, and without a filter"),
        ({"question": '"{% if title %}{{ entity }}{% endif %}"'}, "must show {{ entity }} outside of conditions"),
        ({"instruction": '"One of {{ label }}."'}, "tasks.job_apply.instruction, .* 'label', .* Did you mean labels?"),
        ({"instruction": '"One of {labels}."'}, "tasks.job_apply.instruction, .* has a lone brace"),
        ({"instruction": '" "'}, "tasks.job_apply.instruction, .* renders blank text"),
        (
            {"history": "{surfaces: [jobs], hop: 16}"},
            r"history.hop in .* was renamed: write history.hop_tokens \(counted",
        ),
    ],
)
def test_a_malformed_question_instruction_or_history_is_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        load_suite(write_suite(tmp_path, **changes))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            '    phrases: ["{{ title }}"]',
            '    phrases: ["{{ title }}"]\n    start: "[{title}: "',
            "entities.job, start is",
        ),
        (
            '    phrases: ["{{ title }}"]',
            '    phrases: ["{{ title }}"]\n    end: "{{ title }}]"',
            "entities.job, end is",
        ),
        (
            '  phrases: ["{{ title }}"]',
            '  phrases: ["{{ title }}"]\n  separator: "{% if x %}"',
            "profile, separator is",
        ),
        ("label: apply", 'label: "{applied}"', "surfaces.jobs, label of apply is .* so {applied} would not become"),
    ],
)
def test_a_field_in_text_that_is_not_a_template_is_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = write_suite(tmp_path) / "suite.yaml"
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(ConfigError, match=message):
        load_suite(tmp_path)


@pytest.mark.parametrize("text", ["[", "{", "}", "{ }", "(100%)", "a}b{c"])
def test_other_braces_are_text(text: str) -> None:
    check_literal(text, "end")


def test_an_entity_without_phrases_is_refused_and_a_profile_may_have_none(tmp_path: Path) -> None:
    folder = write_suite(tmp_path, phrase="")
    with pytest.raises(ConfigError, match="entities.job has no phrases"):
        load_suite(folder)
    text = (write_suite(tmp_path) / "suite.yaml").read_text()
    empty = text.replace('fields: [title, industry]\n  phrases: ["{{ title }}"]', "fields: []\n  phrases: []")
    (tmp_path / "suite.yaml").write_text(empty)
    assert load_suite(tmp_path).profile_text({"title": "nurse"}) == ""


@pytest.mark.parametrize("version", ["format_version: 2\n", ""])
def test_an_old_suite_is_refused_with_the_new_form(tmp_path: Path, version: str) -> None:
    (tmp_path / "suite.yaml").write_text(
        f'name: old\n{version}profile: ["{{title}}"]\nentities: {{job: ["{{title}}"]}}\nsurfaces: []\n'
    )
    with pytest.raises(
        ConfigError, match=r"suite old has .*format_version.*\{\{ title \}\} instead of \{title\}.*hop_tokens"
    ):
        load_suite(tmp_path)


@pytest.mark.parametrize("written", ["yes", "off", "010", "12:30", "1.50", "2024-01-01", "0x1F", "5"])
@pytest.mark.parametrize("quote", ["", '"'])
def test_a_label_keeps_its_characters_with_and_without_quotes(tmp_path: Path, written: str, quote: str) -> None:
    folder = write_suite(tmp_path)
    text = (folder / "suite.yaml").read_text()
    (folder / "suite.yaml").write_text(text.replace("label: skip", f"label: {quote}{written}{quote}"))
    assert load_suite(folder).surfaces[0].actions[1].label == written


def test_a_key_that_occurs_twice_in_a_suite_is_refused(tmp_path: Path) -> None:
    folder = write_suite(tmp_path)
    with (folder / "suite.yaml").open("a") as file:
        file.write("name: other\n")
    with pytest.raises(ConfigError, match="the key name occurs twice"):
        load_suite(folder)


def test_conditions_and_filters_render_as_jinja2_does() -> None:
    def text(source: str, **values: str) -> str | None:
        return Phrase(source, ["title", "skills"], "p").render(values)

    assert text("{{ title }}{% if skills %}: {{ skills }}{% endif %}", title="nurse") == "nurse"
    assert text("{{ title }}{% if skills %}: {{ skills }}{% endif %}", title="nurse", skills="care") == "nurse: care"
    assert text("{{ 'chief' if title == 'cto' else title }}", title="cto") == "chief"
    assert text("{{ skills | lines }}", skills="care, law") == "care\nlaw"
    assert text("{{ title | upper }} {{ title | capitalize }}", title="nurse") == "NURSE Nurse"
    assert text("{% if title == 'x' %}yes{% endif %}", title="nurse") is None
    assert text("{{ title | upper }}") is None
    assert text("{{ title }} {{ skills }}", title="nurse") is None
    assert text('{{ "{" }}{{ title }}', title="nurse") == "{nurse"


@given(st.lists(st.sampled_from(["{{ title }}", "{{skills}}", "{{- title -}}", " in ", "\n", "é", "]"]), min_size=1))
def test_plain_phrases_render_as_jinja2_does(parts: list[str]) -> None:
    source = "".join(parts)
    values = {"title": "nurse {{ x }}", "skills": "<b>"}
    expected = ImmutableSandboxedEnvironment(keep_trailing_newline=True).from_string(source).render(values)
    assert Phrase(source, ["title", "skills"], "p").render(values) == expected


def test_the_entity_stands_where_the_question_places_it() -> None:
    assert Question("Rating of {{ entity }}?", ["age"], "q").render({}) == ("Rating of ", "?")
    assert Question("movie", ["age"], "q").render({}) == ("movie\n", "")
    assert Question("aged {{ age }}: {{entity}}", ["age"], "q").render({}) is None


@pytest.mark.parametrize("name", sorted(path.name for path in SUITES.iterdir()))
def test_shipped_suites_load_can_be_pickled_and_survive_to_dict(name: str) -> None:
    suite = load_suite(name)
    assert TaskSuite.from_dict(suite.to_dict()) == suite
    assert pickle.loads(pickle.dumps(suite)) == suite
    for task in suite.tasks:
        assert suite.instruction(task)
    for entity_type, template in suite.entities.items():
        assert template.shown <= set(template.fields)
        assert suite.entity_text(entity_type, {}) == ""


def test_a_record_without_fields_has_no_text() -> None:
    template = RecordTemplate(fields=["a"], phrases=["A: {{ a }}"], start="[", end="]")
    assert (template.render({}), template.render({"a": "x"})) == ("", "[A: x]")
