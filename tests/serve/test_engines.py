"""One contract for every engine, and what only vLLM's owes: agreement with PyTorch, clear failures, no orphans."""

import asyncio
import gc
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import warnings
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from brew_data.compiler import Entity, Past
from brew_platform.errors import UserError
from brew_serve.engine import Engine, Sampling, Shared
from brew_serve.engine_config import EngineConfig
from brew_serve.rope import RopeScaling
from brew_serve.scoring import RankedCandidate, Scorer
from brew_serve.torch_engine import TorchEngine
from brew_serve.version import LoadedVersion

# One loop for the module: vLLM's engine takes calls from one event loop.
# vLLM leaves its ZeroMQ context to the garbage collector, which warns; `collected` makes that happen in this module.
pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.filterwarnings("ignore:Unclosed context <zmq:ResourceWarning"),
    pytest.mark.usefixtures("collected"),
]


@pytest.fixture(scope="module")
def collected() -> Iterator[None]:
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture(scope="module")
def reference(version_folder: Path) -> TorchEngine:
    return TorchEngine(version_folder)


@pytest.fixture(scope="module")
def vllm(version: LoadedVersion, collected: None) -> Iterator[Engine]:
    from brew_serve.vllm_engine import VllmEngine

    engine = VllmEngine(version.folder, version.engine)
    yield engine
    cores = engine_cores()
    engine.close()
    engine.close()  # harmless
    assert len(engine_cores()) == len(cores) - 1


@pytest.fixture(scope="module")
def scheduled(version: LoadedVersion, collected: None) -> Iterator[Engine]:
    """vLLM as on a GPU: its scheduler takes a request for each prompt."""
    from brew_serve.vllm_engine import VllmEngine

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


def engine_cores() -> set[psutil.Process]:
    """Engine processes below this one that still run; one that was just killed has a moment to be gone."""
    children = psutil.Process().children(recursive=True)
    _, alive = psutil.wait_procs([child for child in children if "EngineCor" in child.name()], timeout=2)
    return set(alive)


# --- The contract ---


async def test_probabilities_of_the_whole_vocabulary_sum_to_one(engine: Engine, version: LoadedVersion) -> None:
    vocabulary = range(version.compiler.tokenizer.vocabulary_size)
    logprobs = await engine.next_token_logprobs([2, 30, 40, 50], list(vocabulary))
    assert len(logprobs) == len(vocabulary)
    assert sum(math.exp(value) for value in logprobs) == pytest.approx(1.0, abs=1e-5)


async def test_the_answer_follows_the_order_of_the_wanted_ids(engine: Engine) -> None:
    forward = await engine.next_token_logprobs([2, 30, 40, 50], [7, 70, 170])
    assert await engine.next_token_logprobs([2, 30, 40, 50], [170, 70, 7]) == pytest.approx(forward[::-1], abs=1e-6)
    assert len(set(forward)) == 3


async def test_the_longest_prompt_is_answered_and_a_longer_one_refused(engine: Engine, version: LoadedVersion) -> None:
    most = version.compiler.format.context_length - 1
    assert len(await engine.next_token_logprobs([9] * most, [7])) == 1
    with pytest.raises(UserError, match=f"the prompt has {most + 1} tokens, but this model reads {most}"):
        await engine.next_token_logprobs([9] * (most + 1), [7])


async def test_what_no_model_can_answer_is_refused(engine: Engine) -> None:
    with pytest.raises(UserError, match="at least one id"):
        await engine.next_token_logprobs([], [7])
    with pytest.raises(UserError, match="at least one id"):
        await engine.next_token_logprobs([7], [])
    with pytest.raises(UserError, match="token id 100000 is not in the vocabulary"):
        await engine.next_token_logprobs([7, 100_000], [7])
    with pytest.raises(UserError, match="token id -1 is not in the vocabulary"):
        await engine.next_token_logprobs([7], [-1])


PROMPT = [2, 30, 40, 50]


