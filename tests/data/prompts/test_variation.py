"""Variations: they are reproducible, keep all facts, announce their labels, and never reach serving."""

import pickle
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brew_data.prompts.compiler import Document, Entity, PastInteraction, PromptCompiler, PromptFormat
from brew_data.prompts.history import HistoryPolicy
from brew_data.prompts.suite import TaskSuite
from brew_data.prompts.tasks import Action, Outcome, Surface, TaskSpec
from brew_data.prompts.templates import ORDERS, RecordForm, RecordTemplate
from brew_data.prompts.tokenizer import Tokenizer, train_tokenizer
from brew_data.prompts.variation import FIRST, VariationConfig
from brew_platform.errors import ConfigError, UserError

CUTS = [10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0]
PROFILE = RecordTemplate(
    fields=["title", "city", "followers"],
    phrases=["{{ title }}", "in {{ city }}", "{{ followers | percentile }} of followers"],
    any_order=True,
    alternatives=[
        RecordForm(
            phrases=[
                "Works as {{ title }}.",
                "{% if city or followers %}City: {{ city or '-' }}, reach: {{ followers or '-' }}.{% endif %}",
            ],
            start="The member: ",
            separator=" ",
        )
    ],
    quantiles={"followers": CUTS},
)
JOB = RecordTemplate(
    fields=["title", "company", "skills"],
    phrases=["Title: {{ title }}", "Company: {{ company }}", "Skills: {{ skills }}"],
    start="[",
    separator=", ",
    end="]",
    any_order=True,
    alternatives=[
        RecordForm(phrases=["{{ title }}", "at {{ company }}", "{{ skills | lines }}"]),
        RecordForm(phrases=["Skills: {{ skills }}", "Company: {{ company }}", "{{ title | upper }}"], separator="; "),
    ],
)
JOBS = Surface(
    name="jobs",
    entity_type="job",
    question=["Applies? {{ entity }}"],
    question_alternatives=[["job for {{ title }}"], ["Next: {{ entity }} What happens?"]],
    actions=[
        Action(name="apply", label="apply", alternatives=["yes", "like strongly", "1"]),
        Action(name="skip", label="skip", alternatives=["no", "like", "0"]),
    ],
)
PEOPLE = Surface(
    name="people_search",
    entity_type="job",
    question=[],
    actions=[
        Action(name="open", label="open", alternatives=["A"]),
        Action(name="leave", label="leave", alternatives=["B"]),
    ],
)
HISTORY = HistoryPolicy(surfaces=["jobs", "people_search"])
FOLLOWING = TaskSpec(
    name="job_apply",
    surface="jobs",
    instruction="Predict. Answer with: {{ labels }}.",
    instruction_alternatives=["Predict the next action.", "Which one of {{ actions }}?"],
    history=HISTORY,
    positive=["apply"],
)
DERIVED = TaskSpec(
    name="job_ignore",
    surface="jobs",
    instruction="Is it ignored? {{ labels }}",
    history=HISTORY,
    positive=["ignored"],
    question=["Ignored? {{ entity }}"],
    question_alternatives=[["Ignore?"]],
    outcomes=[
        Outcome(name="ignored", label="true", actions=["skip"], alternatives=["si"]),
        Outcome(name="other", label="false", actions=["apply"], alternatives=["non"]),
    ],
)
SUITE = TaskSuite(
    name="varied",
    profile=PROFILE,
    entities={"job": JOB},
    surfaces=[JOBS, PEOPLE],
    tasks=[FOLLOWING, DERIVED],
)
ALWAYS = VariationConfig(share=1.0)
FIELDS = {"title": "nurse", "company": "acme", "skills": "care, law"}
MEMBER = {"title": "welder", "city": "berlin", "followers": 65}


@pytest.fixture(scope="module")
def varied_compiler() -> PromptCompiler:
    texts = ["Title: nurse, Company: acme, Skills: care", "like strongly", "Predict. Answer with: apply, skip."]
    tokenizer = train_tokenizer(texts * 5, vocabulary_size=340)
    return PromptCompiler(SUITE, tokenizer, PromptFormat(context_length=1024, head_tokens=320, question_tokens=200))


