"""The contract of all engines, and the agreement of vLLM's engine with PyTorch."""

import asyncio
import math
from collections.abc import Iterator
from pathlib import Path

import pytest

from brew_data.prompts.compiler import Entity, PastInteraction
from brew_platform.errors import UserError
from brew_serve.engines.base import Engine, Sampling, generate
from brew_serve.engines.config import EngineConfig
from brew_serve.engines.rope_scaling import RopeScaling
from brew_serve.engines.torch import TorchEngine
from brew_serve.ranking.scoring import RankedCandidate, Scorer
from brew_serve.version import LoadedVersion

from ..engine_processes import ENGINES

pytestmark = ENGINES


@pytest.fixture(scope="module")
def scheduled(version: LoadedVersion, collected: None) -> Iterator[Engine]:
    """vLLM as on a GPU: its scheduler gets one request per prompt."""
    from brew_serve.engines.vllm.engine import VllmEngine

    engine = VllmEngine(version.folder, EngineConfig(passes=False, kv_cache_bytes=64 * 2**20))
    yield engine
    engine.close()


@pytest.fixture(
    params=[
        "reference",
        pytest.param("vllm", marks=pytest.mark.real),
        pytest.param("scheduled", marks=pytest.mark.real),
    ]
)
def engine(request: pytest.FixtureRequest) -> Engine:
    found: Engine = request.getfixturevalue(request.param)
    return found


# --- The contract ---


async def test_probabilities_of_the_whole_vocabulary_sum_to_one(engine: Engine, version: LoadedVersion) -> None:
    vocabulary = range(version.compiler.tokenizer.vocabulary_size)
    logprobs = await engine.next_token_logprobs([2, 30, 40, 50], list(vocabulary))
    assert len(logprobs) == len(vocabulary)
    assert sum(math.exp(value) for value in logprobs) == pytest.approx(1.0, abs=1e-5)


async def test_the_result_has_the_order_of_the_target_ids(engine: Engine) -> None:
    forward = await engine.next_token_logprobs([2, 30, 40, 50], [7, 70, 170])
    assert await engine.next_token_logprobs([2, 30, 40, 50], [170, 70, 7]) == pytest.approx(forward[::-1], abs=1e-6)
    assert len(set(forward)) == 3


async def test_the_longest_prompt_is_answered_and_a_longer_one_refused(engine: Engine, version: LoadedVersion) -> None:
    most = version.compiler.format.context_length - 1
    assert len(await engine.next_token_logprobs([9] * most, [7])) == 1
    with pytest.raises(UserError, match=f"the prompt has {most + 1} tokens, but this model reads {most}"):
        await engine.next_token_logprobs([9] * (most + 1), [7])


async def test_invalid_requests_are_refused(engine: Engine) -> None:
    with pytest.raises(UserError, match="at least one id"):
        await engine.next_token_logprobs([], [7])
    with pytest.raises(UserError, match="at least one id"):
        await engine.next_token_logprobs([7], [])
    with pytest.raises(UserError, match="token id 100000 is not in the vocabulary"):
        await engine.next_token_logprobs([7, 100_000], [7])
    with pytest.raises(UserError, match="token id -1 is not in the vocabulary"):
        await engine.next_token_logprobs([7], [-1])


PROMPT = [2, 30, 40, 50]


async def test_greedy_generation_takes_the_likeliest_token(engine: Engine, version: LoadedVersion) -> None:
    generated = await generate(engine, PROMPT, Sampling(max_tokens=6, temperature=0, top_logprobs=3))
    assert (len(generated.ids), generated.finish) == (6, "length")
    assert len(generated.logprobs) == len(generated.top) == 6
    for i, id_ in enumerate(generated.ids):
        vocabulary = list(range(version.compiler.tokenizer.vocabulary_size))
        logprobs = await engine.next_token_logprobs([*PROMPT, *generated.ids[:i]], vocabulary)
        best = sorted(vocabulary, key=lambda token: -logprobs[token])[:3]
        assert id_ == best[0]
        assert generated.logprobs[i] == pytest.approx(logprobs[id_], abs=1e-4)
        assert generated.top[i] == pytest.approx({token: logprobs[token] for token in best}, abs=1e-4)


