"""The one definition of a score, for batch, nearline and online.

A task's labels are the words that answer its question, one per action. The probability of a label is the product of
its tokens' probabilities after the answer cue; those of all labels are normalised to sum to 1; and

    score = sum of P(action) over the task's positive actions.

Labels of several tokens share beginnings. Their tokens form a prefix tree, and one engine call per inner node gives
every label exactly; where each label is one token, that is one call per candidate.

Owns: that definition, and the ranking of candidates by it. Does not own: prompts (`brew_data.prompts.compiler`), the model
(`Engine`). Runs without Ray and without vLLM.
Source: 360Brew, arXiv 2501.16450, section 3; issue 2.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from brew_data.prompts.compiler import Entity, Past, Prefix, PromptCompiler
from brew_data.prompts.suite import TaskSpec
from brew_serve.engines.base import Engine, Shared
from brew_serve.ranking.concurrency import together

__all__ = ["Prompts", "RankedCandidate", "Ranking", "Scored", "Scorer"]

Ids = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Scored:
    """What the model says about one candidate.

    Args:
        score: P(any positive action), 0 to 1.
        probabilities: P(action) by action name; they sum to 1.
    """

    score: float
    probabilities: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class RankedCandidate:
    """One candidate of a ranking, under the id that the caller gave."""

    id: str
    score: float
    probabilities: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """The prompts of one request.

    Args:
        ids: of the candidates, in the order of the request.
        prefix: what all candidates share, with what was left out of it.
        questions: by candidate: token ids up to the answer cue, and how many tokens were cut from them.
        work: predicted tokens to compute: the prefix once, and every question as often as the labels need.
    """

    task: TaskSpec
    ids: list[str]
    prefix: Prefix
    questions: list[tuple[Ids, int]]
    work: int


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """The scored candidates of a request, best first, and what their prompts cost and lost.

    Args:
        candidates: by falling score; equal scores stay in the order of the request.
        unscored: ids for which the time did not suffice, in the order of the request.
        prefix: what all candidates share, with what was left out of it.
        prompt_tokens: tokens of the shared prefix, counted once, and of every candidate's question.
        tokens_dropped: tokens cut from a candidate's text, by its id; only those that lost some.
    """

    candidates: list[RankedCandidate]
    unscored: list[str]
    prefix: Prefix
    prompt_tokens: int
    tokens_dropped: dict[str, int]


class Scorer:
    """Scores candidates with one model.

    Args:
        engine: runs the model.
        compiler: of the same version; it knows the tasks and their labels.
    """

    def __init__(self, engine: Engine, compiler: PromptCompiler) -> None:
        self.engine, self.compiler = engine, compiler
        self._trees = {task.name: _tree(compiler.labels(task)) for task in compiler.suite.tasks}

    async def score_prompt(self, task: TaskSpec, prefix_ids: Sequence[int], question_ids: Sequence[int]) -> Scored:
        """Scores one prompt.

        Args:
            task: whose labels answer.
            prefix_ids: token ids of head and history.
            question_ids: token ids of the candidate's question, up to and including the answer cue.

        Raises:
            UserError: as `Engine.next_token_logprobs`.
        """
        answers = await asyncio.gather(*self._calls(task, (*prefix_ids, *question_ids), None))
        return self._scored(task, answers)

    def _calls(self, task: TaskSpec, prompt: Ids, shared: Shared | None) -> Iterator[Awaitable[list[float]]]:
        """One for each inner node of the labels' tree."""
        for node, tokens in self._trees[task.name].items():
            yield self.engine.next_token_logprobs(prompt + node, tokens, shared)

    def _scored(self, task: TaskSpec, answers: Sequence[Sequence[float]]) -> Scored:
        """From the answers to `_calls`, in their order."""
        logprob = {
            (*node, token): value
            for (node, tokens), values in zip(self._trees[task.name].items(), answers, strict=True)
            for token, value in zip(tokens, values, strict=True)
        }
        totals = {
            action: sum(logprob[ids[: end + 1]] for end in range(len(ids)))
            for action, ids in self.compiler.labels(task).items()
        }
        probabilities = _normalised(totals)
        return Scored(score=sum(probabilities[action] for action in task.positive), probabilities=probabilities)

    def prompts(
        self,
        task: TaskSpec,
        profile: Mapping[str, object],
        history: Sequence[Past],
        candidates: Sequence[tuple[str, Entity]],
        own_words: str = "",
        before: int | None = None,
    ) -> Prompts:
        """Compiles the prompts of one request; the prefix once.

        Args:
            profile: the member's fields.
            history: the member's past interactions, sorted by time.
            candidates: (id, entity), the ids all different.
            own_words: what the member says about what they want.
            before: only interactions strictly earlier count (microseconds since 1970); None counts all.

        Raises:
            UserError: as `PromptCompiler.prefix` and `.question`.
        """
        prefix = self.compiler.prefix(task, profile, history, before=before, own_words=own_words)
        questions = [self.compiler.question(task, profile, entity) for _, entity in candidates]
        return Prompts(
            task=task,
            ids=[id_ for id_, _ in candidates],
            prefix=prefix,
            questions=questions,
            work=len(prefix.ids) + len(self._trees[task.name]) * sum(len(ids) for ids, _ in questions),
        )

    async def rank_prompts(
        self, prompts: Prompts, *, seconds: float | None = None, on_scored: Callable[[int], None] | None = None
    ) -> Ranking:
        """Scores all candidates together, and ranks those that are scored in time.

        Args:
            seconds: after these, what is not scored is cancelled in the engine and left unscored; None waits for all.
            on_scored: told the tokens of `prompts.work` that are done, as they are.

        Raises:
            UserError: as `Engine.next_token_logprobs`.
        """
        each = len(self._trees[prompts.task.name])
        prefix = tuple(prompts.prefix.ids)
        questions = [ids for ids, _ in prompts.questions]
        shared = Shared(ids=prefix + Shared.of(questions).ids)
        first = len(prefix)  # counted with the first answer

        def on_done(place: int) -> None:
            nonlocal first
            if on_scored is not None:
                on_scored(first + len(questions[place // each]))
            first = 0

        calls = (call for ids in questions for call in self._calls(prompts.task, prefix + ids, shared))
        answers = await together(calls, seconds=seconds, on_done=on_done)
        scored = [self._whole(prompts.task, answers[i * each : (i + 1) * each]) for i in range(len(questions))]
        ranked = [
            RankedCandidate(id=id_, score=one.score, probabilities=one.probabilities)
            for id_, one in zip(prompts.ids, scored, strict=True)
            if one is not None
        ]
        return Ranking(
            candidates=sorted(ranked, key=lambda candidate: -candidate.score),
            unscored=[id_ for id_, one in zip(prompts.ids, scored, strict=True) if one is None],
            prefix=prompts.prefix,
            prompt_tokens=len(prompts.prefix.ids) + sum(len(ids) for ids, _ in prompts.questions),
            tokens_dropped={id_: cut for id_, (_, cut) in zip(prompts.ids, prompts.questions, strict=True) if cut},
        )

    def _whole(self, task: TaskSpec, answers: Sequence[list[float] | None]) -> Scored | None:
        """None where an answer is missing."""
        found = [one for one in answers if one is not None]
        return self._scored(task, found) if len(found) == len(answers) else None

    async def rank(
        self,
        task: TaskSpec,
        profile: Mapping[str, object],
        history: Sequence[Past],
        candidates: Sequence[tuple[str, Entity]],
        own_words: str = "",
        before: int | None = None,
    ) -> Ranking:
        """Ranks candidates for one member: `prompts`, and `rank_prompts` without a limit of time."""
        return await self.rank_prompts(self.prompts(task, profile, history, candidates, own_words, before))


def _tree(labels: Mapping[str, Ids]) -> dict[Ids, list[int]]:
    """Inner nodes of the labels' prefix tree: the tokens so far, and which tokens may follow."""
    tree: dict[Ids, list[int]] = {}
    for ids in labels.values():
        for end, token in enumerate(ids):
            following = tree.setdefault(ids[:end], [])
            if token not in following:
                following.append(token)
    return tree


def _normalised(logs: Mapping[str, float]) -> dict[str, float]:
    most = max(logs.values())
    weights = {name: math.exp(value - most) for name, value in logs.items()}
    total = sum(weights.values())
    return {name: weight / total for name, weight in weights.items()}
