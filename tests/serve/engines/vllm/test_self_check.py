"""The self-check of packed passes: which faults it finds, and that the engine then computes with the scheduler."""

import asyncio
import logging
import math
import time
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from brew_platform.errors import BrewError
from brew_serve.engines.base import Engine, Shared
from brew_serve.engines.torch import TorchEngine
from brew_serve.engines.vllm.self_check import TOLERANCES, largest_difference
from brew_serve.version import LoadedVersion

from ...engine_processes import ENGINES

pytestmark = ENGINES

Fault = Callable[[Sequence[int], list[float], bool], list[float]]  # prompt, right values, whether its prefix is shared

FAULTS: dict[str, tuple[Fault, float]] = {
    "none": (lambda prompt, values, shared: values, 0.0),
    "one value of a shared prompt": (
        lambda prompt, values, shared: [values[0] + 0.5 * (shared and len(prompt) == 49), *values[1:]],
        0.5,
    ),
    "prompts alone": (lambda prompt, values, shared: values if shared else [v - 0.25 for v in values], 0.25),
    "prompts longer than a block": (
        lambda prompt, values, shared: [v - 0.125 for v in values] if len(prompt) > 32 else values,
        0.125,
    ),
    "NaN": (lambda prompt, values, shared: [math.nan, *values[1:]], math.inf),
    "infinity": (lambda prompt, values, shared: [*values[:-1], math.inf], math.inf),
}


async def right(prompt: Sequence[int], targets: Sequence[int]) -> list[float]:
    return [-1.0 - sum(prompt) % 11 - target % 7 for target in targets]


@pytest.mark.parametrize("name", FAULTS)
async def test_a_fault_of_packed_passes_is_found(name: str) -> None:
    fault, expected = FAULTS[name]

    async def packed(prompt: Sequence[int], targets: Sequence[int], shared: Shared | None) -> list[float]:
        if shared is not None:
            assert tuple(prompt[: len(shared.ids)]) == shared.ids
        return fault(prompt, await right(prompt, targets), shared is not None)

    assert await largest_difference(packed, right, context_length=384, vocabulary=300) == expected


@pytest.mark.parametrize("context_length", [2, 3, 9, 10, 11, 40, 53, 54])
async def test_the_prompts_fit_a_short_context_and_a_small_vocabulary(context_length: int) -> None:
    seen: list[Sequence[int]] = []

    async def compute(prompt: Sequence[int], targets: Sequence[int], shared: Shared | None = None) -> list[float]:
        assert 1 <= len(prompt) < context_length
        assert all(0 <= id_ < 5 for id_ in (*prompt, *targets))
        assert len(set(targets)) == len(targets)
        seen.append(prompt)
        return [-1.0] * len(targets)

    assert await largest_difference(compute, compute, context_length=context_length, vocabulary=5) == 0
    assert seen


async def test_a_model_with_nan_is_no_fault_of_packed_passes() -> None:
    async def compute(prompt: Sequence[int], targets: Sequence[int], shared: Shared | None = None) -> list[float]:
        return [math.nan] * len(targets)

    assert await largest_difference(compute, compute, context_length=384, vocabulary=300) == 0


@pytest.mark.real
async def test_an_engine_whose_passes_disagree_computes_with_the_scheduler(
    vllm: Engine,
    reference: TorchEngine,
    version: LoadedVersion,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    from brew_serve.engines.vllm.engine import VllmEngine

    assert isinstance(vllm, VllmEngine)
    prompts = [[2, 30, 40, 50 + n] for n in range(4)]
    expected = [await reference.next_token_logprobs(prompt, [7, 70]) for prompt in prompts]
    usage = vllm.usage

    async def results() -> list[list[float]]:
        return await asyncio.gather(*(vllm.next_token_logprobs(prompt, [7, 70]) for prompt in prompts))

    start = time.perf_counter()
    await vllm._check_passes()
    print(f"\nthe self-check takes {time.perf_counter() - start:.3f} s")
    assert vllm._queue is not None
    assert vllm.usage == usage, "its prompts are not counted"
    score = vllm._score

    async def wrong(groups: list) -> list[bytes]:
        return [(np.frombuffer(answer, np.float32) + 2e-3).tobytes() for answer in await score(groups)]

    async def failing(groups: list) -> list[bytes]:
        raise BrewError("the engine failed (AttributeError: no attribute builder).")

    for send, reason in ((wrong, "they differ from its results by 0.002; 0.001 is allowed"), (failing, "no attribute")):
        with monkeypatch.context() as patch, caplog.at_level(logging.WARNING, "brew_serve"):
            patch.setattr(vllm._queue, "_send", send)
            patch.setattr(vllm, "_queue", vllm._queue)
            patch.setattr(vllm, "_is_checked", False)
            patch.setattr(vllm, "usage", usage)
            caplog.clear()
            for found, target in zip(await results(), expected, strict=True):
                assert found == pytest.approx(target, abs=1e-4)
            assert vllm._queue is None
            assert vllm.usage.fallbacks == 1
            assert "vLLM's scheduler computes all scores" in caplog.text
            assert reason in caplog.text
    assert TOLERANCES[vllm.config.dtype] == 1e-3