def make_history(count: int) -> list[PastInteraction]:
    surfaces = [JOBS, PEOPLE]
    return [
        PastInteraction(
            entity=Entity(entity_type="job", fields=FIELDS | {"title": f"nurse {number}"}),
            surface=surfaces[number % 2].name,
            action=surfaces[number % 2].actions[number % 3 % 2].name,
            timestamp=number,
        )
        for number in range(count)
    ]


def documents(
    compiler: PromptCompiler, config: VariationConfig, *, member: str = "m", count: int = 12, turn_of: int = 0
) -> list[Document]:
    return compiler.documents(MEMBER, make_history(count), turn_of=turn_of, variation=partial(config.draw, member))


@given(st.integers(0, 2**40), st.text(max_size=8), st.integers(0, 30))
@settings(max_examples=10, deadline=None)
def test_the_same_seed_gives_the_same_documents_that_fit_the_context(
    varied_compiler: PromptCompiler, seed: int, member: str, count: int
) -> None:
    config = VariationConfig(seed=seed, share=1.0)
    found = documents(varied_compiler, config, member=member, count=count)
    rebuilt = pickle.loads(pickle.dumps(varied_compiler))  # as in another worker
    documents(rebuilt, VariationConfig(seed=seed + 1, share=1.0), member="other")
    assert documents(rebuilt, config, member=member, count=count) == found
    assert all(len(d.ids) == len(d.roles) <= varied_compiler.format.context_length for d in found)


def test_another_seed_member_or_document_draws_other_forms() -> None:
    keys = [(seed, member, number) for seed in range(3) for member in "ab" for number in range(3)]
    parts = [f"part {i}" for i in range(40)]
    drawn = {
        tuple(VariationConfig(seed=seed, share=1.0).draw(member, number).pick(part, range(5)) for part in parts)
        for seed, member, number in keys
    }
    assert len(drawn) == len(keys)


def test_the_forms_of_a_part_do_not_depend_on_what_was_drawn_before() -> None:
    first, second = ALWAYS.draw("m", 0), ALWAYS.draw("m", 0)
    forward = [first.pick(part, range(100)) for part in "abc"]
    backward = [second.pick(part, range(100)) for part in "cba"]
    assert forward == backward[::-1]


@pytest.mark.parametrize(("share", "least", "most"), [(0.0, 0, 0), (0.5, 400, 600), (1.0, 1000, 1000)])
def test_the_share_of_documents_that_vary(share: float, least: int, most: int) -> None:
    config = VariationConfig(share=share)
    assert least <= sum(config.draw("m", number) is not FIRST for number in range(1000)) <= most


@given(st.integers(0, 2**40), st.text(max_size=8), st.lists(st.integers(), max_size=40), st.floats(0, 1))
def test_a_copy_has_a_part_of_the_history_in_its_order(
    seed: int, member: str, history: list[int], least: float
) -> None:
    config = VariationConfig(seed=seed, copies=3, least_shown=least)
    parts = [config.shown(member, copy, history) for copy in range(3)]
    assert parts[0] == history
    for part in parts:
        left = iter(history)
        assert all(past in left for past in part)  # a subsequence
    assert parts == [config.shown(member, copy, history) for copy in range(3)]


def test_copies_show_between_the_least_share_and_everything() -> None:
    config = VariationConfig(copies=2, least_shown=0.4)
    shares = [len(config.shown(f"m{number}", 1, range(1_000))) / 1_000 for number in range(300)]
    assert 0.35 < min(shares) < 0.45
    assert max(shares) > 0.95
    assert 0.67 < sum(shares) / len(shares) < 0.73
    assert config.shown("m0", 1, range(99)) != config.shown("m0", 2, range(99)) != config.shown("m1", 2, range(99))


@pytest.mark.parametrize("changes", [{"share": -0.1}, {"share": 1.1}, {"seed": -1}, {"copies": 0}, {"least_shown": 2}])
def test_a_setting_out_of_its_range_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(changes))):
        VariationConfig(**changes)


def test_without_a_share_documents_are_those_of_the_first_forms(varied_compiler: PromptCompiler) -> None:
    plain = varied_compiler.documents(MEMBER, make_history(12))
    assert documents(varied_compiler, VariationConfig(share=0.0)) == plain
    assert documents(varied_compiler, ALWAYS) != plain