async def test_a_greedy_text_takes_the_likeliest_token_each_time(engine: Engine, version: LoadedVersion) -> None:
    made = await engine.generate(PROMPT, Sampling(max_tokens=6, temperature=0, top_logprobs=3))
    assert (len(made.ids), made.finish) == (6, "length")
    assert len(made.logprobs) == len(made.top) == 6
    for i, id_ in enumerate(made.ids):
        vocabulary = list(range(version.compiler.tokenizer.vocabulary_size))
        logprobs = await engine.next_token_logprobs([*PROMPT, *made.ids[:i]], vocabulary)
        best = sorted(vocabulary, key=lambda token: -logprobs[token])[:3]
        assert id_ == best[0]
        assert made.logprobs[i] == pytest.approx(logprobs[id_], abs=1e-4)
        assert made.top[i] == pytest.approx({token: logprobs[token] for token in best}, abs=1e-4)


async def test_a_text_ends_before_a_stop_token(engine: Engine) -> None:
    whole = await engine.generate(PROMPT, Sampling(max_tokens=6, temperature=0))
    assert whole.top == ({},) * 6
    at = whole.ids.index(whole.ids[3])
    made = await engine.generate(PROMPT, Sampling(max_tokens=6, temperature=0, stop_ids=(whole.ids[3],)))
    assert (made.ids, made.finish) == (whole.ids[:at], "stop")
    assert made.logprobs == pytest.approx(whole.logprobs[:at], abs=1e-5)


async def test_a_seed_repeats_a_text_and_log_probabilities_are_at_temperature_one(engine: Engine) -> None:
    hot = Sampling(max_tokens=20, temperature=2.0, seed=7)
    made = await engine.generate(PROMPT, hot)
    assert (await engine.generate(PROMPT, hot)).ids == made.ids
    assert (await engine.generate(PROMPT, Sampling(max_tokens=20, temperature=2.0, seed=8))).ids != made.ids
    [first] = await engine.next_token_logprobs(PROMPT, made.ids[:1])
    assert made.logprobs[0] == pytest.approx(first, abs=1e-4)
    likeliest = (await engine.generate(PROMPT, Sampling(max_tokens=5, temperature=0))).ids
    for top_p in (1e-6, 5e-324):  # the second is 0 in float32
        narrow = await engine.generate(PROMPT, Sampling(max_tokens=5, temperature=2.0, top_p=top_p, seed=1))
        assert narrow.ids == likeliest


async def test_a_text_must_fit_the_context(engine: Engine, version: LoadedVersion) -> None:
    most = version.compiler.format.context_length
    made = await engine.generate([9] * (most - 2), Sampling(max_tokens=2, temperature=0))
    assert len(made.ids) == 2
    with pytest.raises(UserError, match=f"may be continued by 3, but this model reads {most} in all"):
        await engine.generate([9] * (most - 2), Sampling(max_tokens=3))
    with pytest.raises(UserError, match="at least one id"):
        await engine.generate([], Sampling(max_tokens=3))


async def test_an_engine_counts_what_it_reads(engine: Engine) -> None:
    before = engine.usage
    await engine.next_token_logprobs(PROMPT, [7])
    await engine.generate(PROMPT, Sampling(max_tokens=2))
    assert engine.usage.prompts == before.prompts + 2
    assert engine.usage.prompt_tokens == before.prompt_tokens + 2 * len(PROMPT)
    assert 0 <= engine.usage.cached_tokens <= engine.usage.prompt_tokens


async def test_what_is_cancelled_is_not_computed(engine: Engine) -> None:
    before = engine.usage.prompts
    calls = [asyncio.ensure_future(engine.next_token_logprobs([8, n, *range(10, 360)], [7])) for n in range(300)]
    await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
    for call in calls:
        call.cancel()
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert any(isinstance(answer, asyncio.CancelledError) for answer in answers)
    assert len(await engine.next_token_logprobs(PROMPT, [7])) == 1  # and the engine goes on
    assert engine.usage.prompts - before < 100, "only what was being computed already is computed to its end"


async def test_a_loaded_engine_is_well(engine: Engine) -> None:
    engine.check()


# --- vLLM against the reference ---


def logs(candidate: RankedCandidate) -> list[float]:
    """Log-probabilities: labels of five tokens are so unlikely here that only these tell candidates apart."""
    return [math.log(probability) for probability in candidate.probabilities.values()]


