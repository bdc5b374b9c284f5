"""Packed passes: a shared prefix is computed once without changing results, for all model families and processes."""

import asyncio
import json
import random
from pathlib import Path

import pytest
import torch

from brew_platform.errors import UserError
from brew_serve.engines.base import Engine, Shared
from brew_serve.engines.config import EngineConfig
from brew_serve.engines.torch import TorchEngine
from brew_serve.version import LoadedVersion

from ....tiny_families import write_tiny
from ...engine_processes import ENGINES

pytestmark = ENGINES


def sharing(shared: list[int], count: int, seed: int) -> list[list[int]]:
    """Return prompts that begin with the same tokens; the last prompt consists of these only."""
    draw = random.Random(seed)
    return [[*shared, *(draw.randrange(2, 300) for _ in range(1 + n % 20))] for n in range(count - 1)] + [shared]


async def agreed(engine: Engine, reference: Engine) -> list[list[float]]:
    """Return the results of both engines for eight prompts that share 77 tokens."""
    shared = [2 + (13 * i) % 300 for i in range(77)]
    prompts = sharing(shared, 8, seed=2)
    together = Shared(ids=tuple(shared))
    found = await asyncio.gather(*(engine.next_token_logprobs(prompt, [20, 30], together) for prompt in prompts))
    for prompt, logprobs in zip(prompts, found, strict=True):
        assert logprobs == pytest.approx(await reference.next_token_logprobs(prompt, [20, 30]), abs=1e-4)
    assert engine.usage.fallbacks == 0, "packed passes are tested, not vLLM's scheduler"
    return found


@pytest.mark.real
@pytest.mark.parametrize("length", [1, 20, 31, 32, 63, 100, 340, 350])
async def test_a_shared_prefix_is_computed_once_and_changes_no_result(
    vllm: Engine, reference: Engine, length: int
) -> None:
    shared = [2 + (length + 11 * i) % 290 for i in range(length)]
    prompts = sharing(shared, 24, seed=length)
    expected = [await reference.next_token_logprobs(prompt, [20, 30, 40]) for prompt in prompts]
    before = vllm.usage
    together = Shared(ids=tuple(shared))
    found = await asyncio.gather(*(vllm.next_token_logprobs(prompt, [20, 30, 40], together) for prompt in prompts))
    for logprobs, target in zip(found, expected, strict=True):
        assert logprobs == pytest.approx(target, abs=1e-4)
    computed = (vllm.usage.prompt_tokens - vllm.usage.cached_tokens) - (before.prompt_tokens - before.cached_tokens)
    tail = length % 32
    own = sum(len(prompt) - length for prompt in prompts) + (tail or 32)  # of the last, its last block
    again = 22 * tail if tail < 12 else 0  # too little for a forward of its own
    assert computed <= length + own + again


@pytest.mark.real
async def test_prompts_can_begin_with_blocks_of_another_prompt_of_the_pass(vllm: Engine, reference: Engine) -> None:
    draw = random.Random(11)
    for _ in range(12):
        long = [draw.randrange(2, 300) for _ in range(300)]
        calls: list[tuple[list[int], Shared | None]] = []
        for _ in range(draw.randrange(2, 6)):  # alone, or several that share, all with parts of the same beginning
            begins = long[: draw.randrange(1, 300)]
            count = draw.choice([1, 1, 2, 12])
            together = Shared(ids=tuple(begins)) if count > 1 else None
            calls += [([*begins, *(draw.randrange(2, 300) for _ in range(n + 1))], together) for n in range(count)]
        found = await asyncio.gather(*(vllm.next_token_logprobs(prompt, [20, 30], shared) for prompt, shared in calls))
        for (prompt, _), logprobs in zip(calls, found, strict=True):
            assert logprobs == pytest.approx(await reference.next_token_logprobs(prompt, [20, 30]), abs=1e-4)


@pytest.mark.real
async def test_a_cancelled_call_does_not_delay_calls_with_the_same_prefix(vllm: Engine, reference: Engine) -> None:
    shared = [3 + (5 * i) % 290 for i in range(75)]
    prompts = sharing(shared, 40, seed=1)
    expected = [await reference.next_token_logprobs(prompt, [20, 30]) for prompt in prompts]
    for gone in ([0], [0, 1, 2], list(range(10, 40)), list(range(40))):
        for pauses in (0, 3):
            together = Shared(ids=tuple(shared))
            tasks = [asyncio.ensure_future(vllm.next_token_logprobs(prompt, [20, 30], together)) for prompt in prompts]
            for _ in range(pauses):
                await asyncio.sleep(0)
            for number in gone:
                tasks[number].cancel()
            found = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 20)
            for number, (logprobs, target) in enumerate(zip(found, expected, strict=True)):
                if number not in gone:
                    assert logprobs == pytest.approx(target, abs=1e-4)
    with pytest.raises(ValueError, match="does not begin with the ids of"):
        await vllm.next_token_logprobs([7, *shared], [20], Shared(ids=tuple(shared)))


