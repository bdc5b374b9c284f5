"""A slate has the examples of one task as candidates with one prefix, and each reads what its own prompt has."""

from functools import cache
from itertools import accumulate, pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brew_data.prompts.compiler import Document, Entity, PastInteraction, PromptCompiler, PromptFormat
from brew_data.prompts.history import HistoryPolicy
from brew_data.prompts.suite import TaskSuite
from brew_data.prompts.tasks import Action, Surface, TaskSpec
from brew_data.prompts.templates import RecordTemplate
from brew_data.prompts.tokenizer import train_tokenizer
from brew_data.prompts.variation import VariationConfig
from brew_data.segments import Segment

PROFILE = {"city": "Berlin"}
CONTEXT = 160
POLICIES: dict[str, dict[str, Any]] = {
    "chronological": {},
    "window": {"max_interactions": 4, "hop_tokens": 20},
    "filtered": {"positives_only": True, "deduplicate": True},
    "round_robin": {"name": "round_robin"},
    "similarity": {"name": "similarity"},
}


@cache
def compiler(policy: str) -> PromptCompiler:
    """Two tasks with questions of their own; the labels of one end with `<|end|>`."""
    actions = [Action(name="buy", label="bought"), Action(name="skip", label="passed")]
    long = [Action(name="like", label="like"), Action(name="love", label="like strongly")]
    history = HistoryPolicy(surfaces=["shop", "feed"], **POLICIES[policy])
    suite = TaskSuite(
        name="shop",
        profile=RecordTemplate(fields=["city"], phrases=["{{ city }}"]),
        entities={"product": RecordTemplate(fields=["title"], phrases=["{{ title }}"])},
        surfaces=[
            Surface(name="shop", entity_type="product", question=["product"], actions=actions),
            Surface(name="feed", entity_type="product", question=["post"], actions=long),
        ],
        tasks=[
            TaskSpec(
                name="buys", surface="shop", instruction="Guess.", positive=["buy"], history=history,
                question=["Do they buy {{ entity }}?"], instruction_alternatives=["Predict it."],
            ),
            TaskSpec(
                name="loves", surface="feed", instruction="Guess.", positive=["love"], history=history,
                question=["Is it loved?"], examples_per_member=5,
            ),
        ],
    )  # fmt: skip
    tokenizer = train_tokenizer(["product lamp chair bought passed Guess. like strongly"], vocabulary_size=300)
    return PromptCompiler(suite, tokenizer, PromptFormat(context_length=CONTEXT, head_tokens=24, question_tokens=40))


@st.composite
def histories(draw: st.DrawFn) -> list[PastInteraction]:
    titles = ("lamp", "chair", "a long sofa of red velvet", "lamp of velvet")
    actions = {"shop": ("buy", "skip"), "feed": ("like", "love")}
    times = sorted(draw(st.lists(st.integers(0, 12), max_size=24)))
    past = []
    for time in times:
        surface = draw(st.sampled_from(["shop", "feed"]))
        past.append(
            PastInteraction(
                entity=Entity(entity_type="product", fields={"title": draw(st.sampled_from(titles))}),
                surface=surface,
                action=draw(st.sampled_from(actions[surface])),
                timestamp=time,
            )
        )
    return past


def examples(document: Document) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Ids and roles of the documents with one candidate that a document stands for."""
    if not document.segments:
        return [(document.ids, document.roles)]
    ends = list(accumulate(segment.tokens for segment in document.segments))
    assert ends[-1] == len(document.ids)
    return [
        (document.ids[:seen] + document.ids[start:end], document.roles[:seen] + document.roles[start:end])
        for (start, end), (_, seen) in zip(pairwise(ends), document.segments[1:], strict=True)
    ]


@pytest.mark.parametrize("policy", POLICIES)
@settings(max_examples=40)
@given(histories(), st.one_of(st.none(), st.integers(0, 12)))
def test_slates_have_the_examples_that_serving_reads(
    policy: str, history: list[PastInteraction], after: int | None
) -> None:
    alone = compiler(policy).documents(PROFILE, history, after=after)
    slates = compiler(policy).documents(PROFILE, history, after=after, slates=True)
    assert [example for slate in slates for example in examples(slate)] == [(doc.ids, doc.roles) for doc in alone]
    assert all(not document.segments for document in alone)
    for slate in slates:
        assert len(slate.ids) == len(slate.roles) <= CONTEXT
        assert len(slate.segments) != 1
        assert sum(slate.roles[: slate.segments[0].tokens if slate.segments else 0]) == 0
    for name in ("fields", "tokens"):
        assert sum(getattr(slate.cut, name) for slate in slates) <= sum(getattr(doc.cut, name) for doc in alone)
    assert sum(slate.turns_dropped for slate in slates) == sum(document.turns_dropped for document in alone)


def interactions(count: int, *, step: int) -> list[PastInteraction]:
    entity = Entity(entity_type="product", fields={"title": "lamp"})
    return [PastInteraction(entity=entity, surface="shop", action="buy", timestamp=step * n) for n in range(count)]


def test_the_candidates_of_one_moment_attend_to_the_whole_prefix() -> None:
    [slate] = compiler("chronological").documents(PROFILE, interactions(3, step=0), slates=True)
    prefix = compiler("chronological").prefix(compiler("chronological").suite.task("buys"), PROFILE, [])
    assert slate.segments[0] == Segment(tokens=len(prefix.ids), prefix=0)
    assert [segment.prefix for segment in slate.segments[1:]] == [len(prefix.ids)] * 3
    assert slate.ids[: len(prefix.ids)] == prefix.ids
    assert slate.turns == tuple(interactions(3, step=0))


def test_the_candidates_of_later_moments_attend_to_more_of_it() -> None:
    history = interactions(4, step=1)
    [slate] = compiler("chronological").documents(PROFILE, history, slates=True)
    seen = [segment.prefix for segment in slate.segments[1:]]
    assert seen == sorted(set(seen))
    assert seen[-1] == slate.segments[0].tokens
    assert slate.turns == (*history[:3], *history)


def test_a_slate_ends_where_the_context_does_or_the_window_moves() -> None:
    full = compiler("chronological").documents(PROFILE, interactions(40, step=0), slates=True)
    assert len(full) > 1
    assert sum(len(examples(slate)) for slate in full) == 8
    moved = compiler("window").documents(PROFILE, interactions(40, step=1), slates=True)
    assert sum(len(examples(slate)) for slate in moved) == 8
    assert any(slate.segments for slate in moved)


def test_a_slate_has_one_variation() -> None:
    prompts = compiler("chronological")
    history = interactions(3, step=0)
    for seed in range(6):
        variation = VariationConfig(seed=seed, share=1.0)
        [slate] = prompts.documents(PROFILE, history, slates=True, variation=lambda n, v=variation: v.draw("ada", n))
        form = prompts.varied(prompts.suite.task("buys"), variation.draw("ada", 0))
        alone = form.example(prompts.suite.task("buys"), PROFILE, history, history[0])
        assert examples(slate)[0] == (alone.ids, alone.roles)