@pytest.mark.real
@pytest.mark.parametrize("task_name", ["job_apply", "post_interest"])
async def test_vllm_scores_as_plain_pytorch_does(
    task_name: str,
    vllm: Engine,
    reference: Engine,
    version: LoadedVersion,
    history: list[Past],
    candidates: list[tuple[str, Entity]],
) -> None:
    task = version.suite.task(task_name)
    if task.entity_type == "post":
        candidates = [(id_, Entity(entity_type="post", fields={"topic": e.fields["title"]})) for id_, e in candidates]
    profile = {"title": "engineer", "location": "berlin"}
    expected = await Scorer(reference, version.compiler).rank(task, profile, history, candidates)
    assert len(expected.prefix.ids) > 64, "the prefix must span several cache blocks"
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
async def test_vllm_answers_hundreds_of_prompts_at_once_as_it_answers_one(vllm: Engine, reference: Engine) -> None:
    prompts = [[2, *range(10, 10 + length), 3, *range(60, 60 + length % 7)] for length in range(1, 200)]
    together = await asyncio.gather(*(vllm.next_token_logprobs(prompt, [20, 30]) for prompt in prompts))
    for prompt, answer in zip(prompts[::20], together[::20], strict=True):
        assert answer == pytest.approx(await vllm.next_token_logprobs(prompt, [20, 30]), abs=1e-5)
        assert answer == pytest.approx(await reference.next_token_logprobs(prompt, [20, 30]), abs=5e-5)


@pytest.fixture(scope="module")
def scaled(version_folder: Path, collected: None) -> Iterator[tuple[Engine, Engine]]:
    """vLLM and the reference, both reading twice what the model was trained on."""
    from brew_serve.vllm_engine import VllmEngine

    config = EngineConfig(rope=RopeScaling(alpha=2), kv_cache_bytes=64 * 2**20)
    engine, plain = VllmEngine(version_folder, config), TorchEngine(version_folder, config)
    yield engine, plain
    engine.close()
    plain.close()


@pytest.mark.real
async def test_both_engines_read_equally_beyond_the_trained_length(
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
    for one in scaled:
        with pytest.raises(UserError, match=f"the prompt has {2 * trained} tokens, but this model reads"):
            await one.next_token_logprobs([9] * 2 * trained, [7])


@pytest.mark.real
async def test_two_processes_that_split_the_model_answer_as_plain_pytorch_does(
    version_folder: Path, reference: Engine, version: LoadedVersion
) -> None:
    from brew_serve.vllm_engine import VllmEngine

    engine = VllmEngine(version_folder, EngineConfig(tensor_parallel_size=2, kv_cache_bytes=64 * 2**20, threads=1))
    try:
        for length in (4, version.compiler.format.context_length - 1):
            prompt = [2 + (7 * i) % 300 for i in range(length)]
            expected = await reference.next_token_logprobs(prompt, [20, 30, 40])
            assert await engine.next_token_logprobs(prompt, [20, 30, 40]) == pytest.approx(expected, abs=1e-4)
        shared = [2 + (13 * i) % 300 for i in range(77)]
        prompts = sharing(shared, 8, seed=2)
        together = group(prompts, shared)
        found = await asyncio.gather(*(engine.next_token_logprobs(one, [20, 30], together) for one in prompts))
        for prompt, one in zip(prompts, found, strict=True):
            assert one == pytest.approx(await reference.next_token_logprobs(prompt, [20, 30]), abs=1e-4)
    finally:
        engine.close()


# --- What prompts share ---


def sharing(shared: list[int], count: int, seed: int) -> list[list[int]]:
    """Prompts that begin with the same tokens; the last is nothing but these."""
    draw = random.Random(seed)
    return [[*shared, *(draw.randrange(2, 300) for _ in range(1 + n % 20))] for n in range(count - 1)] + [shared]


def group(prompts: list[list[int]], shared: list[int]) -> Shared:
    return Shared(ids=tuple(shared))


@pytest.mark.real
@pytest.mark.parametrize("length", [1, 20, 31, 32, 63, 100, 340, 350])
async def test_what_prompts_share_is_computed_once_and_changes_no_answer(
    vllm: Engine, reference: Engine, length: int
) -> None:
    shared = [2 + (length + 11 * i) % 290 for i in range(length)]
    prompts = sharing(shared, 24, seed=length)
    expected = [await reference.next_token_logprobs(prompt, [20, 30, 40]) for prompt in prompts]
    before = vllm.usage
    together = group(prompts, shared)
    found = await asyncio.gather(*(vllm.next_token_logprobs(prompt, [20, 30, 40], together) for prompt in prompts))
    for one, wanted in zip(found, expected, strict=True):
        assert one == pytest.approx(wanted, abs=1e-4)
    computed = (vllm.usage.prompt_tokens - vllm.usage.cached_tokens) - (before.prompt_tokens - before.cached_tokens)
    tail = length % 32
    own = sum(len(prompt) - length for prompt in prompts) + (tail or 32)  # of the last, its last block
    again = 22 * tail if tail < 12 else 0  # too little for a forward of its own
    assert computed <= length + own + again


@pytest.mark.real
async def test_prompts_of_a_pass_may_begin_with_what_another_of_them_computes(vllm: Engine, reference: Engine) -> None:
    draw = random.Random(11)
    for _ in range(12):
        long = [draw.randrange(2, 300) for _ in range(300)]
        calls: list[tuple[list[int], Shared | None]] = []
        for _ in range(draw.randrange(2, 6)):  # alone, or several that share, all with parts of the same beginning
            begins = long[: draw.randrange(1, 300)]
            count = draw.choice([1, 1, 2, 12])
            together = group([], begins) if count > 1 else None
            calls += [([*begins, *(draw.randrange(2, 300) for _ in range(n + 1))], together) for n in range(count)]
        found = await asyncio.gather(*(vllm.next_token_logprobs(prompt, [20, 30], one) for prompt, one in calls))
        for (prompt, _), one in zip(calls, found, strict=True):
            assert one == pytest.approx(await reference.next_token_logprobs(prompt, [20, 30]), abs=1e-4)


@pytest.mark.real
async def test_who_is_cancelled_holds_up_nobody_with_whom_it_shares(vllm: Engine, reference: Engine) -> None:
    shared = [3 + (5 * i) % 290 for i in range(75)]
    prompts = sharing(shared, 40, seed=1)
    expected = [await reference.next_token_logprobs(prompt, [20, 30]) for prompt in prompts]
    for gone in ([0], [0, 1, 2], list(range(10, 40)), list(range(40))):
        for pauses in (0, 3):
            together = group(prompts, shared)
            tasks = [asyncio.ensure_future(vllm.next_token_logprobs(one, [20, 30], together)) for one in prompts]
            for _ in range(pauses):
                await asyncio.sleep(0)
            for number in gone:
                tasks[number].cancel()
            found = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 20)
            for number, (one, wanted) in enumerate(zip(found, expected, strict=True)):
                if number not in gone:
                    assert one == pytest.approx(wanted, abs=1e-4)
    with pytest.raises(ValueError, match="does not begin with the tokens"):
        await vllm.next_token_logprobs([7, *shared], [20], group(prompts, shared))


