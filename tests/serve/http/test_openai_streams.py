"""Streams of completions and chats: events, usage, whole characters, errors, and clients that disconnect."""

import asyncio
import json
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import httpx
import pytest

from brew_platform.errors import BrewError
from brew_platform.identity.keys import create_key
from brew_serve.deployment.forwarding import ForwardedRequest, Forwarder
from brew_serve.deployment.version_reconciler import Target
from brew_serve.engines.logprobs import InvalidOutput
from brew_serve.errors import Lost
from brew_serve.http.app import create_app
from brew_serve.http.backend import LocalBackend
from brew_serve.http.config import MiddlewareConfig
from brew_serve.http.request_context import RequestContext, Trace
from brew_serve.http.route import EVENT_STREAM, BackendResponse
from brew_serve.metrics import Meters
from brew_serve.ranking.service import RankingService
from brew_serve.version import LoadedVersion

from ..http_client import client_of_app
from ..openai_client import ScriptedEngine

COMPLETION: dict[str, Any] = {"model": "brew360", "prompt": "job nurse", "stream": True, "max_tokens": 32}
CHAT: dict[str, Any] = {
    "model": "brew360",
    "messages": [{"role": "user", "content": "job nurse"}],
    "stream": True,
    "max_tokens": 32,
}
ROUTES = [("/v1/completions", COMPLETION), ("/v1/chat/completions", CHAT)]
TEXT = "nurse \u00e9\u6771\U0001f600 at acme"


@pytest.fixture
def engine(version: LoadedVersion) -> ScriptedEngine:
    return ScriptedEngine([id_ for letter in TEXT for id_ in version.compiler.tokenizer.encode(letter)])


def events_of(body: bytes) -> list[Any]:
    """Return the events of a stream, of which the last is [DONE]."""
    *lines, end = body.decode().split("\n\n")
    assert end == ""
    assert all(line.startswith("data: ") and "\n" not in line for line in lines)
    data = [line.removeprefix("data: ") for line in lines]
    return [part if part == "[DONE]" else json.loads(part) for part in data]


def text_of(events: list[Any]) -> list[str]:
    choices = [choice for event in events if event != "[DONE]" for choice in event["choices"]]
    return [choice["text"] if "text" in choice else choice["delta"].get("content", "") for choice in choices]


# --- Events ---


@pytest.mark.parametrize(("route", "body"), ROUTES)
async def test_a_stream_has_the_text_in_whole_characters_and_ends_with_done(
    http: httpx.AsyncClient, route: str, body: dict[str, Any]
) -> None:
    answer = await http.post(route, json=body)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/event-stream"
    assert answer.headers["x-request-id"]
    *events, done = events_of(answer.content)
    assert done == "[DONE]"
    pieces = text_of(events)
    assert "".join(pieces) == TEXT
    assert len([piece for piece in pieces if piece]) == len(TEXT)
    finish = [choice["finish_reason"] for event in events for choice in event["choices"]]
    assert finish == [None] * (len(finish) - 1) + ["stop"]
    assert len({event["id"] for event in events}) == 1
    assert all(event["usage"] is None for event in events)
    kind = "text_completion" if route == "/v1/completions" else "chat.completion.chunk"
    assert {event["object"] for event in events} == {kind}


@pytest.mark.parametrize(("route", "body"), ROUTES)
async def test_the_usage_option_adds_one_event(
    http: httpx.AsyncClient, engine: ScriptedEngine, route: str, body: dict[str, Any]
) -> None:
    whole = (await http.post(route, json=body | {"stream": False})).json()
    answer = await http.post(route, json=body | {"stream_options": {"include_usage": True}})
    *events, last, _ = events_of(answer.content)
    assert last["choices"] == []
    assert last["usage"] == whole["usage"]
    assert last["usage"]["completion_tokens"] == len(engine.ids)
    assert all(event["usage"] is None for event in events)


async def test_the_openai_client_reads_both_streams(openai: Any, engine: ScriptedEngine) -> None:
    chunks = [chunk async for chunk in await openai.completions.create(**COMPLETION)]
    assert "".join(chunk.choices[0].text for chunk in chunks) == TEXT
    answer = await openai.chat.completions.create(**CHAT, logprobs=True, stream_options={"include_usage": True})
    *parts, last = [chunk async for chunk in answer]
    assert parts[0].choices[0].delta.role == "assistant"
    assert [part.choices[0].delta.role for part in parts[1:]] == [None] * (len(parts) - 1)
    assert "".join(part.choices[0].delta.content or "" for part in parts) == TEXT
    assert last.usage.completion_tokens == len(engine.ids)
    entries = [entry for part in parts if part.choices[0].logprobs for entry in part.choices[0].logprobs.content]
    assert b"".join(bytes(entry.bytes) for entry in entries).decode() == TEXT


