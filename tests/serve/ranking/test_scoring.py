"""Scores (normalised label probabilities, exact for labels of several tokens) and rankings."""

import asyncio
import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from brew_data.prompts.compiler import Entity, PastInteraction, PromptCompiler
from brew_data.prompts.suite import TaskSuite
from brew_data.prompts.tasks import Action
from brew_platform.errors import UserError
from brew_serve.engines.base import Shared
from brew_serve.ranking.scoring import Scorer

ids = st.lists(st.integers(6, 300), min_size=1, max_size=8)
quick = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


@quick
@given(prefix=ids, question=ids, name=st.sampled_from(["job_apply", "post_interest"]))
def test_the_score_of_a_label_of_several_tokens_equals_brute_force(
    prefix: list[int], question: list[int], name: str, suite: TaskSuite, compiler: PromptCompiler, table_engine: Any
) -> None:
    task = suite.task(name)
    weights = {}
    for action, label in compiler.labels(task).items():
        prompt = (*prefix, *question)
        weights[action] = math.exp(
            sum(table_engine.logprobs(prompt + label[:i])[token] for i, token in enumerate(label))
        )

    scored = asyncio.run(Scorer(table_engine, compiler).score_prompt(task, prefix, question))

    total = sum(weights.values())
    assert scored.probabilities == pytest.approx({a: w / total for a, w in weights.items()}, abs=1e-12)
    assert sum(scored.probabilities.values()) == pytest.approx(1.0, abs=1e-12)
    assert scored.score == pytest.approx(sum(weights[a] for a in task.positive) / total, abs=1e-12)


WORDS = ["like", "like strongly", "like strongly indeed", "li", "not now", "not", "skip"]


@quick
@given(prefix=ids, question=ids, labels=st.lists(st.sampled_from(WORDS), min_size=2, unique=True))
def test_labels_that_begin_another_are_separated_exactly(
    prefix: list[int],
    question: list[int],
    labels: list[str],
    suite: TaskSuite,
    compiler: PromptCompiler,
    table_engine: Any,
) -> None:
    actions = [Action(name=label, label=label) for label in labels]
    feed = replace(suite.surface("feed"), actions=actions)
    task = replace(suite.task("post_interest"), positive=labels[:1])
    begun = replace(suite, surfaces=[suite.surface("jobs"), feed], tasks=[task])
    scorer = Scorer(table_engine, PromptCompiler(begun, compiler.tokenizer, compiler.format))

    scored = asyncio.run(scorer.score_prompt(task, prefix, question))

    begins = any(a != b and b.startswith(a) for a in labels for b in labels)
    end = (compiler.tokenizer.end,) if begins else ()
    mass = {}  # of the answers among all texts that the model can write: separate events
    for label in labels:
        answer = compiler.tokenizer.encode(label) + end
        prompt = (*prefix, *question)
        mass[label] = math.exp(sum(table_engine.logprobs(prompt + answer[:i])[token] for i, token in enumerate(answer)))
    assert sum(mass.values()) < 1
    assert sum(scored.probabilities.values()) == pytest.approx(1.0, abs=1e-12)
    assert scored.probabilities == pytest.approx({a: m / sum(mass.values()) for a, m in mass.items()}, abs=1e-12)


def test_one_engine_call_per_inner_node_of_the_labels_tree(
    suite: TaskSuite, compiler: PromptCompiler, table_engine: Any
) -> None:
    single, several = suite.tasks
    assert [len(label) for label in compiler.labels(single).values()] == [1, 1]
    labels = compiler.labels(several)
    assert labels["later"][0] == labels["hide"][0], "the fixture's labels must share their first token"

    asyncio.run(Scorer(table_engine, compiler).score_prompt(single, [7, 8], [9]))
    assert table_engine.calls == 1
    asyncio.run(Scorer(table_engine, compiler).score_prompt(several, [7, 8], [9]))
    assert table_engine.calls == 1 + len({label[:i] for label in labels.values() for i in range(len(label))})


def test_very_unlikely_labels_still_have_probabilities_that_sum_to_one(
    suite: TaskSuite, compiler: PromptCompiler, table_engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table_engine, "logprobs", lambda prompt: [-2000.0 - id_ for id_ in range(1000)])
    scored = asyncio.run(Scorer(table_engine, compiler).score_prompt(suite.task("job_apply"), [7], [8]))
    assert sum(scored.probabilities.values()) == pytest.approx(1.0)