@pytest.mark.real
async def test_groups_that_fill_the_cache_do_not_wait_for_each_other(
    version_folder: Path, version: LoadedVersion, reference: Engine
) -> None:
    from brew_serve.vllm_engine import VllmEngine

    model = json.loads((version_folder / "config.json").read_text())
    head = model.get("head_dim") or model["hidden_size"] // model["num_attention_heads"]
    token_bytes = 2 * 4 * model["num_hidden_layers"] * model["num_key_value_heads"] * head
    room = version.compiler.format.context_length + 64  # tokens: one long prompt and little more
    engine = VllmEngine(version_folder, EngineConfig(kv_cache_bytes=room * token_bytes))
    try:
        for _ in range(2):
            beginnings = [[2 + (number + 7 * i) % 290 for i in range(345)] for number in range(4)]
            groups = [(sharing(one, 12, seed=number), one) for number, one in enumerate(beginnings)]
            calls = [
                engine.next_token_logprobs(prompt, [20, 30], together)
                for prompts, one in groups
                for together in [group(prompts, one)]
                for prompt in prompts
            ]
            found = await asyncio.wait_for(asyncio.gather(*calls), 60)
        for one, prompt in zip(found, (prompt for prompts, _ in groups for prompt in prompts), strict=True):
            assert one == pytest.approx(await reference.next_token_logprobs(prompt, [20, 30]), abs=1e-4)
    finally:
        engine.close()


# --- Failures ---