async def test_a_text_ends_before_a_stop_token(engine: Engine) -> None:
    whole = await generate(engine, PROMPT, Sampling(max_tokens=6, temperature=0))
    assert whole.top == ({},) * 6
    at = whole.ids.index(whole.ids[3])
    generated = await generate(engine, PROMPT, Sampling(max_tokens=6, temperature=0, stop_ids=(whole.ids[3],)))
    assert (generated.ids, generated.finish) == (whole.ids[:at], "stop")
    assert generated.logprobs == pytest.approx(whole.logprobs[:at], abs=1e-5)


async def test_a_seed_repeats_a_text_and_log_probabilities_are_at_temperature_one(engine: Engine) -> None:
    hot = Sampling(max_tokens=20, temperature=2.0, seed=7)
    generated = await generate(engine, PROMPT, hot)
    assert (await generate(engine, PROMPT, hot)).ids == generated.ids
    assert (await generate(engine, PROMPT, Sampling(max_tokens=20, temperature=2.0, seed=8))).ids != generated.ids
    [first] = await engine.next_token_logprobs(PROMPT, generated.ids[:1])
    assert generated.logprobs[0] == pytest.approx(first, abs=1e-4)
    likeliest = (await generate(engine, PROMPT, Sampling(max_tokens=5, temperature=0))).ids
    for top_p in (1e-6, 5e-324):  # the second is 0 in float32
        narrow = await generate(engine, PROMPT, Sampling(max_tokens=5, temperature=2.0, top_p=top_p, seed=1))
        assert narrow.ids == likeliest


async def test_a_stream_that_is_closed_early_leaves_the_engine_usable(engine: Engine) -> None:
    stream = engine.stream(PROMPT, Sampling(max_tokens=50, temperature=0))
    first = await anext(stream)
    await stream.aclose()
    assert (await generate(engine, PROMPT, Sampling(max_tokens=1, temperature=0))).ids == (first.id,)


async def test_a_text_must_fit_the_context(engine: Engine, version: LoadedVersion) -> None:
    most = version.compiler.format.context_length
    generated = await generate(engine, [9] * (most - 2), Sampling(max_tokens=2, temperature=0))
    assert len(generated.ids) == 2
    with pytest.raises(UserError, match=f"max_tokens is 3, but this model reads {most} in all"):
        await generate(engine, [9] * (most - 2), Sampling(max_tokens=3))
    with pytest.raises(UserError, match="at least one id"):
        await generate(engine, [], Sampling(max_tokens=3))


async def test_an_engine_counts_its_prompt_tokens(engine: Engine) -> None:
    before = engine.usage
    await engine.next_token_logprobs(PROMPT, [7])
    await generate(engine, PROMPT, Sampling(max_tokens=2))
    assert engine.usage.prompts == before.prompts + 2
    assert engine.usage.prompt_tokens == before.prompt_tokens + 2 * len(PROMPT)
    assert 0 <= engine.usage.cached_tokens <= engine.usage.prompt_tokens


async def test_cancelled_calls_are_not_computed(engine: Engine) -> None:
    before = engine.usage.prompts
    calls = [asyncio.ensure_future(engine.next_token_logprobs([8, n, *range(10, 360)], [7])) for n in range(300)]
    await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
    for call in calls:
        call.cancel()
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert any(isinstance(answer, asyncio.CancelledError) for answer in answers)
    assert len(await engine.next_token_logprobs(PROMPT, [7])) == 1  # and the engine continues
    assert engine.usage.prompts - before < 30, "at most the running pass and the next one are computed"


async def test_a_loaded_engine_is_healthy(engine: Engine) -> None:
    engine.check()


# --- vLLM against the reference ---


def logs(candidate: RankedCandidate) -> list[float]:
    """Return log-probabilities: labels of five tokens are too unlikely here to compare probabilities."""
    return [math.log(probability) for probability in candidate.probabilities.values()]


