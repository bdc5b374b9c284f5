"""Compares packed passes with vLLM's scheduler on tiny prompts, before an engine answers its first call.

Packed passes (`scoring_worker`) use vLLM's model and kernels in ways that vLLM does not test, so that a new release of
vLLM, another processor or another model family could change their results without an error. The prompts cover what
differs: a prefix that is shared, whole blocks and a rest of it, a cached prefix, and prompts alone. They are shorter
than a sliding window.

The module does not import vLLM.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence

from brew_serve.engines.base import Shared

__all__ = ["TOLERANCES", "largest_difference"]

# Of log-probabilities, by dtype of the weights: kernels differ in the order of their sums.
TOLERANCES = {"float32": 1e-3, "bfloat16": 0.1, "float16": 0.1}

_SHARED_TOKENS = 44  # more than a block on CPU, and with eight prompts worth a pass of its own
_TARGETS = 8

Packed = Callable[[Sequence[int], Sequence[int], Shared | None], Awaitable[list[float]]]
Scheduled = Callable[[Sequence[int], Sequence[int]], Awaitable[list[float]]]


async def largest_difference(packed: Packed, scheduled: Scheduled, *, context_length: int, vocabulary: int) -> float:
    """Return the largest difference between log-probabilities; infinity if only one is a number.

    Args:
        packed: Computes log-probabilities of target tokens in passes; arguments as `Engine.next_token_logprobs`.
        scheduled: The same through vLLM's scheduler.
        context_length: Tokens that the model reads.
        vocabulary: Number of token ids of the model.

    Raises:
        BrewError: The engine failed.
    """
    ids = [(7 + 13 * i) % vocabulary for i in range(min(_SHARED_TOKENS + 8, context_length - 1))]
    shared = Shared(ids=tuple(ids[:-8]))
    prompts = [[*shared.ids, *ids[start:]] for start in range(len(shared.ids), len(ids))] if shared.ids else []
    alone = [ids[:1], ids]
    targets = sorted({i * vocabulary // _TARGETS for i in range(_TARGETS)})
    expected = await asyncio.gather(*(scheduled(prompt, targets) for prompt in (*prompts, *alone)))
    differences = [0.0]
    for _ in range(2):  # the second time from the cache
        calls = [packed(prompt, targets, shared) for prompt in prompts] + [packed(ids, targets, None) for ids in alone]
        found = await asyncio.gather(*calls)
        differences += [
            _difference(value, other)
            for values, others in zip(found, expected, strict=True)
            for value, other in zip(values, others, strict=True)
        ]
    return max(differences)


def _difference(value: float, other: float) -> float:
    if math.isfinite(value) and math.isfinite(other):
        return abs(value - other)
    return 0.0 if repr(value) == repr(other) else math.inf  # a model with NaN has it in both
