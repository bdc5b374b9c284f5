"""A model that computes NaN: no score, no log-probability and no text leaves the service, and it is not ready."""

import json
import math
import shutil
from collections.abc import AsyncGenerator, Callable, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from brew_data.prompts.compiler import Entity
from brew_serve.engines.base import EngineUsage, GeneratedToken, Sampling, Shared
from brew_serve.engines.logprobs import InvalidOutput, require_logprobs
from brew_serve.engines.torch import TorchEngine
from brew_serve.errors import BrokenVersion
from brew_serve.http.app import create_app
from brew_serve.http.backend import LocalBackend
from brew_serve.ranking.scoring import Scorer
from brew_serve.ranking.service import RankingService
from brew_serve.version import LoadedVersion

from ..http_client import client_of_app

INVALID = [math.nan, -math.nan, math.inf, -math.inf, 0.1, 700.0]


class OneBadAnswer:
    """An engine that answers -1.0 for every token, and `bad` from the call with number `at` on, `count` times."""

    def __init__(self, bad: float, at: int = 0, count: int = 1) -> None:
        self.bad, self.at, self.count = bad, at, count
        self.calls = 0
        self.usage = EngineUsage()

    def _value(self) -> float:
        self.calls += 1
        return self.bad if self.at <= self.calls - 1 < self.at + self.count else -1.0

    async def next_token_logprobs(
        self, prompt: Sequence[int], token_ids: Sequence[int], shared: Shared | None = None
    ) -> list[float]:
        value = self._value()
        return [-1.0, *[value] * (len(token_ids) - 1)] if len(token_ids) > 1 else [value]

    async def stream(self, prompt: Sequence[int], sampling: Sampling) -> AsyncGenerator[GeneratedToken, None]:
        for id_ in range(20, 20 + sampling.max_tokens):
            value = self._value()
            top = dict.fromkeys(range(30, 30 + sampling.top_logprobs), -1.0)
            yield GeneratedToken(id=id_, logprob=value, top={**top, id_: value} if sampling.top_logprobs else {})

    def check(self) -> None: ...

    def close(self) -> None: ...


@pytest.fixture
def client(version: LoadedVersion) -> Callable[[Any], httpx.AsyncClient]:
    """Return a function that serves an engine as version 3."""

    def serve(engine: Any) -> httpx.AsyncClient:
        api = create_app(LocalBackend(RankingService(3, version, engine, None)))
        return client_of_app(api)

    return serve


@pytest.mark.parametrize("value", INVALID)
def test_a_number_that_is_no_log_probability_is_refused(value: float) -> None:
    with pytest.raises(InvalidOutput, match=f"the model computed {value} where a log-probability is required"):
        require_logprobs([-0.5, value, -2.0])


@settings(max_examples=100, deadline=None)
@given(values=st.lists(st.floats(max_value=0.0, allow_nan=False, allow_infinity=False)))
def test_every_log_probability_is_accepted(values: list[float]) -> None:
    require_logprobs([*values, 0.0, -0.0, 1e-6])


@pytest.mark.parametrize("at", range(8))
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
async def test_a_ranking_with_one_invalid_number_is_an_error_wherever_it_is(
    at: int, value: float, version: LoadedVersion, candidates: list[tuple[str, Entity]]
) -> None:
    scorer = Scorer(OneBadAnswer(value, at=at), version.compiler)
    with pytest.raises(InvalidOutput, match="Its weights are damaged"):
        await scorer.rank(version.suite.task("job_apply"), {}, [], candidates)


async def test_the_response_names_the_version_and_the_service_is_not_ready(
    client: Callable[[Any], httpx.AsyncClient], body: dict[str, Any]
) -> None:
    async with client(OneBadAnswer(math.nan, at=1)) as http:
        assert (await http.get("/ready")).status_code == 200
        answer = await http.post("/v1/rank", json={**body, "top_k": 1})
        assert (answer.status_code, answer.json()["code"]) == (500, "failed")
        assert answer.json()["error"].startswith("version 3 of brew360 cannot answer: the model computed nan where a")
        ready = await http.get("/ready")
        assert (ready.status_code, "version 3 of brew360 cannot answer" in ready.json()["error"]) == (503, True)
        assert (await http.get("/health")).status_code == 200
        assert 'brew_invalid_total{version="3"} 1.0' in (await http.get("/metrics")).text


