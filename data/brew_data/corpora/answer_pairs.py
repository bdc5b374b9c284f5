"""Makes preference pairs with a served model: it answers each instruction several times, and a judge ranks the answers.

The best and the worst answer become a pair if their scores differ enough. Answers and the scores of a model are kept as
they arrive, so a run that was killed continues and requests nothing twice.

Source: 360Brew, arXiv 2501.16450, section 3 (instruction fine-tuning with preferences); UltraFeedback, arXiv
2310.01377 (several answers, ranked by a judge).
"""

import asyncio
import json
import re
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Protocol, TypeVar

from brew_data.corpora.answer_file import AnswerFile
from brew_data.corpora.answer_rules import Instruction, score_answer
from brew_data.corpora.chat_model import ChatModel, EndpointConfig, Reply
from brew_platform.files import replace_atomically
from brew_platform.settings import NonNegativeFloat, PositiveInt, Range

__all__ = ["AnswerConfig", "Judge", "ModelJudge", "RankedAnswers", "RuleJudge", "rank_answers", "write_pairs"]

T = TypeVar("T")
_GRADE = re.compile(r"\d+")
_GRADE_TOKENS = 16
_QUESTION = (
    "Rate the answer from 0 (wrong or useless) to 10 (correct, helpful, in the requested form). Write the number only."
)


@dataclass(frozen=True, kw_only=True)
class AnswerConfig(EndpointConfig):
    """How answers are requested.

    Raises:
        ConfigError: A value is out of its range.
    """

    answers: Annotated[int, Range(ge=2)] = 4  # per instruction; each has a seed of its own
    most_tokens: PositiveInt = 128  # of an answer
    temperature: NonNegativeFloat = 1.0  # of sampling; 0: all answers are the same
    concurrency: PositiveInt = 16  # requests that are sent at once, but at least the answers of one instruction
    least_margin: NonNegativeFloat = 0.1  # between the scores of a pair; 0: answers with equal scores are a pair, too


class Judge(Protocol):
    """Scores answers. Higher is better; the scores of different instructions are comparable."""

    async def score(self, instruction: Instruction, seed: int, answer: Reply) -> float:
        """Return the score of an answer, 0 to 1.

        Args:
            instruction: What was to be answered.
            seed: Of the answer.
            answer: The answer.
        """


class RuleJudge:
    """Scores by the rules of `score_answer`."""

    async def score(self, instruction: Instruction, seed: int, answer: Reply) -> float:
        return score_answer(instruction, answer.text, is_whole=answer.is_whole)


class ModelJudge:
    """Scores by a model, which rates from 0 to 10; an answer that it rates without a number counts 0.

    Args:
        model: The model that rates, usually a larger one than the one that answers.
        kept: Receives the scores, and has those of an earlier run.
    """

    def __init__(self, model: ChatModel, kept: AnswerFile) -> None:
        self._model, self._kept = model, kept

    async def score(self, instruction: Instruction, seed: int, answer: Reply) -> float:
        if (score := self._kept.score(instruction.id, seed)) is not None:
            return score
        parts = (instruction.instruction, instruction.profile, instruction.prompt)
        text = "\n".join(filter(None, [*parts, "Answer:", answer.text, _QUESTION]))
        messages = [{"role": "user", "content": text}]
        grade = await self._model.chat(messages, seed=0, most_tokens=_GRADE_TOKENS, temperature=0.0)
        rated = _GRADE.search(grade.text)
        score = min(10, int(rated[0])) / 10 if rated else 0.0
        self._kept.add_score(instruction.id, seed, score)
        return score


class RankedAnswers(NamedTuple):
    """The different answers to an instruction, best first, with their scores; and how many of all were cut."""

    instruction: Instruction
    answers: list[tuple[float, str]]
    cut: int

    def pair(self, least_margin: float) -> dict[str, Any] | None:
        """Return the row of the file of pairs; None if there are no two answers whose scores differ enough."""
        (best, chosen), (worst, rejected) = (self.answers[0], self.answers[-1]) if self.answers else [(0.0, "")] * 2
        if len(self.answers) < 2 or best - worst < least_margin:
            return None
        return {
            "id": self.instruction.id,
            "instruction": self.instruction.instruction,
            "profile": self.instruction.profile,
            "prompt": self.instruction.prompt,
            "chosen": chosen,
            "rejected": rejected,
            "score_chosen": round(best, 4),
            "score_rejected": round(worst, 4),
        }


async def rank_answers(
    instructions: Iterable[Instruction],
    model: ChatModel,
    judge: Judge,
    kept: AnswerFile,
    config: AnswerConfig,
    *,
    on_progress: Callable[[RankedAnswers], None] = lambda ranked: None,
) -> list[RankedAnswers]:
    """Request the answers to instructions, and rank them.

    Args:
        instructions: Are read as they are needed. Ids are unique.
        model: Writes the answers.
        judge: Ranks them.
        kept: Receives the answers, and has those of an earlier run, which are not requested again.
        config: The settings.
        on_progress: Called with each instruction that is finished.

    Returns:
        The answers of each instruction, sorted by its id.

    Raises:
        UserError: An endpoint cannot be reached, or refuses a request.
        BrewError: An endpoint does not answer.
    """
    left = iter(instructions)
    finished: list[RankedAnswers] = []

    async def work() -> None:
        for instruction in left:  # all workers take from it
            finished.append(ranked := await _ranked(instruction, model, judge, kept, config))
            on_progress(ranked)

    await _all(work() for _ in range(max(1, config.concurrency // config.answers)))
    return sorted(finished, key=lambda ranked: ranked.instruction.id)


def write_pairs(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Write pairs as the file that `read_preferences` reads, with the columns id, score_chosen and score_rejected."""
    replace_atomically(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


async def _ranked(
    instruction: Instruction, model: ChatModel, judge: Judge, kept: AnswerFile, config: AnswerConfig
) -> RankedAnswers:
    """Return the answers to an instruction; equal ones are scored once, under the first seed."""
    replies = await _all(_answer(instruction, seed, model, kept, config) for seed in range(config.answers))
    different: dict[str, tuple[int, Reply]] = {}
    for seed, reply in enumerate(replies):
        if text := reply.text.strip():
            different.setdefault(text, (seed, reply))
    scores = await _all(judge.score(instruction, seed, reply) for seed, reply in different.values())
    ranked = sorted(zip(scores, different, strict=True), key=lambda answer: -answer[0])
    return RankedAnswers(instruction, ranked, sum(not reply.is_whole for reply in replies))


async def _answer(
    instruction: Instruction, seed: int, model: ChatModel, kept: AnswerFile, config: AnswerConfig
) -> Reply:
    if (answer := kept.answer(instruction.id, seed)) is not None:
        return answer
    system = "\n".join(filter(None, [instruction.instruction, instruction.profile]))
    messages = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": instruction.prompt})
    answer = await model.chat(messages, seed=seed, most_tokens=config.most_tokens, temperature=config.temperature)
    kept.add_answer(instruction.id, seed, answer)
    return answer


async def _all(calls: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Return the results of calls that run at once; the first error cancels the others."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(call) for call in calls]
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return [task.result() for task in tasks]