async def test_a_ranking_is_sorted_and_reports_cost_and_truncation(
    suite: TaskSuite,
    compiler: PromptCompiler,
    table_engine: Any,
    history: list[PastInteraction],
    candidates: list[tuple[str, Entity]],
) -> None:
    task = suite.task("job_apply")
    long = Entity(entity_type="job", fields={"title": "nurse " * 100})
    profile = {"title": "welder " * 60}

    ranking = await Scorer(table_engine, compiler).rank(task, profile, history, [*candidates, ("long", long)])

    scores = [candidate.score for candidate in ranking.candidates]
    assert scores == sorted(scores, reverse=True)
    assert {candidate.id for candidate in ranking.candidates} == {"long", *(id_ for id_, _ in candidates)}
    prefix = compiler.prefix(task, profile, history)
    questions = [compiler.question(task, profile, entity) for _, entity in [*candidates, ("long", long)]]
    assert ranking.prefixes == [prefix]
    assert prefix.head_cut.tokens > 0
    assert ranking.prompt_tokens == len(prefix.ids) + sum(len(ids) for ids, _ in questions)
    assert ranking.candidate_cuts == {"long": questions[-1][1]}


async def test_equal_scores_keep_the_order_of_the_request(
    suite: TaskSuite, compiler: PromptCompiler, table_engine: Any, candidates: list[tuple[str, Entity]]
) -> None:
    same = [(f"same{i}", candidates[0][1]) for i in range(5)]
    ranking = await Scorer(table_engine, compiler).rank(suite.task("job_apply"), {}, [], same)
    assert [candidate.id for candidate in ranking.candidates] == [id_ for id_, _ in same]


async def test_only_interactions_strictly_earlier_than_before_are_shown(
    suite: TaskSuite,
    compiler: PromptCompiler,
    table_engine: Any,
    history: list[PastInteraction],
    candidates: list[tuple[str, Entity]],
) -> None:
    scorer, task = Scorer(table_engine, compiler), suite.task("job_apply")
    cut = await scorer.rank(task, {}, history, candidates, before=history[3].timestamp)
    assert cut == await scorer.rank(task, {}, history[:3], candidates)


async def test_a_candidate_of_another_type_is_refused(
    suite: TaskSuite, compiler: PromptCompiler, table_engine: Any
) -> None:
    post = Entity(entity_type="post", fields={"topic": "news"})
    with pytest.raises(UserError, match="ranks entities of type 'job', not 'post'"):
        await Scorer(table_engine, compiler).rank(suite.task("job_apply"), {}, [], [("p", post)])


async def test_candidates_with_histories_of_their_own_score_as_they_do_alone(
    suite: TaskSuite,
    compiler: PromptCompiler,
    table_engine: Any,
    history: list[PastInteraction],
    candidates: list[tuple[str, Entity]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    task = suite.task("job_apply")
    policy = replace(task.history, name="similarity", max_interactions=2)
    scorer = Scorer(table_engine, PromptCompiler(suite, compiler.tokenizer, compiler.format, {task.name: policy}))
    calls: list[tuple[tuple[int, ...], Shared]] = []
    answer = table_engine.next_token_logprobs

    async def record(prompt: tuple[int, ...], token_ids: list[int], shared: Shared) -> list[float]:
        calls.append((prompt, shared))
        logprobs: list[float] = await answer(prompt, token_ids, shared)
        return logprobs

    monkeypatch.setattr(table_engine, "next_token_logprobs", record)
    prompts = scorer.compile_prompts(task, {}, history, candidates)
    finished: list[int] = []
    ranking = await scorer.rank_prompts(prompts, on_scored=finished.append)
    assert 1 < len(ranking.prefixes) < len(candidates)
    assert all(prompt[: len(shared.ids)] == shared.ids for prompt, shared in calls)
    assert len({id(shared) for _, shared in calls}) == len(ranking.prefixes)
    assert sum(finished) == prompts.work == ranking.prompt_tokens  # the labels are single tokens
    by_id = {candidate.id: candidate for candidate in ranking.candidates}
    for candidate in candidates:
        alone = await scorer.rank(task, {}, history, [candidate])
        assert alone.candidates == [by_id[candidate[0]]]
        assert alone.prefixes[0] in ranking.prefixes
    with pytest.raises(UserError, match="more than 60 tokens in all, because each candidate of task job_apply"):
        scorer.compile_prompts(task, {}, history, candidates, most_tokens=60)
