"""The `Engine` protocol between scoring and model execution, its data types, and request checks for all engines.

`VllmEngine` runs in production; `TorchEngine` is the reference. The same contract tests run on both.
"""

from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Literal, Protocol

from brew_platform.errors import UserError

__all__ = ["Engine", "EngineUsage", "Generated", "Sampling", "Shared", "check_generation", "check_request"]


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How a text is continued."""

    max_tokens: int
    temperature: float = 1.0  # 0 takes the likeliest token each time
    top_p: float = 1.0  # only the likeliest tokens that together have this probability may follow
    seed: int | None = None  # the same seed on the same engine gives the same text
    stop_ids: tuple[int, ...] = ()  # any of these ends the text and is not part of it
    top_logprobs: int = 0  # alternatives returned per token, at most 20


@dataclass(frozen=True, kw_only=True)
class Generated:
    """A continuation; log-probabilities are over the whole vocabulary, at temperature 1.

    Args:
        ids: its tokens.
        logprobs: of each token, as many.
        top: the likeliest tokens at each position with theirs, as many; empty dicts where none were requested.
        finish: stop at a stop token, else length.
    """

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    top: tuple[dict[int, float], ...]
    finish: Literal["stop", "length"]


@dataclass(frozen=True, kw_only=True)
class EngineUsage:
    """What an engine has done since it was loaded."""

    prompts: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0  # of these, taken from the prefix cache

    def plus(self, *, prompts: int = 1, prompt_tokens: int, cached_tokens: int = 0) -> "EngineUsage":
        """With so many prompts more."""
        return EngineUsage(
            prompts=self.prompts + prompts,
            prompt_tokens=self.prompt_tokens + prompt_tokens,
            cached_tokens=self.cached_tokens + cached_tokens,
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class Shared:
    """What prompts that are requested together begin with, token ids: an engine may compute it once for all of them."""

    ids: tuple[int, ...]

    @classmethod
    def of(cls, prompts: Sequence[tuple[int, ...]]) -> "Shared":
        """All that they share: what the smallest and the largest do, as no other differs earlier."""
        ends = min(prompts, default=()), max(prompts, default=())
        same = takewhile(lambda pair: pair[0] == pair[1], zip(*ends, strict=False))
        return cls(ids=tuple(first for first, _ in same))


class Engine(Protocol):
    """A loaded model that answers many calls at once. A call that is cancelled is not computed any further."""

    usage: EngineUsage

    def next_token_logprobs(
        self, prompt: Sequence[int], token_ids: Sequence[int], shared: Shared | None = None
    ) -> Awaitable[list[float]]:
        """Natural log of each wanted token's probability to come next after `prompt`.

        The log-softmax is over the whole vocabulary and is taken from fp32 logits, at temperature 1.

        Args:
            prompt: token ids, one or more; at most the model's context length less one.
            token_ids: the wanted tokens, one or more, all different.
            shared: the same object with each of several prompts that are requested at once; `prompt` begins with its
                ids. It saves work and changes no answer.

        Returns:
            As many floats as `token_ids`, in its order.

        Raises:
            UserError: the prompt is empty or too long, or an id is not in the vocabulary.
            BrewError: the engine failed.
        """

    async def generate(self, prompt: Sequence[int], sampling: Sampling) -> Generated:
        """Continues `prompt`.

        Raises:
            UserError: the prompt is empty, it and max_tokens are longer than the context, or an id is not in the
                vocabulary.
            BrewError: the engine failed.
        """

    def check(self) -> None:
        """Raises a BrewError when the engine can answer no more calls, so that its owner can be restarted."""

    def close(self) -> None:
        """Ends the engine and every process it started; harmless when called twice."""


def check_request(
    prompt: Sequence[int],
    token_ids: Sequence[int],
    *,
    context_length: int,
    vocabulary_size: int,
    length: int | None = None,
) -> None:
    """Refuses what no engine can answer.

    Args:
        length: of the whole prompt, where `prompt` is but a part of it.

    Raises:
        UserError: the prompt is empty or longer than context_length - 1, or an id is not in the vocabulary.
    """
    if not prompt or not token_ids:
        raise UserError("the prompt and the wanted token ids must each hold at least one id; give both.")
    length = len(prompt) if length is None else length
    if length >= context_length:
        raise UserError(
            f"the prompt has {length} tokens, but this model reads {context_length - 1} before an answer. Shorten "
            f"it, or load the model with a longer context."
        )
    low, high = min(min(prompt), min(token_ids)), max(max(prompt), max(token_ids))
    if low < 0 or high >= vocabulary_size:
        raise UserError(
            f"token id {low if low < 0 else high} is not in the vocabulary (0 to {vocabulary_size - 1}). Encode "
            f"prompts with this model's own tokenizer."
        )


def check_generation(prompt: Sequence[int], sampling: Sampling, *, context_length: int, vocabulary_size: int) -> None:
    """Refuses what no engine can continue.

    Raises:
        UserError: as `check_request`, or the answer would not fit.
    """
    check_request(prompt, [0], context_length=context_length, vocabulary_size=vocabulary_size)
    if len(prompt) + sampling.max_tokens > context_length:
        raise UserError(
            f"the prompt has {len(prompt)} tokens and may be continued by {sampling.max_tokens}, but this model reads "
            f"{context_length} in all. Shorten it, or ask for at most {context_length - len(prompt)} tokens."
        )
