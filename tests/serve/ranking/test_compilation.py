"""Sizes of prompts are checked before any text is encoded, and long texts are encoded outside the event loop."""

import asyncio
import json
import re
import threading
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any

import httpx
import pytest
from bench.limits.requests import HOSTILE, Names
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from brew_data.prompts.compiler import Entity, PastInteraction, PromptCompiler, Watch
from brew_data.prompts.tokenizer import Tokenizer
from brew_platform.errors import BrewError, UserError
from brew_serve.errors import Overloaded
from brew_serve.http.app import create_app
from brew_serve.http.backend import LocalBackend
from brew_serve.http.strict_json import has_few_values, parse_json
from brew_serve.metrics import Meters
from brew_serve.ranking import concurrency
from brew_serve.ranking.admission import AdmissionConfig
from brew_serve.ranking.compilation import INLINE_CHARACTERS, CompilationPool, TextPrompts, TextSize, count_characters
from brew_serve.ranking.service import RankingService
from brew_serve.schemas.openai import CompletionRequest
from brew_serve.schemas.rank import RankRequest
from brew_serve.schemas.score import ScoreRequest
from brew_serve.version import LoadedVersion

from ..http_client import client_of_app

NAMES = Names(fields=["title", "company"])
LARGE = INLINE_CHARACTERS + 1


@pytest.fixture
def pool() -> Iterator[CompilationPool]:
    pool = CompilationPool(Meters(), max_outstanding_tokens=10_000)
    yield pool
    pool.close()


@pytest.fixture
def idle(version: LoadedVersion, table_engine: Any) -> Iterator[RankingService]:
    service = RankingService(1, version, table_engine, None)
    yield service
    service.close()


