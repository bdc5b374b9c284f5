"""Records that exceed their budget lose the ends of fields, and keep their structure; what was cut is counted."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brew_data.prompts.budget import Budget, Cut
from brew_data.prompts.compiler import Entity, PastInteraction, PromptCompiler, PromptFormat
from brew_data.prompts.fields import field_values
from brew_data.prompts.suite import TaskSuite, load_suite
from brew_data.prompts.templates import RecordTemplate
from brew_data.prompts.tokenizer import Tokenizer
from brew_platform.errors import ConfigError, UserError

JOB = RecordTemplate(
    fields=["title", "location", "description"],
    phrases=["Title: {{ title }}", "Location: {{ location }}", "Description: {{ description }}"],
    start="[",
    separator=", ",
    end="]",
)
WORDS = st.text(st.sampled_from("nurse care, lawé😀"), max_size=60)


@pytest.fixture
def budget(tokenizer: Tokenizer) -> Budget:
    return Budget(tokenizer)


def count(tokenizer: Tokenizer, text: str) -> int:
    return len(tokenizer.encode(text))


def test_the_longest_field_is_cut_first_at_a_word(budget: Budget, tokenizer: Tokenizer) -> None:
    values = {"title": "night nurse", "location": "Berlin", "description": "care for people in a large clinic " * 9}
    values = field_values(values)
    full = count(tokenizer, JOB.render(values))
    ids, cut = budget.fit(JOB, values, limit=60)
    text = tokenizer.decode(ids)
    assert text.startswith("[Title: night nurse, Location: Berlin, Description: care for")
    assert text.endswith("]")
    assert values["description"].startswith(text.partition("Description: ")[2][:-1] + " ")
    assert 50 < len(ids) <= 60
    assert cut == Cut(fields=1, tokens=full - len(ids))


def test_declared_fields_are_cut_first_and_the_first_field_last(budget: Budget, tokenizer: Tokenizer) -> None:
    template = replace(JOB, cut_first=["location"])
    values = {"title": "nurse " * 30, "location": "far away " * 5, "description": "care " * 10}
    values = field_values(values)
    limits = range(count(tokenizer, template.render(values)), 20, -1)
    shown = [tokenizer.decode(budget.fit(template, values, limit=limit)[0]) for limit in limits]
    without_location = next(i for i, text in enumerate(shown) if "Location" not in text)
    assert all(values["description"] in text for text in shown[:without_location])
    without_description = next(i for i, text in enumerate(shown) if "Description" not in text)
    assert all(values["title"] in text for text in shown[:without_description])
    assert all(text.startswith("[Title: nurse") and text.endswith("]") for text in shown)


def test_a_field_has_a_budget_of_its_own(budget: Budget, tokenizer: Tokenizer) -> None:
    template = replace(JOB, max_tokens={"description": 7})
    values = {"title": "nurse", "description": "care for people in a large clinic"}
    ids, cut = budget.fit(template, values, limit=500)
    kept = tokenizer.decode(ids).partition("Description: ")[2][:-1]
    assert kept
    assert values["description"].startswith(f"{kept} ")
    assert count(tokenizer, kept) <= 7
    assert cut == Cut(fields=1, tokens=count(tokenizer, JOB.render(values)) - len(ids))
    assert budget.fit(template, {"title": "nurse"}, limit=500)[1] == Cut()


def test_a_word_that_exceeds_its_budget_is_cut_inside(budget: Budget, tokenizer: Tokenizer) -> None:
    ids, cut = budget.fit(replace(JOB, max_tokens={"title": 5}), {"title": "日本語" * 20}, limit=500)
    title = tokenizer.decode(ids).removeprefix("[Title: ").removesuffix("]")
    assert title == "日" and cut.fields == 1  # three bytes are three tokens  # noqa: PT018


@settings(deadline=None, max_examples=150)
@given(
    values=st.dictionaries(st.sampled_from(["title", "location", "description"]), WORDS),
    limit=st.integers(min_value=8, max_value=90),
    changes=st.sampled_from([{}, {"cut": "end"}, {"cut_first": ["description"]}, {"max_tokens": {"title": 6}}]),
    after=st.sampled_from(["", "?"]),
)
def test_the_limit_holds_and_the_end_survives(
    tokenizer: Tokenizer, values: dict[str, str], limit: int, changes: dict[str, Any], after: str
) -> None:
    template, values = replace(JOB, **changes), field_values(values)
    full = tokenizer.encode(f"Rate {template.render(values)}{after}")
    ids, cut = Budget(tokenizer).fit(template, values, limit=limit, before="Rate ", after=after)
    assert len(ids) <= limit
    if template.render(values):
        assert tokenizer.decode(ids).endswith(f"]{after}")
    if len(full) <= limit and not template.max_tokens:
        assert ids == full
    assert (ids == full) == (not cut)
    assert cut.tokens >= len(full) - len(ids)


def test_text_without_a_visible_end_is_cut_as_one_line_of_tokens(budget: Budget, tokenizer: Tokenizer) -> None:
    template = replace(JOB, start="", separator="\n", end="\n", cut="end")
    values = {"title": "nurse", "description": "care " * 20}
    full = tokenizer.encode(template.render(values))
    assert budget.fit(template, values, limit=20) == (full[:20], Cut(tokens=len(full) - 20))


@pytest.mark.parametrize("name", ["movielens_chat", "economic_graph_chat"])
def test_no_question_loses_its_end_or_its_title(name: str, tokenizer: Tokenizer) -> None:
    suite = load_suite(name)
    compiler = PromptCompiler(suite, tokenizer, PromptFormat(context_length=2048, head_tokens=512, question_tokens=96))
    for surface in suite.surfaces:
        template = suite.entities[surface.entity_type]
        entity = Entity(entity_type=surface.entity_type, fields=dict.fromkeys(template.fields, "nurse in care " * 40))
        ids, cut = compiler.question(surface, {}, entity)
        text = tokenizer.decode(ids)
        assert len(ids) <= 96
        assert f"[{template.fields[0].capitalize()}: nurse" in text
        assert text.endswith(("]?<|assistant|>", "]<|assistant|>"))
        assert cut.fields >= len(template.fields) - 1
        assert cut.tokens > 100


def test_cuts_are_counted_in_prefixes_and_documents(tokenizer: Tokenizer) -> None:
    suite = load_suite("movielens_chat")
    compiler = PromptCompiler(suite, tokenizer, PromptFormat(context_length=900, head_tokens=400, question_tokens=80))
    task = suite.task("movie_rating")
    movies = [Entity(entity_type="movie", fields={"title": "Heat", "genres": "crime " * n}) for n in (2, 40, 60)]
    history = [
        PastInteraction(entity=movie, surface="ratings", action="rated_4", timestamp=i)
        for i, movie in enumerate(movies * 10)
    ]
    profile = {"occupation": "nurse " * 300}
    prefix = compiler.prefix(task, profile, history)
    head = compiler.head(task, profile)[1]
    assert head.fields == 1
    assert head.tokens > 100
    shown = history[-prefix.turns :]
    cuts = [compiler.question(suite.surface("ratings"), profile, past.entity)[1] for past in shown]
    assert prefix.turns + prefix.turns_dropped == 30
    assert (prefix.head_cut, prefix.history_cut) == (head, sum(cuts, Cut()))
    assert prefix.history_cut.fields == sum(past.entity is not movies[0] for past in shown)
    documents = compiler.documents(profile, history)
    cuts = [compiler.question(suite.surface("ratings"), profile, past.entity)[1] for past in history]
    total = sum((document.cut for document in documents), Cut())
    assert total == Cut(
        fields=len(documents) + 20, tokens=len(documents) * head.tokens + sum(cut.tokens for cut in cuts)
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"head_tokens": 0}, "^head_tokens is 0; give an integer, at least 4"),
        ({"question_tokens": -5}, "^question_tokens is -5; give an integer, at least 4"),
        ({"context_length": 0}, "^context_length is 0; give an integer, at least 1"),
        (
            {"context_length": 320},
            "context_length 320 leaves no tokens for history beside head_tokens 192 and question",
        ),
        ({"head_tokens": 600}, "leaves no tokens for history"),
    ],
)
def test_impossible_budgets_are_refused(changes: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PromptFormat(**{"context_length": 512} | changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_tokens": {"title": 0}}, "max_tokens.title is 0; give an integer, at least 1"),
        ({"max_tokens": {"titel": 9}}, "max_tokens names titel, which `fields` does not declare"),
        ({"cut_first": ["x"]}, "cut_first names x, which `fields` does not declare"),
        ({"cut": "middle"}, "cut is 'middle'; give one of fields, end"),
        ({"fields": ["title", "title"]}, "'title' is listed more than once"),
        ({"fields": ["job title"]}, "'job title' cannot be the name of a field"),
        ({"fields": ["entity"]}, "'entity' cannot be the name of a field"),
    ],
)
def test_a_malformed_record_template_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(JOB, **changes)


def test_a_question_whose_fixed_text_fills_its_budget_is_refused(tokenizer: Tokenizer) -> None:
    suite = load_suite("movielens_chat")
    surface = replace(suite.surface("ratings"), question=["Rating of {{ entity }}" + " of many many stars" * 20])
    longer: TaskSuite = replace(suite, surfaces=[surface])
    budget = PromptFormat(context_length=1024, head_tokens=512)
    with pytest.raises(UserError, match="ratings: the text after the entity has .* tokens, more than half of question"):
        PromptCompiler(longer, tokenizer, budget)


def test_an_instruction_is_never_cut(tokenizer: Tokenizer) -> None:
    suite = load_suite("movielens_chat")
    with pytest.raises(
        UserError, match="movie_rating: the instruction has .* tokens, but head_tokens 64 leaves 62; sh"
    ):
        PromptCompiler(suite, tokenizer, PromptFormat(context_length=512, head_tokens=64))
    [task] = suite.tasks
    budget = PromptFormat(context_length=1024, head_tokens=count(tokenizer, suite.instruction(task)) + 62)
    compiler = PromptCompiler(suite, tokenizer, budget)
    ids, cut = compiler.head(task, {"occupation": "nurse in care " * 30}, "no night shifts " * 30)
    text = tokenizer.decode(ids)
    assert len(ids) <= budget.head_tokens
    assert suite.instruction(task) in text
    assert "<|member|>Member profile: Occupation: nurse" in text
    assert cut.fields == 1


def test_a_long_profile_value_leaves_half_of_a_question_to_the_entity(tokenizer: Tokenizer) -> None:
    suite = load_suite("movielens_chat")
    ratings = replace(suite.surface("ratings"), question=["For {{ occupation }}: {{ entity }}?"])
    budget = PromptFormat(context_length=1024, head_tokens=512, question_tokens=80)
    compiler = PromptCompiler(replace(suite, surfaces=[ratings]), tokenizer, budget)
    movie = Entity(entity_type="movie", fields={"title": "nurse", "genres": "care"})
    ids, cut = compiler.question(ratings, {"occupation": "senior nurse " * 90}, movie)
    text = tokenizer.decode(ids)
    assert len(ids) <= 80
    assert text.startswith("<|user|>For senior nurse")
    assert text.endswith(" [Title: nurse, Genres: care]?<|assistant|>")
    assert cut.tokens > 100
