"""Makes preference pairs with a served model: it answers each instruction several times, and a judge ranks the answers.

The model is served by any endpoint with OpenAI's chat completions: our service, or vLLM. The best and the worst answer
become a pair if their scores differ enough. Results are appended to a file as they arrive, so a run that was killed
continues where it ended.

Source: 360Brew, arXiv 2501.16450, section 3 (instruction fine-tuning with preferences); UltraFeedback, arXiv
2310.01377 (several answers, ranked by a judge).
"""

import asyncio
import json
import re
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Protocol, TypeVar

import httpx

from brew_data.corpora.answer_rules import Instruction, score_answer
from brew_platform.errors import BrewError, UserError
from brew_platform.files import atomic_file, replace_atomically
from brew_platform.settings import (
    NonNegativeFloat,
    NonNegativeInt,
    NonNegativeSeconds,
    PositiveInt,
    Range,
    Seconds,
    Settings,
)

__all__ = ["AnswerConfig", "ChatModel", "Judge", "ModelJudge", "RuleJudge", "make_pairs"]

T = TypeVar("T")
_BUSY = (408, 429, 500, 502, 503, 504)
_GRADE = re.compile(r"\d+")
_QUESTION = (
    "Rate the answer from 0 (wrong or useless) to 10 (correct, helpful, in the requested form). Write the number only."
)


@dataclass(frozen=True, kw_only=True)
class AnswerConfig(Settings):
    """How answers are requested.

    Raises:
        ConfigError: A value is out of its range.
    """

    url: str  # of the endpoint, up to and including /v1
    model: str  # its name there
    answers: Annotated[int, Range(ge=2)] = 4  # per instruction; each has a seed of its own
    most_tokens: PositiveInt = 256  # of an answer
    temperature: NonNegativeFloat = 1.0  # of sampling; 0: all answers are the same
    concurrency: PositiveInt = 16  # instructions that are answered at once
    timeout_seconds: Seconds = 120.0  # of a request
    retries: NonNegativeInt = 5  # of a request that the endpoint could not serve
    retry_seconds: NonNegativeSeconds = 1.0  # before the first retry; each waits twice as long as the one before
    least_margin: NonNegativeFloat = 0.1  # between the scores of a pair; 0: answers with equal scores are a pair, too


class ChatModel:
    """A model behind an endpoint with OpenAI's chat completions.

    Args:
        config: The endpoint.
        client: Sends the requests.
    """

    def __init__(self, config: AnswerConfig, client: httpx.AsyncClient) -> None:
        self._config, self._client = config, client

    async def answer(self, instruction: Instruction, *, seed: int) -> str:
        """Return an answer to an instruction."""
        system = "\n".join(filter(None, [instruction.instruction, instruction.profile]))
        messages = [{"role": "system", "content": system}] if system else []
        return await self.chat([*messages, {"role": "user", "content": instruction.prompt}], seed=seed)

    async def chat(self, messages: list[dict[str, str]], *, seed: int) -> str:
        """Return the next message.

        Raises:
            UserError: The endpoint refuses the request.
            BrewError: It does not answer, also after the retries.
        """
        config = self._config
        body = {
            "model": config.model,
            "messages": messages,
            "seed": seed,
            "max_tokens": config.most_tokens,
            "temperature": config.temperature,
        }
        fault = ""
        for attempt in range(config.retries + 1):
            if attempt:
                await asyncio.sleep(config.retry_seconds * 2 ** (attempt - 1))
            try:
                response = await self._client.post(
                    f"{config.url.rstrip('/')}/chat/completions", json=body, timeout=config.timeout_seconds
                )
            except httpx.TransportError as error:
                fault = f"{type(error).__name__}: {error}"
                continue
            if response.status_code in _BUSY:
                fault = f"status {response.status_code}"
                continue
            if response.status_code != 200:
                raise UserError(
                    f"{config.url} refuses the request with status {response.status_code}: {response.text[:300]}. "
                    f"Correct url, model or the settings of the answers."
                )
            return _content(response, config.url)
        raise BrewError(
            f"{config.url} does not answer after {config.retries} retries ({fault}). Check the service, then run "
            f"again: finished instructions are kept."
        )


class Judge(Protocol):
    """Scores answers. Higher is better; the scores of different instructions are comparable."""

    async def score(self, instruction: Instruction, answer: str) -> float:
        """Return the score of an answer, 0 to 1."""