@given(
    st.integers(0, 2**30),
    st.sets(st.sampled_from(PROFILE.fields)),
    st.sets(st.sampled_from(JOB.fields)),
    st.sampled_from([FOLLOWING, DERIVED]),
)
@settings(max_examples=80, deadline=None)
def test_every_variation_keeps_all_facts(
    varied_compiler: PromptCompiler, seed: int, in_profile: set[str], in_job: set[str], task: TaskSpec
) -> None:
    profile = {name: f"p{PROFILE.fields.index(name)}q" for name in in_profile}
    job = Entity(entity_type="job", fields={name: f"e{JOB.fields.index(name)}q" for name in in_job | {"title"}})

    def facts(compiler: PromptCompiler) -> set[str]:
        ids, cut = compiler.question(task, {}, job)
        head, head_cut = compiler.head(task, profile)
        assert not cut
        assert not head_cut
        text = compiler.tokenizer.decode((*head, *ids)).lower()
        return {value for value in [*profile.values(), *map(str, job.fields.values())] if value in text}

    assert facts(varied_compiler) == {*profile.values(), *job.fields.values()}
    varied = varied_compiler.varied(task, VariationConfig(seed=seed, share=1.0).draw("m", 0))
    assert facts(varied) == facts(varied_compiler)


def without_alternatives(suite: TaskSuite) -> TaskSuite:
    def single(template: RecordTemplate) -> RecordTemplate:
        return replace(template, alternatives=[], any_order=False)

    surfaces = [
        replace(s, question_alternatives=[], actions=[replace(a, alternatives=[]) for a in s.actions])
        for s in suite.surfaces
    ]
    tasks = [
        replace(
            task,
            instruction_alternatives=[],
            question_alternatives=[],
            outcomes=task.outcomes and [replace(outcome, alternatives=[]) for outcome in task.outcomes],
        )
        for task in suite.tasks
    ]
    entities = {name: single(template) for name, template in suite.entities.items()}
    return replace(suite, profile=single(suite.profile), entities=entities, surfaces=surfaces, tasks=tasks)


@given(st.integers(0, 6), st.sampled_from(["job_apply", "job_ignore"]))
@settings(max_examples=15, deadline=None)
def test_serving_uses_the_first_forms(varied_compiler: PromptCompiler, count: int, name: str) -> None:
    plain = PromptCompiler(without_alternatives(SUITE), varied_compiler.tokenizer, varied_compiler.format)
    documents(varied_compiler, ALWAYS)  # leaves nothing behind
    for compiler in (plain, varied_compiler):
        assert compiler.varied(compiler.suite.task(name), FIRST) is compiler
    task, other = varied_compiler.suite.task(name), plain.suite.task(name)
    job = Entity(entity_type="job", fields=FIELDS)
    assert varied_compiler.prefix(task, MEMBER, make_history(count)) == plain.prefix(other, MEMBER, make_history(count))
    assert varied_compiler.question(task, MEMBER, job) == plain.question(other, MEMBER, job)
    assert varied_compiler.labels(task) == plain.labels(other)


@given(st.integers(0, 2**30), st.sampled_from([FOLLOWING, DERIVED]))
@settings(max_examples=60, deadline=None)
def test_every_label_set_can_be_decoded_and_is_announced(
    varied_compiler: PromptCompiler, seed: int, task: TaskSpec
) -> None:
    variation = VariationConfig(seed=seed, share=1.0).draw("m", 0)
    compiler = varied_compiler.varied(task, variation)
    end = compiler.tokenizer.end
    instruction = compiler.suite.instruction(task, variation)
    answers = [ids for action in JOBS.actions for ids in compiler.turn(MEMBER, past("jobs", action.name))[1:2]]
    for labels in (list(compiler.labels(task).values()), answers):
        assert len(set(labels)) == len(labels)
        assert not any(a != b and b[: len(a)] == a for a in labels for b in labels)
        texts = [compiler.tokenizer.decode(id_ for id_ in ids if id_ != end) for ids in labels]
        first = texts in (["apply", "skip"], ["true", "false"])
        assert first or all(text in instruction for text in texts)
    assert list(compiler.labels(task)) == list(varied_compiler.labels(task))


def past(surface: str, action: str) -> PastInteraction:
    return PastInteraction(entity=Entity(entity_type="job", fields=FIELDS), surface=surface, action=action, timestamp=0)


