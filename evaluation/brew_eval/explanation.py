"""Explains a score: how the probability changes when one part of the prompt is removed.

Source: leave-one-out differences of probability and log-odds, Robnik-Sikonja and Kononenko 2008, "Explaining
classifications for individual instances".
"""

import asyncio
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from brew_data.prompts.tasks import TaskSpec
from brew_data.schema import iso_time
from brew_eval.prompt_variants import CompiledPrompt, Kind, LeftOut, PromptPart, PromptVariants
from brew_platform.errors import BrewError, UserError
from brew_serve.engines.logprobs import InvalidOutput
from brew_serve.ranking.concurrency import gather_until
from brew_serve.ranking.scoring import Scored, Scorer

__all__ = ["FORMAT_VERSION", "Change", "Explanation", "Order", "explain", "log_odds", "sort_changes"]

FORMAT_VERSION = 1
Order = Literal["probability", "log_odds"]


@dataclass(frozen=True, kw_only=True)
class Change:
    """The score without one part.

    Args:
        kind: As in `Part`.
        name: turn 1 and so on, or the name of the field.
        text: What the part says, without any budget.
        time: Of an interaction: ISO 8601, UTC.
        probabilities: P(outcome) without the part, by name.
        score: P(any positive outcome) without the part.
        change: `score` minus the score of the whole prompt. It is negative if the part raises the score.
        log_odds_change: The same of ln(score / (1 - score)); None if one of the probabilities is 0 or 1.
    """

    kind: Kind
    name: str
    text: str
    time: str | None
    probabilities: dict[str, float]
    score: float
    change: float
    log_odds_change: float | None


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """The score of a row, and what changes it.

    Args:
        origin: Model, data and row, by name.
        positive: Names of the positive outcomes.
        labels: The text of each outcome, by its name.
        outcome: The true outcome; None if the action of the row is not an outcome of the task.
        prompt: The parts of the prompt, in order.
        probabilities: P(outcome) by name; they sum to 1.
        score: P(any positive outcome).
        log_odds: ln(score / (1 - score)); None if the score is 0 or 1.
        changes: The largest first.
        left_out: Parts without a score.
        warnings: What a reader must know of the row.
    """

    origin: dict[str, Any]
    positive: list[str]
    labels: dict[str, str]
    outcome: str | None
    prompt: list[PromptPart]
    probabilities: dict[str, float]
    score: float
    log_odds: float | None
    changes: list[Change]
    left_out: list[LeftOut]
    warnings: list[str]
    format_version: int = FORMAT_VERSION

    @property
    def tokens(self) -> int:
        """The number of tokens of the prompt."""
        return sum(part.tokens for part in self.prompt)

    def document(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)

    def to_json(self) -> str:
        """Return the explanation as JSON."""
        return json.dumps(self.document(), indent=2, allow_nan=False) + "\n"


async def explain(
    scorer: Scorer,
    variants: PromptVariants,
    *,
    outcome: str | None,
    origin: Mapping[str, Any],
    warnings: Sequence[str] = (),
    order: Order = "probability",
    in_flight: int = 128,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Explanation:
    """Score the prompt of a row, and the prompt without each of its parts.

    Args:
        scorer: Of the model.
        variants: The prompts.
        outcome: The true outcome of the row, or None.
        origin: Model, data and row, by name.
        warnings: What a reader must know of the row.
        order: How the changes are sorted (`sort_changes`).
        in_flight: Maximum number of prompts in the engine at a time.
        on_progress: Called with the number of scored prompts, and of all.

    Raises:
        UserError: The prompt is not valid for the model.
        InvalidOutput: The model computed NaN, or another number that is not a log-probability, for the whole prompt. A
            part without which it does is among `left_out`.
        BrewError: The engine failed.
    """
    task = variants.row.task
    prompts, left_out = variants.leave_one_out()
    base, *others = await _score(
        scorer, task, [variants.prompt, *prompts.values()], in_flight=in_flight, on_progress=on_progress
    )
    if isinstance(base, BrewError):
        raise base
    changes, odds = [], log_odds(base, task)
    for part, scored in zip(prompts, others, strict=True):
        if isinstance(scored, BrewError):
            left_out.append(LeftOut(part.kind, variants.name(part), str(scored)))
            continue
        other = log_odds(scored, task)
        changes.append(
            Change(
                kind=part.kind,
                name=variants.name(part),
                text=variants.text(part),
                time=iso_time(variants.row.history[int(part.key)].timestamp) if part.kind == "interaction" else None,
                probabilities=scored.probabilities,
                score=scored.score,
                change=scored.score - base.score,
                log_odds_change=None if other is None or odds is None else other - odds,
            )
        )
    return Explanation(
        origin=dict(origin),
        positive=list(task.positive),
        labels={found.name: found.label for found in variants.compiler.suite.outcomes(task)},
        outcome=outcome,
        prompt=variants.prompt_parts(),
        probabilities=base.probabilities,
        score=base.score,
        log_odds=odds,
        changes=sort_changes(changes, order),
        left_out=left_out,
        warnings=list(warnings),
    )


def log_odds(scored: Scored, task: TaskSpec) -> float | None:
    """Return ln(P(positive) / P(negative)) in nats; None if one of them is 0."""
    positive = math.fsum(value for name, value in scored.probabilities.items() if name in task.positive)
    negative = math.fsum(value for name, value in scored.probabilities.items() if name not in task.positive)
    return math.log(positive) - math.log(negative) if positive > 0 and negative > 0 else None


def sort_changes(changes: Sequence[Change], order: Order = "probability") -> list[Change]:
    """Return changes by their absolute size, the largest first; equal ones keep their order.

    Args:
        changes: The changes.
        order: `probability`: by the change of the score, then of the log-odds. `log_odds`: by that of the log-odds,
            then of the score. A change of the log-odds that is not known counts as infinite.
    """

    def size(change: Change) -> tuple[float, float]:
        sizes = (abs(change.change), math.inf if change.log_odds_change is None else abs(change.log_odds_change))
        return sizes if order == "probability" else sizes[::-1]

    return sorted(changes, key=size, reverse=True)


async def _score(
    scorer: Scorer,
    task: TaskSpec,
    prompts: Sequence[CompiledPrompt],
    *,
    in_flight: int,
    on_progress: Callable[[int, int], None],
) -> list[Scored | BrewError]:
    """Score prompts; one that cannot be scored does not stop the others."""
    free, done = asyncio.Semaphore(in_flight), 0

    async def score(prompt: CompiledPrompt) -> Scored | BrewError:
        nonlocal done
        async with free:
            try:
                return await scorer.score_prompt(task, prompt.prefix_ids, prompt.question_ids)
            except (UserError, InvalidOutput) as error:
                return error
            finally:
                done += 1
                on_progress(done, len(prompts))

    results = await gather_until(map(score, prompts))
    return [result for result in results if result is not None]  # without a time limit, all have one