CHAT = {"messages": [{"role": "user", "content": "job"}], "max_tokens": 3, "logprobs": True, "top_logprobs": 2}
TEXT = {"prompt": "job", "max_tokens": 3, "logprobs": 1}
LABELS = {"query": "job", "items": ["nurse", "chef"], "label_token_ids": [7, 8]}


@pytest.mark.parametrize(
    ("path", "request_body"),
    [
        ("/v1/score", LABELS),
        ("/v1/score", {**LABELS, "apply_softmax": True}),
        ("/generative_scoring", LABELS),
        ("/v1/completions", TEXT),
        ("/v1/completions", {"prompt": "job", "max_tokens": 3}),
        ("/v1/chat/completions", CHAT),
    ],
)
@pytest.mark.parametrize("value", [math.nan, -math.inf, 3.0])
async def test_no_text_route_answers_with_invalid_numbers(
    path: str, request_body: dict[str, Any], value: float, client: Callable[[Any], httpx.AsyncClient]
) -> None:
    async with client(OneBadAnswer(value, at=1)) as http:
        answer = await http.post(path, json={"model": "brew360", **request_body})
        assert answer.status_code == 500
        assert "version 3 of brew360 cannot answer" in answer.text
        assert (await http.get("/ready")).status_code == 503


@pytest.mark.parametrize(("path", "request_body"), [("/v1/completions", TEXT), ("/v1/chat/completions", CHAT)])
async def test_a_stream_ends_with_an_error_at_an_invalid_number(
    path: str, request_body: dict[str, Any], client: Callable[[Any], httpx.AsyncClient]
) -> None:
    async with client(OneBadAnswer(math.nan, at=1)) as http:
        answer = await http.post(path, json={"model": "brew360", **request_body, "stream": True})
        assert "NaN" not in answer.text
        assert "version 3 of brew360 cannot answer" in answer.text
        assert (await http.get("/ready")).status_code == 503


async def test_a_service_is_ready_again_after_a_valid_probe(version: LoadedVersion) -> None:
    service = RankingService(3, version, OneBadAnswer(math.nan, count=2), None)
    for _ in range(2):
        with pytest.raises(BrokenVersion, match="version 3 of brew360 cannot answer"):
            await service.probe()
        assert service.fault
    await service.probe()
    assert service.check_ready() == 3


def damage(version: LoadedVersion, folder: Path, name: str, index: Any) -> TorchEngine:
    """Return the model of the version with one NaN or a row of NaN."""
    shutil.copytree(version.folder, folder)
    weights = folder / "model.safetensors"
    tensors = load_file(weights)
    tensors[name][index] = math.nan
    save_file(tensors, weights, {"format": "pt"})
    return TorchEngine(folder)


async def test_one_nan_weight_in_the_head_is_found_by_the_first_probe(
    version: LoadedVersion, client: Callable[[Any], httpx.AsyncClient], body: dict[str, Any], tmp_path: Path
) -> None:
    engine = damage(version, tmp_path / "model", "lm_head.weight", (5, 7))
    with pytest.raises(BrokenVersion, match="version 3 of brew360 cannot answer: the model computed nan"):
        await RankingService(3, version, engine, None).probe()
    text = {"model": "brew360", "prompt": "job"}
    async with client(engine) as http:
        answers = [
            await http.post("/v1/rank", json=body),
            await http.post("/v1/score", json=LABELS),
            await http.post("/v1/completions", json={**text, "temperature": 0}),
            await http.post("/v1/completions", json={**text, "temperature": 1}),
        ]
    for answer in answers:
        assert answer.status_code == 500
        assert "version 3 of brew360 cannot answer" in json.dumps(answer.json())
    engine.close()


async def test_one_nan_in_an_embedding_fails_only_requests_that_read_it(
    version: LoadedVersion, table_engine: Any, tmp_path: Path
) -> None:
    jobs = [(title, Entity(entity_type="job", fields={"title": title})) for title in ("nurse", "chef")]
    task = version.suite.task("job_apply")
    prompts = Scorer(table_engine, version.compiler).compile_prompts(task, {}, [], jobs)
    (nurse, _), (chef, _) = prompts.questions
    row = next(id_ for id_ in chef if id_ not in {*nurse, *prompts.prefixes[0].ids})
    engine = damage(version, tmp_path / "model", "model.embed_tokens.weight", row)
    scorer = Scorer(engine, version.compiler)
    assert len((await scorer.rank(task, {}, [], jobs[:1])).candidates) == 1
    with pytest.raises(InvalidOutput):
        await scorer.rank(task, {}, [], jobs)
    await RankingService(3, version, engine, None).probe()
    engine.close()
