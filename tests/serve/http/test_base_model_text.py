"""Text routes of a model that was trained with a token at the start of each text, and with padded embeddings."""

import json
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from brew_data.prompts.bundle import PromptBundle
from brew_data.prompts.compiler import PromptCompiler, PromptFormat
from brew_data.prompts.suite import TaskSuite
from brew_data.prompts.tokenizer import Tokenizer
from brew_serve.engines.base import GeneratedToken, Sampling, Shared
from brew_serve.http.app import create_app
from brew_serve.http.backend import LocalBackend
from brew_serve.ranking.service import RankingService
from brew_serve.version import LoadedVersion, load_version

from ...base_tokenizers import write_base_tokenizer
from ..http_client import client_of_app


class RecordingEngine:
    """Keeps the prompts, and continues each with `ids`."""

    def __init__(self) -> None:
        self.prompts: list[tuple[int, ...]] = []
        self.samplings: list[Sampling] = []
        self.ids: Sequence[int] = ()  # of each continuation

    async def stream(self, prompt: Sequence[int], sampling: Sampling) -> AsyncGenerator[GeneratedToken, None]:
        self.prompts.append(tuple(prompt))
        self.samplings.append(sampling)
        for id_ in self.ids:
            yield GeneratedToken(id=id_, logprob=-1.0)

    async def next_token_logprobs(
        self, prompt: Sequence[int], token_ids: Sequence[int], shared: Shared | None = None
    ) -> list[float]:
        self.prompts.append(tuple(prompt))
        return [-1.0] * len(token_ids)

    def check(self) -> None: ...

    def close(self) -> None: ...


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture(params=["gemma3", "qwen3"])
def version(request: pytest.FixtureRequest, suite: TaskSuite, folder: Path) -> LoadedVersion:
    (folder / "base").mkdir()
    write_base_tokenizer(request.param, folder / "base")
    tokenizer = Tokenizer.from_model(folder / "base")
    prompts = PromptFormat(context_length=384, head_tokens=128, question_tokens=96)
    PromptBundle(suite=suite, format=prompts, tokenizer=tokenizer).save(folder)
    config = {"max_position_embeddings": 384, "vocab_size": tokenizer.n_tokens + 3}
    (folder / "config.json").write_text(json.dumps(config))
    return load_version(folder)


@pytest.fixture
def engine() -> RecordingEngine:
    return RecordingEngine()


@pytest.fixture
async def http(version: LoadedVersion, engine: RecordingEngine) -> AsyncIterator[httpx.AsyncClient]:
    service = RankingService(1, version, engine, None)  # type: ignore[arg-type]
    async with client_of_app(create_app(LocalBackend(service))) as client:
        yield client


SCORING: dict[str, Any] = {"query": "nurse", "items": ["cook"], "label_token_ids": [300]}


@pytest.mark.parametrize(
    ("route", "body", "parts"),
    [
        ("/v1/completions", {"model": "brew360", "prompt": "nurse"}, ["nurse"]),
        ("/v1/score", SCORING, ["nursecook"]),
        ("/generative_scoring", SCORING, ["nurse", "cook"]),
        ("/generative_scoring", SCORING | {"item_first": True}, ["cook", "nurse"]),
    ],
)
async def test_a_prompt_of_text_starts_as_the_model_was_trained(
    http: httpx.AsyncClient, engine: RecordingEngine, version: LoadedVersion, route: str, body: Any, parts: list[str]
) -> None:
    tokenizer = version.compiler.tokenizer
    assert (await http.post(route, json=body)).status_code == 200
    start = () if tokenizer.bos is None else (tokenizer.bos,)
    assert engine.prompts == [(*start, *(id_ for part in parts for id_ in tokenizer.encode(part)))]


@pytest.mark.parametrize(
    ("route", "body", "expected"),
    [
        ("/v1/completions", {"model": "brew360", "prompt": [301, 302]}, (301, 302)),
        ("/v1/score", SCORING | {"query": [301], "items": [[302]]}, (301, 302)),
        ("/generative_scoring", SCORING | {"query": [301], "items": [[302]]}, (301, 302)),
        ("/generative_scoring", SCORING | {"query": "", "items": [[302]], "add_special_tokens": False}, (302,)),
    ],
)
async def test_token_ids_are_taken_as_they_are(
    http: httpx.AsyncClient, engine: RecordingEngine, route: str, body: Any, expected: tuple[int, ...]
) -> None:
    assert (await http.post(route, json=body)).status_code == 200
    assert engine.prompts == [expected]


async def test_a_chat_starts_with_one_bos_and_forges_no_turn(
    http: httpx.AsyncClient, engine: RecordingEngine, version: LoadedVersion
) -> None:
    tokenizer = version.compiler.tokenizer
    forged = "".join(token["content"] for token in json.loads(tokenizer.to_json())["added_tokens"])
    body = {"model": "brew360", "messages": [{"role": "user", "content": forged}], "max_tokens": 2}
    assert (await http.post("/v1/chat/completions", json=body)).status_code == 200
    start = [] if tokenizer.bos is None else [tokenizer.bos]
    found = [id_ for id_ in engine.prompts[0] if id_ in tokenizer.control_ids]
    assert found == [*start, tokenizer.system, tokenizer.member, tokenizer.user, tokenizer.assistant]


async def test_generation_stops_at_an_id_without_a_token(
    http: httpx.AsyncClient, engine: RecordingEngine, version: LoadedVersion
) -> None:
    tokenizer = version.compiler.tokenizer
    assert (await http.post("/v1/completions", json={"model": "brew360", "prompt": "x"})).status_code == 200
    [sampling] = engine.samplings
    n = tokenizer.n_tokens
    assert version.ids_without_token == (n, n + 1, n + 2)
    assert set(version.ids_without_token) < set(sampling.stop_ids)
    assert (tokenizer.bos is None) == (tokenizer.bos not in sampling.stop_ids)


async def test_texts_of_requests_are_not_kept(http: httpx.AsyncClient, version: LoadedVersion) -> None:
    text = "a text that only this request has"
    assert (await http.post("/v1/completions", json={"model": "brew360", "prompt": text})).status_code == 200
    assert version.compiler.tokenizer._cache.get(text) is None


def test_the_compiler_counts_bos_in_the_head(version: LoadedVersion) -> None:
    compiler: PromptCompiler = version.compiler
    head, _ = compiler.head(compiler.suite.tasks[0], {}, "nurse " * 200)
    assert len(head) == compiler.format.head_tokens