@pytest.fixture
async def http(idle: RankingService) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of_app(create_app(LocalBackend(idle))) as client:
        yield client


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The texts that the tokenizer encodes from now on."""
    texts: list[str] = []
    encode = Tokenizer._encode

    def record(self: Tokenizer, text: str) -> tuple[int, ...]:
        texts.append(text)
        return encode(self, text)

    monkeypatch.setattr(Tokenizer, "_encode", record)
    return texts


# --- Sizes ---


@given(text=st.text(max_size=400))
def test_the_number_of_tokens_lies_between_its_bounds(text: str, tokenizer: Tokenizer) -> None:
    (least,) = TextPrompts(sizes=[TextSize(characters=len(text))], encoded=()).least_tokens(tokenizer.longest_token)
    assert least <= len(tokenizer.encode(text, cached=False)) <= len(text.encode())


def test_no_token_is_longer_than_the_longest(tokenizer: Tokenizer) -> None:
    lengths = [len(tokenizer.decode([id_])) for id_ in range(tokenizer.vocabulary_size)]
    assert tokenizer.longest_token >= max(lengths)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("score_text", "the prompt has at least .* tokens, but this model reads 383 before the next token"),
        ("score_unicode", "the prompt has at least .* tokens, but this model reads 383"),
        ("score_ids", "the prompt has at least 99001 tokens, but this model reads 383"),
        ("score_labels", "1000 items with 1000 labels are 1000000 probabilities, but a request can ask for 100000"),
        ("completion", "the prompt has at least"),
        ("chat", "the prompt has at least"),
    ],
)
async def test_requests_that_cannot_fit_are_refused_before_any_text_is_encoded(
    name: str, message: str, http: httpx.AsyncClient, encoded: list[str]
) -> None:
    words, model = "nurse " * 33_000, {"model": "brew360"}
    long = {
        "completion": ("/v1/completions", {"prompt": words, **model}),
        "chat": ("/v1/chat/completions", {"messages": [{"role": "user", "content": words}], **model}),
    }
    path, content = long[name] if name in long else HOSTILE[name](NAMES)
    answer = await http.post(path, json=content)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert re.search(message, error if isinstance(error, str) else error["message"])
    assert not encoded


async def test_the_first_prompt_that_is_too_long_ends_the_encoding(http: httpx.AsyncClient, encoded: list[str]) -> None:
    path, content = HOSTILE["score_shorter_text"](NAMES)  # its lower bound fits
    answer = await http.post(path, json=content)
    assert answer.status_code == 400
    assert "tokens, but this model reads 383" in answer.json()["error"]
    assert "at least" not in answer.json()["error"]
    assert len(encoded) == 1


async def test_text_and_ids_of_a_request_are_bounded_in_all(version: LoadedVersion, table_engine: Any) -> None:
    admission = AdmissionConfig(max_outstanding_tokens=1_000)
    service = RankingService(1, version, table_engine, None, admission=admission)
    many = TextPrompts(sizes=[TextSize(characters=300, ids=30)] * 31, encoded=())
    with pytest.raises(UserError, match="10230 characters or token ids in all, but the service takes 10000"):
        await service.compile_text(many)
    # Each character is up to four tokens, which no bound on characters shows.
    fire = TextPrompts(sizes=[TextSize(characters=99)] * 101, encoded=iter([tuple(range(100))] * 101))
    with pytest.raises(UserError, match="have more than 10000 tokens in all"):
        await service.compile_text(fire)
    service.close()


def test_the_size_of_a_ranking_counts_the_text_that_its_prompts_encode(
    compiler: PromptCompiler, history: list[PastInteraction]
) -> None:
    task = compiler.suite.task("job_apply")
    job = Entity(entity_type="job", fields={"title": "x" * 100, "company": "y" * 10, "hidden": "z" * 1_000})
    empty = count_characters(compiler, task, {}, [], [])
    assert empty == 0
    frame = len("job\n")
    assert count_characters(compiler, task, {}, [], [job]) == pytest.approx(110 + frame, abs=2)
    assert count_characters(compiler, task, {"title": "p" * 50, "hidden": "q" * 500}, [], [job]) - 50 == pytest.approx(
        110 + frame, abs=2
    )
    long = [PastInteraction(entity=job, surface="jobs", action="apply", timestamp=n) for n in range(1_000)]
    most = task.history.max_interactions
    assert 1_000 + most * 110 < count_characters(compiler, task, {}, long, []) < 1_000 + (most + most // 4 + 1) * 120


# --- JSON ---


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"[" + b"0," * 500_000 + b"0]", "the body has more than 500,000 values"),
        (b"[" + b"[]," * 100_000 + b"[]]", "the body has more than 500,000 values"),
        (b'{"a":{' + b",".join(b'"%d":0' % n for n in range(1_001)) + b"}}", "a has 1,001 keys; send at most 1,000"),
    ],
)
def test_bodies_of_very_many_values_are_refused_before_they_are_parsed(body: bytes, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_json(body)


def test_text_may_contain_any_number_of_commas_and_brackets() -> None:
    text = 'a, [b] "{c}" ' * 60_000
    assert parse_json(json.dumps([text]).encode()) == [text]
    assert not has_few_values(b'"' + b'\\"' * 300_000 + b"," * 500_001 + b'",[' + b"0," * 500_001)
    assert has_few_values(b'"' + b'\\",' * 600_000), "text without an end takes linear time"


def test_a_list_is_validated_up_to_its_first_invalid_item() -> None:
    for model, content in (
        (ScoreRequest, {"query": [7], "items": [["a"] * 900], "label_token_ids": [7]}),
        (RankRequest, {"task": "job_apply", "member_id": "a", "candidates": [{}] * 900}),
        (CompletionRequest, {"model": "brew360", "prompt": [7, *["a"] * 900]}),
    ):
        with pytest.raises(ValidationError) as caught:
            model.model_validate(content)
        assert caught.value.error_count() < 10


# --- Rankings ---


async def test_turns_that_no_prompt_shows_are_checked_and_not_encoded(
    idle: RankingService, body: dict[str, Any], encoded: list[str]
) -> None:
    shown = body["member"]["history"]
    old = {**shown[0], "timestamp": "1969-01-01T00:00:00Z"}
    body["member"]["history"] = [*shown, *({**old, "fields": {"title": f"t{n}", "topic": f"t{n}"}} for n in range(400))]
    await idle.rank(RankRequest.model_validate(body))
    assert len(encoded) < 60
    body["member"]["history"][-1] = {**old, "action": "aply"}
    with pytest.raises(UserError, match="aply"):
        await idle.rank(RankRequest.model_validate(body))


@pytest.mark.parametrize("path", ["/v1/rank", "/v1/score", "/v1/completions"])
async def test_a_busy_service_refuses_before_it_encodes(
    path: str, idle: RankingService, http: httpx.AsyncClient, body: dict[str, Any], encoded: list[str]
) -> None:
    requests: dict[str, Any] = {
        "/v1/rank": body,
        "/v1/score": {"query": "job ", "items": ["nurse", "chef"], "label_token_ids": [7]},
        "/v1/completions": {"model": "brew360", "prompt": "job nurse"},
    }
    with idle.admission.admit(400_000):
        answer = await http.post(path, json=requests[path])
    assert answer.status_code == 503
    assert "has no capacity for it" in answer.text
    assert not encoded


async def test_a_deadline_ends_the_compilation(
    idle: RankingService, body: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    body["candidates"] = [{"id": str(n), "fields": {"title": "x " * 990}} for n in range(100)]
    go_on, compiled = threading.Event(), []

    def question(self: PromptCompiler, *_: Any, **__: Any) -> Any:
        compiled.append(1)
        assert go_on.wait(10)
        return (), None

    monkeypatch.setattr(PromptCompiler, "question_of", question)
    ranking = asyncio.create_task(idle.rank(RankRequest.model_validate({**body, "deadline_ms": 50})))
    with pytest.raises(BrewError, match="the deadline of 50 ms"):
        await ranking
    go_on.set()
    idle.compilation._threads.shutdown(wait=True)
    assert len(compiled) <= 1, "the thread must stop at the next item"


# --- The pool ---


async def test_long_compilations_leave_the_event_loop_free(pool: CompilationPool) -> None:
    answered = threading.Event()

    def compile(watch: Watch) -> str:
        assert answered.wait(10), "the event loop must run meanwhile"
        return threading.current_thread().name

    asyncio.get_running_loop().call_later(0.01, answered.set)
    assert (await pool.run(compile, characters=LARGE)).startswith("compilation")


async def test_short_compilations_need_no_thread(pool: CompilationPool) -> None:
    thread = await pool.run(lambda watch: threading.current_thread(), characters=INLINE_CHARACTERS)
    assert thread is threading.current_thread()


async def test_a_cancelled_compilation_ends_before_its_next_item(pool: CompilationPool) -> None:
    started, ended = threading.Event(), threading.Event()
    taken: list[int] = []

    def items() -> Iterable[int]:
        for n in range(1_000):
            started.set()
            assert cancelled.wait(10)
            yield n

    def compile(watch: Watch) -> None:
        try:
            for item in watch(items()):
                taken.append(item)
        finally:
            ended.set()

    cancelled = threading.Event()
    task = asyncio.create_task(pool.run(compile, characters=LARGE))
    await asyncio.to_thread(started.wait, 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    cancelled.set()
    assert await asyncio.to_thread(ended.wait, 10)
    assert not taken


async def test_only_so_much_text_waits(pool: CompilationPool) -> None:
    release = threading.Event()

    def compile(watch: Watch) -> bool:
        return release.wait(10)

    tasks = [asyncio.create_task(pool.run(compile, characters=pool.max_characters)) for _ in range(4)]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded, match="busy with the prompts of other requests; try again in 0.4 s") as refused:
        await pool.run(compile, characters=LARGE)
    assert refused.value.retry_after == pytest.approx(0.4)
    tasks.pop().cancel()  # it has no thread yet, so its share is free at once
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    tasks.append(asyncio.create_task(pool.run(compile, characters=LARGE)))
    release.set()
    assert all(await asyncio.gather(*tasks))
    assert await pool.run(compile, characters=pool.max_characters)


async def test_long_loops_in_the_event_loop_let_other_tasks_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(concurrency, "_SLICE_SECONDS", 0.0)
    order: list[int] = []
    asyncio.get_running_loop().call_soon(order.append, -1)
    async for item in concurrency.in_slices(range(3)):
        order.append(item)
    assert order == [0, -1, 1, 2]


async def test_closing_ends_compilations(pool: CompilationPool) -> None:
    started, closed = threading.Event(), threading.Event()

    def items() -> Iterable[int]:
        started.set()
        assert closed.wait(10)
        yield 1

    task = asyncio.create_task(pool.run(lambda watch: list(watch(items())), characters=LARGE))
    await asyncio.to_thread(started.wait, 10)
    pool.close()
    closed.set()
    with pytest.raises(BrewError, match="shutting down"):
        await task
    with pytest.raises(BrewError, match="shutting down"):
        await pool.run(lambda watch: None, characters=LARGE)
