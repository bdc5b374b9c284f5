"""Prompts without one of their parts: compiled as if the records lacked it, with the other turns unchanged."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brew_data.prompts.compiler import PromptCompiler
from brew_data.prompts.entity import Entity, PastInteraction
from brew_eval.prompt_variants import CompiledPrompt, LeftOut, Part, PromptRow, PromptVariants

from .explained import BUNDLE, make_row, past, with_policy

HISTORY = [past(0), past(1, surface="mail", action="opened"), past(2, action="viewed")]
POLICIES = ("chronological", "round_robin", "similarity")
COMPILERS = {name: with_policy(name).compiler() for name in POLICIES}
COMPILER = COMPILERS["chronological"]


def compiled(row: PromptRow, compiler: PromptCompiler = COMPILER) -> CompiledPrompt:
    """Compile a prompt as serving does."""
    prefix = compiler.prefix(row.task, row.profile, row.history, candidate=row.candidate, before=row.before)
    return CompiledPrompt(prefix.ids, compiler.question(row.task, row.profile, row.candidate)[0])


def test_each_part_that_the_prompt_shows_is_removed_from_the_records() -> None:
    row = make_row(HISTORY)
    variants = PromptVariants(COMPILER, row)
    assert variants.prompt == compiled(row)
    prompts, left_out = variants.leave_one_out()
    assert prompts == {
        Part("profile", "city"): compiled(replace(row, profile={"job": "nurse"})),
        Part("profile", "job"): compiled(replace(row, profile={"city": "Rome"})),
        Part("interaction", 0): compiled(replace(row, history=HISTORY[1:])),
        Part("interaction", 1): compiled(replace(row, history=[HISTORY[0], HISTORY[2]])),
        Part("interaction", 2): compiled(replace(row, history=HISTORY[:2])),
        Part("entity", "title"): compiled(replace(row, candidate=entity(brand="Oak"))),
        Part("entity", "brand"): compiled(replace(row, candidate=entity(title="lamp"))),
    }
    assert len(set(prompts.values()) | {variants.prompt}) == len(prompts) + 1
    assert left_out == [LeftOut("entity", "sku", "no template of the suite shows it")]
    without_job = COMPILER.tokenizer.decode(prompts[Part("profile", "job")].prefix_ids)
    assert "nurse" not in without_job  # also not in the questions of past turns
    assert without_job.count("product\n") == 2


def entity(**fields: str) -> Entity:
    return Entity(entity_type="product", fields=fields)


def test_parts_have_names_and_texts() -> None:
    variants = PromptVariants(COMPILER, make_row([past(2, action="viewed"), past(9)], before=9_000_000))
    assert [(variants.name(part), variants.text(part)) for part in variants.parts()] == [
        ("city", "Rome"), ("job", "nurse"), ("turn 1", "viewed only: red sofa"), ("title", "lamp"), ("brand", "Oak"),
        ("sku", "77"),
    ]  # fmt: skip


def test_the_prompt_is_readable_part_by_part() -> None:
    variants = PromptVariants(COMPILER, make_row(HISTORY[1:]))
    parts = variants.prompt_parts()
    assert [(part.name, part.text) for part in parts] == [
        ("instruction", "<|system|>Predict: bought, viewed only."),
        ("profile", "<|member|>in Rome\nnurse\n"),
        ("turn 1", "<|user|>letter\noak chair\n<|assistant|>opened"),
        ("turn 2", "<|user|>product for a nurse\nred sofa\n<|assistant|>viewed only"),
        ("candidate", "<|user|>product for a nurse\nlamp\nby Oak\n<|assistant|>"),
    ]
    assert sum(part.tokens for part in parts) == len(variants.prompt.prefix_ids) + len(variants.prompt.question_ids)


def test_a_field_that_was_cut_is_named() -> None:
    row = make_row(HISTORY, city="x" * 400, job="nurse", about="of the city")
    variants = PromptVariants(COMPILER, row)
    prompts, left_out = variants.leave_one_out()
    assert Part("profile", "about") not in prompts
    assert left_out[0] == LeftOut(
        "profile", "about", "it was cut to fit the token budget, so that the prompt does not show it"
    )


def test_the_budget_that_becomes_free_is_not_filled() -> None:
    history = [past(number) for number in range(40)]
    variants = PromptVariants(COMPILER, make_row(history))
    assert 3 < len(variants.shown) < 13
    oldest = variants.shown[0]
    shown = variants.without(Part("interaction", oldest))
    turn = COMPILER.turn(variants.row.profile, history[oldest])
    head, _ = COMPILER.head(variants.row.task, variants.row.profile)
    start = len(head) + turn.length
    assert shown.prefix_ids == head + variants.prompt.prefix_ids[start:]


def test_a_member_without_history_has_fields_only() -> None:
    prompts, _ = PromptVariants(COMPILER, make_row([past(5)], before=5_000_000)).leave_one_out()
    assert {part.kind for part in prompts} == {"profile", "entity"}


def test_a_prompt_that_exceeds_the_context_without_a_field_is_not_scored() -> None:
    suite = replace(
        BUNDLE.suite,
        surfaces=[
            replace(surface, question=["{{ city }}", "a product of a shop that the member saw on a day of the week"])
            if surface.name == "shop"
            else surface
            for surface in BUNDLE.suite.surfaces
        ],
    )
    compiler = replace(BUNDLE, suite=suite).compiler()
    row = make_row([past(number) for number in range(40)], city="x")
    prompts, left_out = PromptVariants(compiler, replace(row, task=suite.task("buy"))).leave_one_out()
    assert Part("profile", "city") not in prompts
    assert left_out[0].reason == "without it, longer questions are used, and the prompt exceeds the context"


interactions = st.builds(
    past,
    st.integers(0, 60),
    surface=st.just("mail"),
    action=st.sampled_from(["opened", "deleted"]),
) | st.builds(past, st.integers(0, 60), action=st.sampled_from(["bought", "viewed"]))
histories = st.lists(interactions, max_size=40).map(lambda found: sorted(found, key=lambda item: item.timestamp))


@given(histories, st.integers(0, 60), st.sampled_from(POLICIES), st.data())
def test_what_the_prompt_does_not_show_changes_nothing(
    history: list[PastInteraction], before: int, policy: str, data: st.DataObject
) -> None:
    compiler = COMPILERS[policy]
    row = make_row(history, before=before * 1_000_000, bundle=with_policy(policy))
    variants = PromptVariants(compiler, row)
    assert variants.prompt == compiled(row, compiler)
    hidden = [place for place in range(len(history)) if place not in variants.shown]
    for place in hidden:
        assert variants.without(Part("interaction", place)) == variants.prompt
    assert all(variants.without(Part(kind, "unknown")) == variants.prompt for kind in ("profile", "entity"))
    prompts, left_out = variants.leave_one_out()
    removed = {part.key for part in prompts if part.kind == "interaction"}
    assert removed == set(variants.shown)  # a shown turn always has tokens
    assert [part.name for part in left_out] == ["sku"]
    limit = compiler.prefix_budget
    assert all(len(prompt.prefix_ids) <= limit for prompt in prompts.values())
    if variants.shown:
        place = data.draw(st.sampled_from(variants.shown))
        turn = compiler.turn(row.profile, history[place])
        assert len(variants.prompt.prefix_ids) - len(prompts[Part("interaction", place)].prefix_ids) == turn.length


def test_a_history_must_be_sorted() -> None:
    with pytest.raises(ValueError, match="not sorted by time"):
        make_row(HISTORY[::-1])