async def test_a_folder_without_a_model_is_refused_at_once(tmp_path: Path, version_folder: Path) -> None:
    from brew_serve.vllm_engine import VllmEngine

    for make in (TorchEngine, VllmEngine):
        with pytest.raises(UserError, match="holds no model"):
            make(tmp_path)
    shutil.copy(version_folder / "config.json", tmp_path)
    with pytest.raises(UserError, match="holds no weights"):
        VllmEngine(tmp_path)
    with pytest.raises(UserError, match=r"max_model_len is 4096, but the model in .* was made for 384 tokens"):
        VllmEngine(version_folder, EngineConfig(max_model_len=4096))


@pytest.mark.real
async def test_heads_that_vllm_cannot_compute_are_refused_before_they_crash_it(
    version_folder: Path, tmp_path: Path
) -> None:
    from brew_serve.vllm_engine import VllmEngine

    shutil.copytree(version_folder, tmp_path / "model")
    path = tmp_path / "model/config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"head_dim": 8}))
    with pytest.raises(UserError, match="has attention heads of 8 dimensions, but on CPU vLLM computes only 32, 64"):
        VllmEngine(tmp_path / "model")


@pytest.mark.real
async def test_a_cache_too_small_for_one_prompt_is_refused_with_the_reason(version_folder: Path) -> None:
    from brew_serve.vllm_engine import VllmEngine

    before = engine_cores()
    with pytest.raises(UserError, match=r"kv_cache_bytes is 65536, which cannot hold one prompt of 384 tokens"):
        VllmEngine(version_folder, EngineConfig(kv_cache_bytes=65536))
    assert engine_cores() == before


@pytest.mark.real
async def test_damaged_weights_are_refused_with_vllms_own_reason(version_folder: Path, tmp_path: Path) -> None:
    from brew_serve.vllm_engine import VllmEngine

    shutil.copytree(version_folder, tmp_path / "model")
    weights = tmp_path / "model/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    before = engine_cores()
    with pytest.raises(UserError, match=r"vLLM cannot load the model in .*(header|Header|incomplete)"):
        VllmEngine(tmp_path / "model")
    assert engine_cores() == before


LATE = """
    import threading, time

    run = threading.Thread.run

    def run_late(thread):
        if "process_output_sockets" in thread.name:
            time.sleep(2)
        run(thread)

    threading.Thread.run = run_late
"""


@pytest.mark.real
async def test_an_engine_that_connects_late_is_heard_all_the_same(
    version_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from brew_serve.vllm_engine import VllmEngine

    (tmp_path / "sitecustomize.py").write_text(textwrap.dedent(LATE))  # read by each Python that starts
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    engine = VllmEngine(version_folder)
    try:
        assert len(await asyncio.wait_for(engine.next_token_logprobs(PROMPT, [7]), 30)) == 1
        notes = engine._notes
    finally:
        engine.close()
    assert not notes.exists()


OWNER = """
    import sys, time
    from pathlib import Path
    from brew_serve.engine_config import EngineConfig
    from brew_serve.vllm_engine import VllmEngine

    if __name__ == "__main__":
        engine = VllmEngine(Path(sys.argv[1]), EngineConfig(tensor_parallel_size=int(sys.argv[2])))
        print("ready", engine._notes, flush=True)
        time.sleep(600)
"""


@pytest.mark.real
@pytest.mark.parametrize("workers", [1, 2])
async def test_the_engines_processes_die_with_an_owner_that_is_killed(
    version_folder: Path, tmp_path: Path, workers: int
) -> None:
    script = tmp_path / "owner.py"
    script.write_text(textwrap.dedent(OWNER))
    # vLLM sets this variable at import; where it is the first one, setproctitle does nothing, and the name must hold
    first = {"TORCHINDUCTOR_COMPILE_THREADS": "2"} if workers == 1 else {}
    owner = subprocess.Popen(
        [sys.executable, script, version_folder, str(workers)],
        stdout=subprocess.PIPE,
        text=True,
        env=first | {name: value for name, value in os.environ.items() if name not in first},
    )
    assert owner.stdout is not None
    notes = Path(next(line for line in owner.stdout if line.startswith("ready")).split()[1])
    children = psutil.Process(owner.pid).children(recursive=True)
    assert any("EngineCor" in child.name() for child in children)
    assert sum("Worker_TP" in child.name() for child in children) == (workers if workers > 1 else 0)

    owner.send_signal(signal.SIGKILL)
    owner.wait()
    owner.stdout.close()

    _, alive = psutil.wait_procs(children, timeout=10)
    assert not alive, f"left behind: {alive}"
    assert not notes.exists()