async def test_the_streams_of_several_prompts_have_their_index(http: httpx.AsyncClient) -> None:
    body = COMPLETION | {"prompt": ["a", "b", "c"], "echo": True, "stream_options": {"include_usage": True}}
    *events, last, _ = events_of((await http.post("/v1/completions", json=body)).content)
    choices = [choice for event in events for choice in event["choices"]]
    for index, prompt in enumerate("abc"):
        own = [choice for choice in choices if choice["index"] == index]
        assert "".join(choice["text"] for choice in own) == prompt + TEXT
        assert [choice["finish_reason"] for choice in own if choice["finish_reason"]] == ["stop"]
    whole = await http.post("/v1/completions", json=body | {"stream": False, "stream_options": None})
    assert last["usage"] == whole.json()["usage"]


@pytest.mark.parametrize("stop", ["rse", "\u6771\U0001f600 a", ["zz", "acme"], "acme!", "\U0001f600"])
@pytest.mark.parametrize(("route", "body"), ROUTES)
async def test_stop_strings_over_several_tokens_end_a_stream_as_they_end_a_text(
    http: httpx.AsyncClient, engine: ScriptedEngine, route: str, body: dict[str, Any], stop: Any
) -> None:
    whole = (await http.post(route, json=body | {"stop": stop, "stream": False})).json()
    whole_text = whole["choices"][0].get("text") or whole["choices"][0]["message"]["content"]
    *events, _ = events_of((await http.post(route, json=body | {"stop": stop})).content)
    assert "".join(text_of(events)) == whole_text
    assert not any(part in whole_text for part in ([stop] if isinstance(stop, str) else stop))
    assert engine.running == 0


async def test_log_probabilities_of_a_stream_are_those_of_the_text(http: httpx.AsyncClient) -> None:
    body = COMPLETION | {"logprobs": 2, "stop": "at a"}
    whole = (await http.post("/v1/completions", json=body | {"stream": False})).json()["choices"][0]["logprobs"]
    *events, _ = events_of((await http.post("/v1/completions", json=body)).content)
    parts = [event["choices"][0]["logprobs"] for event in events]
    assert {name: [value for part in parts for value in part[name]] for name in whole} == whole


# --- Errors ---


@pytest.mark.parametrize(("route", "body"), ROUTES)
async def test_an_error_before_the_first_token_has_its_own_status(
    http: httpx.AsyncClient, engine: ScriptedEngine, scripted: RankingService, route: str, body: dict[str, Any]
) -> None:
    assert (await http.post(route, json=body | {"model": "other"})).status_code == 404
    assert (await http.post(route, json=body | {"n": 3})).status_code == 400
    engine.error_after = 0
    answer = await http.post(route, json=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "lost")
    scripted.admission.outstanding_tokens += 10**6
    answer = await http.post(route, json=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "overloaded")
    assert answer.headers["content-type"] == "application/json"
    scripted.admission.outstanding_tokens -= 10**6
    assert scripted.admission.outstanding_tokens == 0


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (BrewError("the engine failed. Start the service again."), "lost", "the engine failed."),
        (InvalidOutput("the model computed nan."), "failed", "version 3 of brew360 cannot answer: the model computed"),
        (RuntimeError("private data"), "failed", "the service failed on this request; its log says why."),
    ],
)
@pytest.mark.parametrize(("route", "body"), ROUTES)
async def test_an_error_after_the_first_token_is_the_last_event(
    http: httpx.AsyncClient,
    openai: Any,
    engine: ScriptedEngine,
    scripted: RankingService,
    route: str,
    body: dict[str, Any],
    error: Exception,
    code: str,
    sentence: str,
) -> None:
    import openai as package

    engine.error_after, engine.error = 3, error
    answer = await http.post(route, json=body)
    assert answer.status_code == 200
    *events, last = events_of(answer.content)
    assert "".join(text_of(events)) == TEXT[:3]
    assert (last["error"]["type"], last["error"]["code"]) == ("server_error", code)
    assert last["error"]["message"].startswith(sentence)
    assert scripted.admission.outstanding_tokens == engine.running == 0
    create = openai.completions.create if route == "/v1/completions" else openai.chat.completions.create
    with pytest.raises(package.APIError, match=sentence):
        [chunk async for chunk in await create(**body)]