@pytest.mark.real
@pytest.mark.parametrize("task_name", ["job_apply", "post_interest"])
async def test_vllm_agrees_with_plain_pytorch(
    task_name: str,
    vllm: Engine,
    reference: Engine,
    version: LoadedVersion,
    history: list[PastInteraction],
    candidates: list[tuple[str, Entity]],
) -> None:
    task = version.suite.task(task_name)
    if task.surface == "feed":
        candidates = [(id_, Entity(entity_type="post", fields={"topic": e.fields["title"]})) for id_, e in candidates]
    profile = {"title": "engineer", "location": "berlin"}
    expected = await Scorer(reference, version.compiler).rank(task, profile, history, candidates)
    assert len(expected.prefixes[0].ids) > 64, "the prefix must span several cache blocks"
    answers = [logs(candidate)[-1] for candidate in expected.candidates]
    assert max(answers) - min(answers) > 1e-2, "candidates must differ"
    scorer = Scorer(vllm, version.compiler)

    together = await scorer.rank(task, profile, history, candidates)
    cached = vllm.usage.cached_tokens
    assert cached > 64, "candidates must share the prefix's blocks"
    again = await scorer.rank(task, profile, history, candidates)  # every prefix block from the cache
    alone = [(await scorer.rank(task, profile, history, [candidate])).candidates[0] for candidate in candidates]

    by_id = {candidate.id: candidate for candidate in expected.candidates}
    for candidate in [*together.candidates, *again.candidates, *alone]:
        assert candidate.probabilities == pytest.approx(by_id[candidate.id].probabilities, abs=1e-5)
        assert candidate.score == pytest.approx(by_id[candidate.id].score, abs=1e-5)
        assert logs(candidate) == pytest.approx(logs(by_id[candidate.id]), abs=1e-4)
    assert [c.id for c in together.candidates] == [c.id for c in expected.candidates]


@pytest.mark.real
async def test_hundreds_of_concurrent_prompts_do_not_change_results(vllm: Engine, reference: Engine) -> None:
    prompts = [[2, *range(10, 10 + length), 3, *range(60, 60 + length % 7)] for length in range(1, 200)]
    together = await asyncio.gather(*(vllm.next_token_logprobs(prompt, [20, 30]) for prompt in prompts))
    for prompt, answer in zip(prompts[::20], together[::20], strict=True):
        assert answer == pytest.approx(await vllm.next_token_logprobs(prompt, [20, 30]), abs=1e-5)
        assert answer == pytest.approx(await reference.next_token_logprobs(prompt, [20, 30]), abs=5e-5)


@pytest.fixture(scope="module")
def scaled(version_folder: Path, collected: None) -> Iterator[tuple[Engine, Engine]]:
    """vLLM's engine and the reference, both with twice the trained context."""
    from brew_serve.engines.vllm.engine import VllmEngine

    config = EngineConfig(rope=RopeScaling(alpha=2), kv_cache_bytes=64 * 2**20)
    engine, plain = VllmEngine(version_folder, config), TorchEngine(version_folder, config)
    yield engine, plain
    engine.close()
    plain.close()


@pytest.mark.real
async def test_both_engines_agree_beyond_the_trained_length(
    scaled: tuple[Engine, Engine], reference: Engine, version: LoadedVersion
) -> None:
    engine, plain = scaled
    trained = version.compiler.format.context_length
    for length in (40, trained, 2 * trained - 1):
        prompt = [2 + (7 * i) % 300 for i in range(length)]
        expected = await plain.next_token_logprobs(prompt, [20, 30, 40])
        assert await engine.next_token_logprobs(prompt, [20, 30, 40]) == pytest.approx(expected, abs=1e-4)
        if length < trained:
            assert await reference.next_token_logprobs(prompt, [20, 30, 40]) != pytest.approx(expected, abs=1e-4)
    for scaled_engine in scaled:
        with pytest.raises(UserError, match=f"the prompt has {2 * trained} tokens, but this model reads"):
            await scaled_engine.next_token_logprobs([9] * 2 * trained, [7])