@pytest.mark.real
async def test_groups_that_fill_the_cache_do_not_wait_for_each_other(
    version_folder: Path, version: LoadedVersion, reference: Engine
) -> None:
    from brew_serve.engines.vllm.engine import VllmEngine

    model = json.loads((version_folder / "config.json").read_text())
    head = model.get("head_dim") or model["hidden_size"] // model["num_attention_heads"]
    token_bytes = 2 * 4 * model["num_hidden_layers"] * model["num_key_value_heads"] * head
    room = version.compiler.format.context_length + 64  # tokens: one long prompt and a few more
    engine = VllmEngine(version_folder, EngineConfig(kv_cache_bytes=room * token_bytes))
    try:
        for _ in range(2):
            beginnings = [[2 + (number + 7 * i) % 290 for i in range(345)] for number in range(4)]
            groups = [(sharing(prefix, 12, seed=number), prefix) for number, prefix in enumerate(beginnings)]
            calls = [
                engine.next_token_logprobs(prompt, [20, 30], together)
                for prompts, prefix in groups
                for together in [Shared(ids=tuple(prefix))]
                for prompt in prompts
            ]
            found = await asyncio.wait_for(asyncio.gather(*calls), 60)
        for logprobs, prompt in zip(found, (prompt for prompts, _ in groups for prompt in prompts), strict=True):
            assert logprobs == pytest.approx(await reference.next_token_logprobs(prompt, [20, 30]), abs=1e-4)
    finally:
        engine.close()


@pytest.mark.real
async def test_two_tensor_parallel_processes_agree_with_plain_pytorch(
    version_folder: Path, reference: Engine, version: LoadedVersion
) -> None:
    from brew_serve.engines.vllm.engine import VllmEngine

    engine = VllmEngine(version_folder, EngineConfig(tensor_parallel_size=2, kv_cache_bytes=64 * 2**20, threads=1))
    try:
        for length in (4, version.compiler.format.context_length - 1):
            prompt = [2 + (7 * i) % 300 for i in range(length)]
            expected = await reference.next_token_logprobs(prompt, [20, 30, 40])
            assert await engine.next_token_logprobs(prompt, [20, 30, 40]) == pytest.approx(expected, abs=1e-4)
        await agreed(engine, reference)
    finally:
        engine.close()


@pytest.mark.real
@pytest.mark.parametrize("family", ["llama", "qwen3_moe", "gemma3_text"])
async def test_other_families_agree_with_plain_pytorch(family: str, tmp_path: Path) -> None:
    """Compare packed passes and vLLM's scheduler. Sliding windows are shorter than the prompts."""
    from brew_serve.engines.vllm.engine import VllmEngine

    write_tiny(family, tmp_path / "model", vocab_size=320, max_position_embeddings=384)
    plain = TorchEngine(tmp_path / "model")
    engine = VllmEngine(tmp_path / "model", EngineConfig(kv_cache_bytes=64 * 2**20))
    try:
        found = await agreed(engine, plain)
        assert max(found)[0] - min(found)[0] > 0.1, "answers must differ"
        await agreed(engine, plain)  # from the cache
        prompts = [[2 + (17 * i + n) % 300 for i in range(length)] for n, length in enumerate((1, 13, 64, 370))]
        expected = [await plain.next_token_logprobs(prompt, [20, 30]) for prompt in prompts]
        for compute in (engine.next_token_logprobs, engine._scheduled):
            found = await asyncio.gather(*(compute(prompt, [20, 30]) for prompt in prompts))
            for logprobs, target in zip(found, expected, strict=True):
                assert logprobs == pytest.approx(target, abs=1e-4)
    finally:
        engine.close()
        plain.close()


@pytest.mark.real
async def test_a_family_without_last_layer_support_agrees_with_plain_pytorch(tmp_path: Path) -> None:
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    from brew_serve.engines.vllm.engine import VllmEngine

    sizes = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 96}
    torch.manual_seed(0)
    GPTNeoXForCausalLM(
        GPTNeoXConfig(vocab_size=320, max_position_embeddings=384, initializer_range=0.2, **sizes)
    ).save_pretrained(tmp_path / "model")
    plain = TorchEngine(tmp_path / "model")
    engine = VllmEngine(tmp_path / "model")
    try:
        await agreed(engine, plain)
    finally:
        engine.close()
        plain.close()


@pytest.mark.real
async def test_a_prompt_that_is_too_long_with_its_prefix_is_refused_with_its_length(vllm: Engine) -> None:
    shared = Shared(ids=tuple([9] * 400))
    with pytest.raises(UserError, match="the prompt has 403 tokens, but this model reads 383"):
        await vllm.next_token_logprobs([*shared.ids, 7, 8, 9], [20], shared)
