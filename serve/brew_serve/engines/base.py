"""The `Engine` protocol between scoring and model execution, its data types, and request checks for all engines.

`VllmEngine` runs in production; `TorchEngine` is the reference. The same contract tests run on both.
"""

from collections.abc import AsyncGenerator, Awaitable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from itertools import takewhile
from typing import Literal, Protocol

from brew_platform.errors import UserError

__all__ = [
    "Engine",
    "EngineUsage",
    "Generated",
    "GeneratedToken",
    "Sampling",
    "Shared",
    "check_generation",
    "check_length",
    "check_request",
    "generate",
]


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Settings of text generation."""

    max_tokens: int
    temperature: float = 1.0  # 0 takes the likeliest token each time
    top_p: float = 1.0  # samples from the likeliest tokens that together have this probability
    seed: int | None = None  # the same seed on the same engine gives the same text
    stop_ids: tuple[int, ...] = ()  # each of these token ids ends the text and is not part of it
    top_logprobs: int = 0  # alternatives returned per token, at most 20


@dataclass(frozen=True, kw_only=True)
class GeneratedToken:
    """A token of a continuation. Log-probabilities are natural, over the whole vocabulary, at temperature 1.

    Args:
        id: Token id.
        logprob: Log-probability of the token.
        top: The `Sampling.top_logprobs` likeliest token ids at this position with their log-probabilities.
    """

    id: int
    logprob: float
    top: dict[int, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Generated:
    """A whole continuation of a prompt. Log-probabilities are as in `GeneratedToken`.

    Args:
        ids: Token ids, without the stop token.
        logprobs: Natural log-probability of each token.
        top: Per position, the likeliest token ids with their log-probabilities; empty dicts if none were requested.
        finish: "stop" if a stop token ended the text, "length" if max_tokens did.
    """

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    top: tuple[dict[int, float], ...]
    finish: Literal["stop", "length"]


@dataclass(frozen=True, kw_only=True)
class EngineUsage:
    """Work of an engine since it was loaded."""

    prompts: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0  # prompt tokens that came from the prefix cache
    fallbacks: int = 0  # 1 if the engine's own fast path failed its self-check, so that a slower one computes

    def plus(self, *, prompts: int = 1, prompt_tokens: int, cached_tokens: int = 0) -> "EngineUsage":
        """Return the usage after further work."""
        return replace(
            self,
            prompts=self.prompts + prompts,
            prompt_tokens=self.prompt_tokens + prompt_tokens,
            cached_tokens=self.cached_tokens + cached_tokens,
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class Shared:
    """The common prefix of prompts that are requested together, in token ids. An engine can compute it once for all."""

    ids: tuple[int, ...]

    @classmethod
    def of(cls, prompts: Sequence[tuple[int, ...]]) -> "Shared":
        """Return the longest common prefix: that of the smallest and the largest prompt in lexicographic order."""
        ends = min(prompts, default=()), max(prompts, default=())
        same = takewhile(lambda pair: pair[0] == pair[1], zip(*ends, strict=False))
        return cls(ids=tuple(first for first, _ in same))


class Engine(Protocol):
    """A loaded model that answers many calls concurrently. Cancelling a call stops its computation."""

    usage: EngineUsage

    def next_token_logprobs(
        self, prompt: Sequence[int], token_ids: Sequence[int], shared: Shared | None = None
    ) -> Awaitable[list[float]]:
        """Return the natural log-probability of each of `token_ids` as the next token after `prompt`.

        The log-softmax is over the whole vocabulary, of fp32 logits, at temperature 1.

        Args:
            prompt: Token ids, one or more; at most the model's context length minus one.
            token_ids: Target token ids, one or more, all different.
            shared: A common prefix; `prompt` begins with its ids. Pass the same object with each of several concurrent
                prompts. It saves work and does not change results.

        Returns:
            One float per target token, in the order of `token_ids`.

        Raises:
            UserError: The prompt is empty or too long, or an id is not in the vocabulary.
            BrewError: The engine failed.
        """

    def stream(self, prompt: Sequence[int], sampling: Sampling) -> AsyncGenerator[GeneratedToken, None]:
        """Continue a prompt, and yield each token as soon as it is generated; the stop token is not yielded.

        The prompt is checked before the first token. Closing the generator stops the computation.

        Args:
            prompt: Token ids, one or more.
            sampling: Settings of the generation.

        Raises:
            UserError: The prompt is empty, prompt and max_tokens together exceed the context, or an id is not in the
                vocabulary.
            BrewError: The engine failed.
        """

    def check(self) -> None:
        """Check that the engine can answer calls.

        Raises:
            BrewError: It cannot; its owner should be restarted.
        """

    def close(self) -> None:
        """Stop the engine and every process it started. A second call does nothing."""


async def generate(engine: Engine, prompt: Sequence[int], sampling: Sampling) -> Generated:
    """Return the whole continuation that `engine` streams.

    Raises:
        UserError, BrewError: As `Engine.stream`.
    """
    async with aclosing(engine.stream(prompt, sampling)) as stream:
        tokens = [token async for token in stream]
    return Generated(
        ids=tuple(token.id for token in tokens),
        logprobs=tuple(token.logprob for token in tokens),
        top=tuple(token.top for token in tokens),
        finish="length" if len(tokens) == sampling.max_tokens else "stop",
    )


def check_length(length: int, *, context_length: int, at_least: bool = False) -> None:
    """Validate the length of a prompt.

    Args:
        length: Tokens.
        context_length: Tokens that the model reads.
        at_least: Whether `length` is a lower bound.

    Raises:
        UserError: The prompt is longer than context_length - 1.
    """
    if length >= context_length:
        raise UserError(
            f"the prompt has {'at least ' if at_least else ''}{length} tokens, but this model reads "
            f"{context_length - 1} before the next token. Shorten it, or load the model with a longer context."
        )


def check_request(
    prompt: Sequence[int],
    token_ids: Sequence[int],
    *,
    context_length: int,
    vocabulary_size: int,
    length: int | None = None,
) -> None:
    """Validate a request for next-token log-probabilities.

    Args:
        prompt: Token ids of the prompt, or of a part of it.
        token_ids: Target token ids.
        context_length: Tokens that the model reads.
        vocabulary_size: Number of token ids of the model.
        length: Tokens of the whole prompt, if `prompt` is a part of it.

    Raises:
        UserError: The prompt is empty or longer than context_length - 1, or an id is not in the vocabulary.
    """
    if not prompt or not token_ids:
        raise UserError("the prompt or the list of target token ids is empty. Pass at least one id of each.")
    check_length(len(prompt) if length is None else length, context_length=context_length)
    low, high = min(min(prompt), min(token_ids)), max(max(prompt), max(token_ids))
    if low < 0 or high >= vocabulary_size:
        raise UserError(
            f"token id {low if low < 0 else high} is not in the vocabulary (0 to {vocabulary_size - 1}). Encode "
            f"prompts with the tokenizer of this model."
        )


def check_generation(prompt: Sequence[int], sampling: Sampling, *, context_length: int, vocabulary_size: int) -> None:
    """Validate a request for text generation.

    Args:
        prompt: Token ids.
        sampling: Settings of the generation.
        context_length: Tokens that the model reads and generates together.
        vocabulary_size: Number of token ids of the model.

    Raises:
        UserError: As `check_request`, or prompt and max_tokens together exceed the context.
    """
    check_request(prompt, [0], context_length=context_length, vocabulary_size=vocabulary_size)
    if len(prompt) + sampling.max_tokens > context_length:
        raise UserError(
            f"the prompt has {len(prompt)} tokens and max_tokens is {sampling.max_tokens}, but this model reads "
            f"{context_length} in all. Shorten the prompt, or set max_tokens to {context_length - len(prompt)} or less."
        )