class Replica:
    """Streams two events, and then waits for `release` or raises `error`."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error, self.release, self.closed = error, asyncio.Event(), False

    async def events(self) -> AsyncGenerator[bytes, None]:
        try:
            yield b"data: 1\n\n"
            yield b"data: 2\n\n"
            if self.error is not None:
                raise self.error
            await self.release.wait()
            yield b"data: [DONE]\n\n"
        finally:
            self.closed = True

    async def forward(self, *, seconds: float) -> BackendResponse:
        """Answer a request through a gateway's forwarder, with a time limit in seconds."""

        async def send(version: int, request: ForwardedRequest, key: str) -> BackendResponse:
            assert request.streams
            headers = {"content-type": EVENT_STREAM}
            return BackendResponse(status=200, headers=headers, body=b"", tokens=7, events=self.events())

        forwarder = Forwarder(send, Meters(), request_seconds=seconds, clock=time.perf_counter)
        forwarder.targets = (Target(role="production", version=3),)
        context = RequestContext(arrival=time.perf_counter(), trace=Trace.of("", ""))
        return await forwarder.forward("/v1/completions", b"{}", "application/json", context, streams=True)


@pytest.mark.parametrize(
    ("error", "code"), [(Lost("the replica has ended."), "lost"), (RuntimeError("x"), "failed"), (None, "late")]
)
async def test_a_replica_that_ends_fails_or_hangs_ends_the_stream_with_an_error_event(
    error: Exception | None, code: str
) -> None:
    replica = Replica(error)
    response = await replica.forward(seconds=0.05)
    assert (response.tokens, response.is_stream) == (7, True)
    assert response.events is not None
    first, second, last = [event async for event in response.events]
    assert (first, second) == (b"data: 1\n\n", b"data: 2\n\n")
    assert json.loads(last.removeprefix(b"data: "))["error"]["code"] == code
    assert replica.closed


async def test_a_closed_stream_is_closed_at_the_replica() -> None:
    replica = Replica()
    response = await replica.forward(seconds=10)
    assert response.events is not None
    assert await anext(response.events) == b"data: 1\n\n"
    await response.events.aclose()
    assert replica.closed


# --- Clients that disconnect ---


class Connection:
    """One request at an ASGI application; the client leaves after `leave_after` pieces of the body."""

    def __init__(self, route: str, body: dict[str, Any], key: str, leave_after: int) -> None:
        self.scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": "POST",
            "path": route,
            "raw_path": route.encode(),
            "query_string": b"",
            "headers": [(b"content-type", b"application/json"), (b"authorization", f"Bearer {key}".encode())],
            "client": ("test", 1),
            "server": ("test", 80),
            "scheme": "http",
            "root_path": "",
        }
        self._request = [{"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}]
        self._leave_after, self._left = leave_after, asyncio.Event()
        self.pieces: list[bytes] = []

    async def receive(self) -> dict[str, Any]:
        if self._request:
            return self._request.pop()
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.body" and message["body"]:
            self.pieces.append(message["body"])
            if len(self.pieces) == self._leave_after:
                self._left.set()
        await asyncio.sleep(0)


@pytest.mark.parametrize(("route", "body"), ROUTES)
@pytest.mark.parametrize("leave_after", [1, 3])
async def test_a_client_that_disconnects_stops_the_generation_and_is_charged(
    version: LoadedVersion,
    engine: ScriptedEngine,
    scripted: RankingService,
    tmp_path: Path,
    route: str,
    body: dict[str, Any],
    leave_after: int,
) -> None:
    key = create_key(tmp_path / "keys.yaml", "feed", tokens_per_minute=100)
    api = create_app(LocalBackend(scripted), MiddlewareConfig(keys_path=str(tmp_path / "keys.yaml")))
    engine.ids = list(engine.ids) * 100
    engine.before = lambda: asyncio.sleep(0.001)
    connection = Connection(route, body | {"max_tokens": 256}, key, leave_after)
    await api(connection.scope, connection.receive, connection.send)
    assert len(connection.pieces) < 20
    assert engine.running == 0
    assert engine.generated < 50
    assert scripted.admission.outstanding_tokens == 0
    async with client_of_app(api) as client:
        again = await client.post(route, json=body, headers={"authorization": f"Bearer {key}"})
    assert (again.status_code, again.json()["error"]["code"]) == (429, "quota_exceeded")  # 256 of 100 tokens are used