def test_a_label_that_begins_another_ends_in_its_form_only(varied_compiler: PromptCompiler) -> None:
    forms = set()
    for number in range(200):
        compiler = varied_compiler.varied(FOLLOWING, ALWAYS.draw("m", number))
        forms.add(tuple(compiler.tokenizer.decode(ids) for ids in compiler.labels(FOLLOWING).values()))
    assert forms == {("apply", "skip"), ("yes", "no"), ("like strongly<|end|>", "like<|end|>"), ("1", "0")}


def test_actions_of_all_surfaces_are_announced_together(varied_compiler: PromptCompiler) -> None:
    texts = {varied_compiler.suite.instruction(FOLLOWING, ALWAYS.draw("m", number)) for number in range(400)}
    assert "Which one of jobs: apply, skip; people search: open, leave?" in texts
    assert "Which one of jobs: yes, no; people search: A, B?" in texts
    assert "Predict the next action." in texts
    for number in range(200):
        variation = ALWAYS.draw("m", number)
        compiler = varied_compiler.varied(FOLLOWING, variation)
        answer = compiler.tokenizer.decode(compiler.turn(MEMBER, past("people_search", "open"))[1])
        assert answer == "open" or "people search: A, B" in compiler.suite.instruction(FOLLOWING, variation)


def test_all_forms_and_several_orders_are_drawn() -> None:
    drawn = {
        SUITE.entities["job"].form(ALWAYS.draw("m", number), "entities.job").render(FIELDS) for number in range(500)
    }
    orders = {text for text in drawn if text.startswith("[")}
    assert "[Title: nurse, Company: acme, Skills: care, law]" in orders
    assert 2 < len(orders) <= ORDERS
    assert drawn - orders == {
        "nurse\nat acme\ncare\nlaw\n",
        "Skills: care, law; Company: acme; NURSE\n",
    }
    assert JOB.form(FIRST, "entities.job") is JOB


def test_a_question_alternative_without_its_fields_falls_back_to_the_question(varied_compiler: PromptCompiler) -> None:
    texts = set()
    for number in range(100):
        compiler = varied_compiler.varied(FOLLOWING, ALWAYS.draw("m", number))
        texts.add(compiler.tokenizer.decode(compiler.question(JOBS, {}, Entity(entity_type="job", fields={}))[0]))
    assert texts == {"<|user|><|assistant|>"}  # an entity without text has no question that places it
    frames = [
        SUITE.question_frame(JOBS, {}, has_entity=True, variation=ALWAYS.draw("m", number)) for number in range(100)
    ]
    assert set(frames) == {("Applies? ", ""), ("Next: ", " What happens?")}


def test_the_candidate_has_the_question_form_of_past_turns(varied_compiler: PromptCompiler) -> None:
    for number in range(30):
        compiler = varied_compiler.varied(FOLLOWING, ALWAYS.draw("m", number))
        candidate = compiler.question(FOLLOWING, MEMBER, Entity(entity_type="job", fields=FIELDS))[0]
        assert candidate == compiler.turn(MEMBER, past("jobs", "apply"))[0]


def edited(key: str, value: Any) -> TaskSuite:
    """Return the suite with a change to one of its parts."""
    parts: Mapping[str, Any] = {
        "profile": lambda: {"profile": replace(PROFILE, alternatives=value)},
        "job": lambda: {"entities": {"job": replace(JOB, alternatives=value)}},
        "question": lambda: {"surfaces": [replace(JOBS, question_alternatives=value), PEOPLE]},
        "actions": lambda: {"surfaces": [replace(JOBS, actions=value), PEOPLE]},
        "instruction": lambda: {"tasks": [replace(FOLLOWING, instruction_alternatives=value)]},
        "task_question": lambda: {"tasks": [replace(DERIVED, question_alternatives=value)]},
        "own": lambda: {"tasks": [replace(FOLLOWING, question_alternatives=value)]},
    }
    return replace(SUITE, **parts[key]())


