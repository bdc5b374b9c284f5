"""The definition of a score, for batch, nearline and online.

The labels of a task are the words that answer its question, one per action. The probability of a label is the product
of its tokens' probabilities after the answer cue. The probabilities of all labels are normalised to sum to 1, and

    score = sum of P(action) over the task's positive actions.

Labels of several tokens can share a prefix. If one label begins another, `<|end|>` follows every label of the task
(`PromptCompiler.labels`), so that no answer begins another. The tokens form a prefix tree, and one engine call per
inner node gives the exact probability of every label. If every label is one token, that is one call per candidate.

This module imports neither Ray nor vLLM. Source: 360Brew, arXiv 2501.16450, section 3.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from brew_data.prompts.chat import question_ids
from brew_data.prompts.compiler import (
    Cut,
    Entity,
    PastInteraction,
    Prefix,
    PromptCompiler,
    Watch,
    pass_through,
)
from brew_data.prompts.tasks import TaskSpec
from brew_platform.tracing import start_span
from brew_serve.engines.base import Engine, Shared
from brew_serve.engines.logprobs import require_logprobs
from brew_serve.ranking.concurrency import gather_until, in_slices

__all__ = ["Prompts", "RankedCandidate", "Ranking", "Scored", "Scorer", "distinct", "softmax"]

Ids = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Scored:
    """The model's prediction for one candidate.

    Args:
        score: P(any positive action), 0 to 1.
        probabilities: P(action) by action name; they sum to 1.
    """

    score: float
    probabilities: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class RankedCandidate:
    """One candidate of a ranking; `id` comes from the request."""

    id: str
    score: float
    probabilities: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """The prompts of one request.

    Args:
        ids: Candidate ids, in the order of the request.
        prefixes: Per candidate: the prefix, with the counts of what was cut from it. Candidates whose prompts show the
            same history have the same object; by most history policies, that is all of them.
        questions: Per candidate: token ids up to the answer cue, and what was cut from its text.
        work: Predicted tokens to compute: each different prefix once, and each question once per inner node of the
            label tree.
    """

    task: TaskSpec
    ids: list[str]
    prefixes: list[Prefix]
    questions: list[tuple[Ids, Cut]]
    work: int


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """The scored candidates of a request, best first, with the cost of their prompts and what was cut from them.

    Args:
        candidates: By descending score; equal scores keep the order of the request.
        unscored: Ids that were not scored in time, in the order of the request.
        prefixes: The different prefixes of the prompts, with the counts of what was cut from them; one, unless the
            history policy depends on the candidate.
        prompt_tokens: Tokens of each prefix, counted once, plus tokens of every candidate's question.
        candidate_cuts: What was cut from a candidate's text, by its id; only candidates that lost some.
    """

    candidates: list[RankedCandidate]
    unscored: list[str]
    prefixes: list[Prefix]
    prompt_tokens: int
    candidate_cuts: dict[str, Cut]


def softmax(logits: Sequence[float]) -> list[float]:
    """Normalise log weights to probabilities that sum to 1."""
    largest = max(logits)
    weights = [math.exp(value - largest) for value in logits]
    total = sum(weights)
    return [weight / total for weight in weights]


class Scorer:
    """Scores candidates with one model.

    Args:
        engine: Runs the model.
        compiler: Prompt compiler of the same version; it knows the tasks and their labels.
    """

    def __init__(self, engine: Engine, compiler: PromptCompiler) -> None:
        self.engine, self.compiler = engine, compiler
        self._trees = {task.name: _tree(compiler.labels(task)) for task in compiler.suite.tasks}
        self._paths = {
            task.name: _paths(compiler.labels(task), self._trees[task.name]) for task in compiler.suite.tasks
        }

    async def score_prompt(
        self, task: TaskSpec, prefix_ids: Sequence[int], question_ids: Sequence[int], shared: Shared | None = None
    ) -> Scored:
        """Score one prompt.

        Args:
            task: The task whose labels are scored.
            prefix_ids: Token ids of head and history.
            question_ids: Token ids of the candidate's question, up to and including the answer cue.
            shared: The beginning of this prompt and of others that are scored with it; the engine computes it once.

        Raises:
            UserError: As `Engine.next_token_logprobs`.
            InvalidOutput: The model computed NaN or another number that is not a log-probability.
        """
        answers = await asyncio.gather(*self._calls(task, (*prefix_ids, *question_ids), shared))
        return self._scored(task, answers)

    def _calls(self, task: TaskSpec, prompt: Ids, shared: Shared | None) -> Iterator[Awaitable[list[float]]]:
        """Yield one engine call per inner node of the label tree."""
        for node, tokens in self._trees[task.name].items():
            yield self.engine.next_token_logprobs(prompt + node, tokens, shared)

    def _scored(self, task: TaskSpec, answers: Sequence[Sequence[float]]) -> Scored:
        """Combine the answers to `_calls`, in their order. Raises InvalidOutput if one is not a log-probability."""
        for values in answers:
            require_logprobs(values)
        totals = {
            action: sum(answers[node][token] for node, token in path) for action, path in self._paths[task.name].items()
        }
        probabilities = dict(zip(totals, softmax(list(totals.values())), strict=True))
        score = min(1.0, sum(probabilities[action] for action in task.positive))  # the sum is rounded
        return Scored(score=score, probabilities=probabilities)

    def least_work(self, task: TaskSpec, candidates: int) -> int:
        """Return a lower bound of `Prompts.work`, without the tokens of any text."""
        return len(self._trees[task.name]) * candidates * len(question_ids(self.compiler.tokenizer, ()))

    def compile_prompts(
        self,
        task: TaskSpec,
        profile: Mapping[str, object],
        history: Sequence[PastInteraction],
        candidates: Sequence[tuple[str, Entity]],
        own_words: str = "",
        before: int | None = None,
        *,
        most_tokens: int | None = None,
        watch: Watch = pass_through,
    ) -> Prompts:
        """Compile the prompts of one request; each past interaction is encoded once.

        Args:
            profile: The member's fields.
            history: The member's past interactions, sorted by time.
            candidates: (id, entity) pairs with unique ids.
            own_words: The member's own instruction, in free text.
            before: Use only strictly earlier interactions (microseconds since 1970); None uses all.
            most_tokens: The maximum number of tokens of all different prefixes together; None: no limit.
            watch: As `MemberPrompts.prefixes`.

        Raises:
            UserError: As `MemberPrompts.prefixes` and `PromptCompiler.question`.
        """
        entities = [entity for _, entity in candidates]
        member = self.compiler.member(profile, history)
        prefixes = member.prefixes(
            task, entities, before=before, own_words=own_words, most_tokens=most_tokens, watch=watch
        )
        questions = self.compiler.questions(task, profile, entities, watch=watch)
        prefix_tokens = sum(len(prefix.ids) for prefix in distinct(prefixes))
        return Prompts(
            task=task,
            ids=[id_ for id_, _ in candidates],
            prefixes=prefixes,
            questions=questions,
            work=prefix_tokens + len(self._trees[task.name]) * sum(len(ids) for ids, _ in questions),
        )

    async def rank_prompts(
        self, prompts: Prompts, *, seconds: float | None = None, on_scored: Callable[[int], None] | None = None
    ) -> Ranking:
        """Score all candidates concurrently, and rank those that are scored in time.

        Args:
            seconds: Time limit; at the limit, the remaining engine calls are cancelled and their candidates stay
                unscored. None waits for all.
            on_scored: Called with the number of tokens of `prompts.work` that have just finished.

        Raises:
            UserError: As `Engine.next_token_logprobs`.
            InvalidOutput: As `score_prompt`, for any candidate that was scored in time.
        """
        each = len(self._trees[prompts.task.name])
        questions = [ids for ids, _ in prompts.questions]
        prefixes, shared = distinct(prompts.prefixes), _shared(prompts)
        unreported = {id(prefix): len(prefix.ids) for prefix in prefixes}  # reported with its first answer

        def on_done(call_index: int) -> None:
            candidate = call_index // each
            tokens = unreported.pop(id(prompts.prefixes[candidate]), 0) + len(questions[candidate])
            if on_scored is not None:
                on_scored(tokens)

        calls = (
            call
            for prefix, ids in zip(prompts.prefixes, questions, strict=True)
            for call in self._calls(prompts.task, prefix.ids + ids, shared[id(prefix)])
        )
        size = {"brew360.calls": each * len(questions), "brew360.tokens": prompts.work}
        with start_span("engine", size):
            answers = await gather_until(calls, seconds=seconds, on_done=on_done)
        scores = [
            self._score_if_complete(prompts.task, answers[i * each : (i + 1) * each])
            async for i in in_slices(range(len(questions)))
        ]
        ranked = [
            RankedCandidate(id=id_, score=scored.score, probabilities=scored.probabilities)
            for id_, scored in zip(prompts.ids, scores, strict=True)
            if scored is not None
        ]
        return Ranking(
            candidates=sorted(ranked, key=lambda candidate: -candidate.score),
            unscored=[id_ for id_, scored in zip(prompts.ids, scores, strict=True) if scored is None],
            prefixes=prefixes,
            prompt_tokens=sum(len(prefix.ids) for prefix in prefixes) + sum(len(ids) for ids, _ in prompts.questions),
            candidate_cuts={id_: cut for id_, (_, cut) in zip(prompts.ids, prompts.questions, strict=True) if cut},
        )

    def _score_if_complete(self, task: TaskSpec, answers: Sequence[list[float] | None]) -> Scored | None:
        """Return None if an answer is missing."""
        found = [answer for answer in answers if answer is not None]
        return self._scored(task, found) if len(found) == len(answers) else None

    async def rank(
        self,
        task: TaskSpec,
        profile: Mapping[str, object],
        history: Sequence[PastInteraction],
        candidates: Sequence[tuple[str, Entity]],
        own_words: str = "",
        before: int | None = None,
    ) -> Ranking:
        """Rank candidates for one member: `compile_prompts`, then `rank_prompts` without a time limit."""
        return await self.rank_prompts(self.compile_prompts(task, profile, history, candidates, own_words, before))


def distinct(prefixes: Iterable[Prefix]) -> list[Prefix]:
    """Return the different objects of `MemberPrompts.prefixes`, in the order of their first occurrence."""
    return list({id(prefix): prefix for prefix in prefixes}.values())


def _shared(prompts: Prompts) -> dict[int, Shared]:
    """Return the longest common beginning of the prompts that have the same prefix, by the id of the prefix object."""
    groups: dict[int, tuple[Prefix, list[Ids]]] = {}
    for prefix, (ids, _) in zip(prompts.prefixes, prompts.questions, strict=True):
        groups.setdefault(id(prefix), (prefix, []))[1].append(ids)
    return {key: Shared(ids=prefix.ids + Shared.of(found).ids) for key, (prefix, found) in groups.items()}


def _tree(labels: Mapping[str, Ids]) -> dict[Ids, list[int]]:
    """Return the inner nodes of the labels' prefix tree: the tokens so far, and the tokens that may follow."""
    tree: dict[Ids, dict[int, None]] = {}
    for ids in labels.values():
        for end, token in enumerate(ids):
            tree.setdefault(ids[:end], {})[token] = None
    return {node: list(following) for node, following in tree.items()}


def _paths(labels: Mapping[str, Ids], tree: Mapping[Ids, list[int]]) -> dict[str, list[tuple[int, int]]]:
    """Return where the answers to the calls of a tree hold each token of each label: the indices of node and token."""
    at = {
        (*node, token): (index, place)
        for index, (node, tokens) in enumerate(tree.items())
        for place, token in enumerate(tokens)
    }
    return {name: [at[ids[:end]] for end in range(1, len(ids) + 1)] for name, ids in labels.items()}