class RuleJudge:
    """Scores by the rules of `score_answer`."""

    async def score(self, instruction: Instruction, answer: str) -> float:
        return score_answer(instruction, answer)


class ModelJudge:
    """Scores by a model, which rates from 0 to 10; an answer without a number counts 0.

    Args:
        model: The model that rates, usually a larger one than the one that answers.
    """

    def __init__(self, model: ChatModel) -> None:
        self._model = model

    async def score(self, instruction: Instruction, answer: str) -> float:
        parts = (instruction.instruction, instruction.profile, instruction.prompt)
        text = "\n".join(filter(None, [*parts, "Answer:", answer, _QUESTION]))
        rated = _GRADE.search(await self._model.chat([{"role": "user", "content": text}], seed=0))
        return min(10, int(rated[0])) / 10 if rated else 0.0


async def make_pairs(
    instructions: Iterable[Instruction],
    model: ChatModel,
    judge: Judge,
    out: Path,
    config: AnswerConfig,
    *,
    on_progress: Callable[[int], None] = lambda done: None,
) -> int:
    """Answer instructions, rank the answers, and write the pairs.

    Args:
        instructions: Are read as they are needed. Ids are unique.
        model: Writes the answers.
        judge: Ranks them.
        out: The file that `read_preferences` reads (`.jsonl`), with the columns `id`, `score_chosen` and
            `score_rejected` in addition, sorted by id. While it is made, `<out>.partial` has what is finished.
        config: The settings.
        on_progress: Called with the number of instructions that are finished.

    Returns:
        The number of pairs. Instructions whose answers are equal, or have scores that differ too little, have none.

    Raises:
        UserError: The endpoint refuses a request.
        BrewError: The endpoint does not answer.
    """
    partial = out.with_name(f"{out.name}.partial")
    done = {str(row["id"]) for row in _finished(partial)}
    left = (instruction for instruction in instructions if instruction.id not in done)
    finished = len(done)
    with partial.open("a", encoding="utf-8") as file:

        async def work() -> None:
            nonlocal finished
            for instruction in left:  # all workers take from it
                row = await _answered(instruction, model, judge, config)
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
                file.flush()
                finished += 1
                on_progress(finished)

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(config.concurrency):
                    group.create_task(work())
        except ExceptionGroup as errors:
            raise _first(errors) from None
    pairs = sorted((row for row in _finished(partial) if "chosen" in row), key=lambda row: str(row["id"]))
    with atomic_file(out) as temporary:
        temporary.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in pairs), encoding="utf-8")
    partial.unlink()
    return len(pairs)


async def _answered(instruction: Instruction, model: ChatModel, judge: Judge, config: AnswerConfig) -> dict[str, Any]:
    """Return the pair of an instruction, or only its id."""
    answers = await _all(model.answer(instruction, seed=seed) for seed in range(config.answers))
    distinct = list(dict.fromkeys(answer.strip() for answer in answers if answer.strip()))
    scores = await _all(judge.score(instruction, answer) for answer in distinct)
    ranked = sorted(zip(scores, distinct, strict=True), key=lambda pair: -pair[0])
    if len(ranked) < 2 or ranked[0][0] - ranked[-1][0] < config.least_margin:
        return {"id": instruction.id}
    (best, chosen), (worst, rejected) = ranked[0], ranked[-1]
    return {
        "id": instruction.id,
        "instruction": instruction.instruction,
        "profile": instruction.profile,
        "prompt": instruction.prompt,
        "chosen": chosen,
        "rejected": rejected,
        "score_chosen": round(best, 4),
        "score_rejected": round(worst, 4),
    }


async def _all(calls: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Return the results of calls that run at once; an error cancels the others."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(call) for call in calls]
    return [task.result() for task in tasks]


def _first(error: Exception) -> Exception:
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error


def _finished(partial: Path) -> list[Mapping[str, Any]]:
    """Return the rows that are finished, and remove the last line if it is torn."""
    if not partial.exists():
        return []
    *lines, torn = partial.read_text(encoding="utf-8", errors="replace").split("\n")
    if torn:
        replace_atomically(partial, "".join(f"{line}\n" for line in lines))
    return [json.loads(line) for line in lines]


def _content(response: httpx.Response, url: str) -> str:
    try:
        content = response.json()["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError) as error:
        raise BrewError(
            f"{url} answers with something that is not a chat completion ({error!r}). Check that it is the address of "
            f"an endpoint with OpenAI's API, up to /v1."
        ) from error
    return str(content or "")