ALL = ["{{ title }}", "{{ company }}", "{{ skills }}"]


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("profile", [RecordForm(phrases=["{{ titel }}"])], "profile, alternative 1, phrase 1, .* Did you mean title"),
        (
            "job",
            [RecordForm(phrases=ALL), RecordForm(phrases=["{{ tilte }}"])],
            "entities.job, alternative 2, phrase 1",
        ),
        ("job", [RecordForm(phrases=ALL, start="{{ title }}")], "entities.job, alternative 1, start is"),
        ("question", [["job for {{ ttle }}"]], "surfaces.jobs, question alternative 1, template 1, .* 'ttle'"),
        ("question", [["job"], ["a {title}"]], "question alternative 2, template 1, .* has a lone brace"),
        ("task_question", [["{{ skills }}"]], "tasks.job_ignore, question alternative 1, template 1, .* 'skills'"),
        ("instruction", ["One of {{ label }}."], "tasks.job_apply.instruction alternative 1, .* 'label'"),
        ("instruction", ["Go.", " "], "tasks.job_apply.instruction alternative 2, .* renders blank text"),
        (
            "actions",
            [replace(JOBS.actions[0], alternatives=["{x}"]), replace(JOBS.actions[1], alternatives=["y"])],
            "label of apply is '{x}'",
        ),
        ("own", [["job"]], "question_alternatives of task job_apply need a question of its own"),
    ],
)
def test_a_malformed_alternative_is_refused_when_the_suite_is_loaded(key: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        edited(key, value)


@pytest.mark.parametrize(
    ("phrases", "message"),
    [
        (ALL[:2], "alternative 1 does not show skills if a record has only company, skills, title, but"),
        (
            ["{{ title }} at {{ company }}", "{{ skills }}"],
            "alternative 1 does not show title if a record has only title, but",
        ),
        (["{% if skills %}{{ title }}{% endif %}", *ALL[1:]], "does not show title if a record has only title"),
        ([], "does not show company, skills, title"),
    ],
)
def test_an_alternative_that_loses_a_fact_is_refused(phrases: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        edited("job", [RecordForm(phrases=phrases)])


def test_an_alternative_that_shows_more_than_serving_is_refused() -> None:
    template = replace(JOB, phrases=ALL[:1], alternatives=[RecordForm(phrases=ALL[:2])])
    with pytest.raises(ConfigError, match="alternative 1 shows company, which the phrases of .* do not show"):
        replace(SUITE, entities={"job": template})


@pytest.mark.parametrize(
    ("alternatives", "message"),
    [
        ([["yes"], []], "actions have different numbers of alternatives \\(apply 1, skip 0\\)"),
        ([["yes"], ["yes "]], "different names and labels"),
        ([["yes"], [" "]], "none of them blank"),
    ],
)
def test_incomplete_sets_of_labels_are_refused(alternatives: list[list[str]], message: str) -> None:
    actions = zip(JOBS.actions, alternatives, strict=True)
    with pytest.raises(ConfigError, match=message):
        replace(JOBS, actions=[replace(action, alternatives=texts) for action, texts in actions])


def test_alternatives_are_checked_with_the_tokenizer(varied_compiler: PromptCompiler, tokenizer: Tokenizer) -> None:
    long = edited("instruction", ["word " * 400])
    with pytest.raises(UserError, match="task job_apply: the instruction has .* tokens, but head_tokens"):
        PromptCompiler(long, tokenizer, varied_compiler.format)
    after = edited("question", [["{{ entity }} " + "word " * 200]])
    with pytest.raises(UserError, match="jobs: the text after the entity has .* more than half of question_tokens"):
        PromptCompiler(after, tokenizer, varied_compiler.format)


OLD = {  # as the release before alternatives wrote it
    "name": "old",
    "format_version": 3,
    "profile": {
        "fields": ["title"],
        "phrases": ["{{ title }}"],
        "start": "",
        "separator": "\n",
        "end": "\n",
        "max_tokens": {},
        "cut": "fields",
        "cut_first": [],
    },
    "entities": {},
    "surfaces": [],
    "tasks": [],
}


def test_a_suite_without_alternatives_is_written_as_before() -> None:
    assert TaskSuite.from_dict(OLD).to_dict() == OLD
    plain = without_alternatives(replace(SUITE, profile=replace(PROFILE, quantiles={}))).to_dict()
    text = str(plain)
    assert "alternatives" not in text
    assert "any_order" not in text
    assert "quantiles" not in text
    assert "positives_only" not in text


def test_a_suite_with_alternatives_survives_to_dict_and_can_be_pickled() -> None:
    assert TaskSuite.from_dict(SUITE.to_dict()) == SUITE
    assert SUITE.to_dict()["surfaces"][0]["actions"][0]["alternatives"] == ["yes", "like strongly", "1"]
    PROFILE.form(ALWAYS.draw("m", 1), "profile")
    assert pickle.loads(pickle.dumps(SUITE)) == SUITE
