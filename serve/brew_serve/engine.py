"""The seam between scoring and whatever runs the model: token ids in, log-probabilities of the next token out.

Owns: the `Engine` protocol, and the checks that every engine makes of what it is given. Implementations: `VllmEngine`
(serving and batch) and `TorchEngine` (the plain reference that every other must equal). One suite of contract tests
runs on each.
"""

from collections.abc import Sequence
from typing import Protocol

from brew_platform.errors import UserError

__all__ = ["Engine", "check_request"]


class Engine(Protocol):
    """A loaded model that answers many calls at once."""

    async def next_token_logprobs(self, prompt: Sequence[int], token_ids: Sequence[int]) -> list[float]:
        """Natural log of each wanted token's probability to come next after `prompt`.

        The log-softmax is over the whole vocabulary and is taken from fp32 logits, at temperature 1.

        Args:
            prompt: token ids, one or more; at most the model's context length less one.
            token_ids: the wanted tokens, one or more, all different.

        Returns:
            As many floats as `token_ids`, in its order.

        Raises:
            UserError: the prompt is empty or too long, or an id is not in the vocabulary.
            BrewError: the engine failed.
        """

    def check(self) -> None:
        """Raises a BrewError when the engine can answer no more calls, so that its owner can be restarted."""

    def close(self) -> None:
        """Ends the engine and every process it started; harmless when called twice."""


def check_request(
    prompt: Sequence[int], token_ids: Sequence[int], *, context_length: int, vocabulary_size: int
) -> None:
    """Refuses what no engine can answer.

    Raises:
        UserError: the prompt is empty or longer than context_length - 1, or an id is not in the vocabulary.
    """
    if not prompt or not token_ids:
        raise UserError("the prompt and the wanted token ids must each hold at least one id; give both.")
    if len(prompt) >= context_length:
        raise UserError(
            f"the prompt has {len(prompt)} tokens, but this model reads {context_length - 1} before an answer. Shorten "
            f"it, or load the model with a longer context."
        )
    low, high = min(min(prompt), min(token_ids)), max(max(prompt), max(token_ids))
    if low < 0 or high >= vocabulary_size:
        raise UserError(
            f"token id {low if low < 0 else high} is not in the vocabulary (0 to {vocabulary_size - 1}). Encode "
            f"prompts with this model's own tokenizer."
        )
