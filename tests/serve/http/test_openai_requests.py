"""What clients of OpenAI's API send: nulls, keys without effect, stop strings, log-probabilities, one model."""

from typing import Any

import httpx
import pytest

from brew_data.prompts.tokenizer import Tokenizer
from brew_serve.schemas.openai import MAX_CHARACTERS, ChatMessage, ChatRequest, CompletionRequest
from brew_serve.version import LoadedVersion

from ..openai_client import ScriptedEngine

COMPLETION: dict[str, Any] = {"model": "brew360", "prompt": "job nurse"}
CHAT: dict[str, Any] = {"model": "brew360", "messages": [{"role": "user", "content": "job nurse"}]}
ROUTES = [("/v1/completions", COMPLETION), ("/v1/chat/completions", CHAT)]


@pytest.fixture
def engine(version: LoadedVersion) -> ScriptedEngine:
    return ScriptedEngine(version.compiler.tokenizer.encode("nurse at acme"))


def text_of(answer: httpx.Response) -> str:
    choice = answer.json()["choices"][0]
    return str(choice["text"] if "text" in choice else choice["message"]["content"])


# --- Keys ---


@pytest.mark.parametrize(("route", "body"), ROUTES)
async def test_null_stands_for_the_default_of_every_optional_key(
    http: httpx.AsyncClient, engine: ScriptedEngine, route: str, body: dict[str, Any]
) -> None:
    model = CompletionRequest if route == "/v1/completions" else ChatRequest
    optional = {name for name, field in model.model_fields.items() if not field.is_required()}
    assert {"temperature", "stop", "stream", "n", "logprobs", "max_tokens", "user", "store"} <= optional
    assert (await http.post(route, json=body)).status_code == 200
    for nulls in (dict.fromkeys(optional), *({name: None} for name in optional)):
        answer = await http.post(route, json=body | nulls)
        assert answer.status_code == 200, (nulls, answer.text)
        assert text_of(answer) == "nurse at acme"
    assert all(sampling == engine.samplings[0] for sampling in engine.samplings)


async def test_null_stands_for_the_default_in_messages_and_options(http: httpx.AsyncClient) -> None:
    nulls = {name: None for name, field in ChatMessage.model_fields.items() if not field.is_required()}
    messages = [
        {"role": "user", "content": "job nurse"} | nulls,
        {"role": "assistant", "content": [{"type": "text", "text": "skip", "prompt_cache_breakpoint": None}]} | nulls,
        {"role": "user", "content": "job welder"},
    ]
    options = {"stream": True, "stream_options": {"include_usage": None}}
    answer = await http.post("/v1/chat/completions", json={**CHAT, "messages": messages, **options})
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize(("route", "body"), ROUTES)
async def test_keys_without_effect_are_accepted(
    http: httpx.AsyncClient, engine: ScriptedEngine, route: str, body: dict[str, Any]
) -> None:
    keys: dict[str, Any] = {
        "user": "u1", "store": False, "metadata": {"a": "b"}, "service_tier": "auto", "n": 1, "logit_bias": {},
        "frequency_penalty": 0, "presence_penalty": 0.0, "safety_identifier": "u1", "prompt_cache_key": "k",
    }  # fmt: skip
    keys |= (
        {"best_of": 1, "suffix": ""}
        if route == "/v1/completions"
        else {
            "parallel_tool_calls": True, "tools": [], "tool_choice": "none", "response_format": {"type": "text"},
            "modalities": ["text"], "prediction": {"type": "content", "content": "x"}, "verbosity": "medium",
        }
    )  # fmt: skip
    answer = await http.post(route, json=body | keys)
    assert answer.status_code == 200, answer.text
    assert (await http.post(route, json=body)).status_code == 200
    assert engine.samplings[0] == engine.samplings[1]


REFUSED: list[tuple[str, dict[str, Any]]] = [
    ("/v1/completions", {"n": 2}),
    ("/v1/completions", {"n": True}),
    ("/v1/completions", {"best_of": 3}),
    ("/v1/completions", {"suffix": "end"}),
    ("/v1/completions", {"frequency_penalty": 0.5}),
    ("/v1/completions", {"presence_penalty": -1}),
    ("/v1/completions", {"logit_bias": {"5": 100}}),
    ("/v1/chat/completions", {"n": 2}),
    ("/v1/chat/completions", {"tools": [{"type": "function", "function": {"name": "f"}}]}),
    ("/v1/chat/completions", {"tool_choice": "required"}),
    ("/v1/chat/completions", {"functions": [{"name": "f"}]}),
    ("/v1/chat/completions", {"response_format": {"type": "json_object"}}),
    ("/v1/chat/completions", {"modalities": ["text", "audio"]}),
    ("/v1/chat/completions", {"audio": {"voice": "alloy"}}),
    ("/v1/chat/completions", {"reasoning_effort": "high"}),
    ("/v1/chat/completions", {"verbosity": "low"}),
    ("/v1/chat/completions", {"web_search_options": {}}),
]


@pytest.mark.parametrize(("route", "keys"), REFUSED, ids=[f"{route[4:8]}-{keys}" for route, keys in REFUSED])
async def test_a_key_that_would_change_the_answer_is_refused_by_name(
    http: httpx.AsyncClient, engine: ScriptedEngine, route: str, keys: dict[str, Any]
) -> None:
    answer = await http.post(route, json=dict(ROUTES)[route] | keys)
    assert answer.status_code == 400
    [name] = keys
    error = answer.json()["error"]
    assert error["message"].startswith(f"{name} changes the answer and is not supported here; leave it out")
    assert (error["type"], error["code"]) == ("invalid_request_error", "invalid_request")
    assert not engine.prompts


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"stream_options": {"include_usage": True}}, "stream_options needs stream: true"),
        ({"stop": ""}, "stop: String should have at least 1 character"),
        ({"stop": ["a", ""]}, "stop.1: String should have at least 1 character"),
        ({"stop": 5}, "stop: Input should be a valid string"),
        ({"stop": ["a"] * 17}, "stop: List should have at most 16 items"),
        ({"top_logprobs": 2}, "top_logprobs needs logprobs: true"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role: Input should be 'system'"),
        ({"messages": [{"role": "user"}]}, "messages.0.content is missing"),
        ({"messages": [{"role": "user", "content": None}]}, "messages.0.content is missing"),
        ({"messages": [{"role": "user", "content": []}]}, "messages.0.content: List should have at least 1 item"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x"}}]}]},
            "messages.0.content.0.type: Input should be 'text'",
        ),
        (
            {"messages": [{"role": "user", "content": "x", "name": "ada"}]},
            "name changes the answer and is not supported",
        ),
        ({"messages": [{"role": "assistant", "content": "x", "tool_calls": [{"id": "1"}]}]}, "tool_calls changes the"),
    ],
)
async def test_a_chat_that_is_not_supported_is_refused_with_the_place(
    http: httpx.AsyncClient, keys: dict[str, Any], sentence: str
) -> None:
    answer = await http.post("/v1/chat/completions", json=CHAT | keys)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"].startswith(sentence)


async def test_sampling_settings_at_their_limits(http: httpx.AsyncClient, engine: ScriptedEngine) -> None:
    for keys in ({"top_p": 0}, {"temperature": 0}, {"temperature": 0.001, "top_p": 0.5}):
        assert (await http.post("/v1/completions", json=COMPLETION | keys)).status_code == 200
    assert [(sampling.temperature, sampling.top_p) for sampling in engine.samplings] == [(0, 1)] * 3
    for seed in (-1, -(2**63), 2**63 - 1):
        assert (await http.post("/v1/completions", json=COMPLETION | {"seed": seed})).status_code == 200
    assert [sampling.seed for sampling in engine.samplings[3:]] == [2**63 - 1, 0, 2**63 - 1]


async def test_the_developer_role_and_text_parts_are_a_system_message(
    http: httpx.AsyncClient, engine: ScriptedEngine
) -> None:
    plain = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "job nurse"}]
    parts = [{"type": "text", "text": "Be "}, {"type": "text", "text": "brief."}]
    for messages in (plain, [{"role": "developer", "content": parts}, plain[1]]):
        answer = await http.post("/v1/chat/completions", json=CHAT | {"messages": messages})
        assert answer.status_code == 200
    assert engine.prompts[0] == engine.prompts[1]


# --- Sizes ---


@pytest.mark.parametrize(
    ("route", "keys", "sentence"),
    [
        ("/v1/completions", {"prompt": "x" * 100_000}, "the prompt has at least "),
        ("/v1/completions", {"prompt": ["x" * 10_000] * 64}, "the texts have 640000 characters; send at most 200000"),
        ("/v1/completions", {"prompt": [[9] * 90_000] * 2}, "the prompts have 180000 token ids; send at most 100000"),
        ("/v1/completions", {"prompt": [9] * 90_000}, "the prompt has at least 90000 tokens"),
        (
            "/v1/chat/completions",
            {"messages": [{"role": "user", "content": "x" * 90_000}] * 3},
            "the texts have 270000 characters; send at most 200000",
        ),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x" * 90_000}]}, "the prompt has at least "),
    ],
)
async def test_sizes_are_checked_before_any_text_is_encoded(
    http: httpx.AsyncClient,
    version: LoadedVersion,
    monkeypatch: pytest.MonkeyPatch,
    route: str,
    keys: dict[str, Any],
    sentence: str,
) -> None:
    monkeypatch.setattr(Tokenizer, "encode", lambda *_, **__: pytest.fail("encoded"))
    answer = await http.post(route, json=dict(ROUTES)[route] | keys)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"].startswith(sentence)
    assert MAX_CHARACTERS == 200_000


# --- Stop strings ---


@pytest.mark.parametrize(
    ("stop", "text", "finish"),
    [
        (None, "nurse at acme", "stop"),
        ([], "nurse at acme", "stop"),
        ("at", "nurse ", "stop"),
        (["zzz", " at a"], "nurse", "stop"),
        (["acme", "at"], "nurse ", "stop"),
        ("nurse", "", "stop"),
        ("acme!", "nurse at acme", "stop"),
        ("acmé", "nurse at acme", "stop"),
    ],
)
@pytest.mark.parametrize(("route", "body"), ROUTES)
async def test_a_text_ends_before_the_first_stop_string(
    http: httpx.AsyncClient,
    engine: ScriptedEngine,
    version: LoadedVersion,
    route: str,
    body: dict[str, Any],
    stop: Any,
    text: str,
    finish: str,
) -> None:
    engine.ids = [id_ for letter in "nurse at acme" for id_ in version.compiler.tokenizer.encode(letter)]
    answer = await http.post(route, json=body | {"stop": stop})
    assert answer.status_code == 200, answer.text
    assert (text_of(answer), answer.json()["choices"][0]["finish_reason"]) == (text, finish)
    assert answer.json()["usage"]["completion_tokens"] == engine.generated
    assert engine.running == 0


async def test_a_stop_string_ends_the_generation_and_its_tokens_are_left_out(
    http: httpx.AsyncClient, engine: ScriptedEngine, version: LoadedVersion
) -> None:
    engine.ids = [id_ for letter in "nurse at acme" for id_ in version.compiler.tokenizer.encode(letter)]
    answer = await http.post("/v1/completions", json=COMPLETION | {"stop": "e at", "logprobs": 0})
    choice = answer.json()["choices"][0]
    assert choice["text"] == "".join(choice["logprobs"]["tokens"]) == "nurs"
    assert engine.generated == len("nurse at") == answer.json()["usage"]["completion_tokens"]


async def test_a_text_that_fills_max_tokens_ends_by_length(http: httpx.AsyncClient) -> None:
    answer = await http.post("/v1/completions", json=COMPLETION | {"max_tokens": 1, "stop": "zzz"})
    assert answer.json()["choices"][0]["finish_reason"] == "length"


# --- Log-probabilities ---

SPLIT = "\u00e9\u6771\U0001f600"  # none of them is a token of this vocabulary


async def test_tokens_that_are_parts_of_characters_have_distinct_names_bytes_and_offsets(
    openai: Any, engine: ScriptedEngine, version: LoadedVersion
) -> None:
    tokenizer = version.compiler.tokenizer
    engine.ids = tokenizer.encode("a" + SPLIT + "b")
    parts = [bytes([byte]) for byte in ("a" + SPLIT + "b").encode()]
    assert [tokenizer.token_bytes(id_) for id_ in engine.ids] == parts
    engine.top = {id_: -1.0 - i for i, id_ in enumerate(dict.fromkeys(engine.ids))}
    answer = await openai.completions.create(model="brew360", prompt="x", logprobs=5)
    choice = answer.choices[0]
    assert choice.text == "a" + SPLIT + "b"
    names = ["a", *(f"bytes:\\x{byte:02x}" for byte in SPLIT.encode()), "b"]
    assert choice.logprobs.tokens == names
    assert choice.logprobs.text_offset == [0, 1, 1, 2, 2, 2, 3, 3, 3, 3, 4]
    for name, top in zip(names, choice.logprobs.top_logprobs, strict=True):
        assert top[name] == -0.5
        assert len(top) == len(engine.top)
    chat = await openai.chat.completions.create(**CHAT, logprobs=True, top_logprobs=20)
    content = chat.choices[0].logprobs.content
    assert [bytes(entry.bytes) for entry in content] == parts
    assert [entry.token for entry in content] == names
    assert all([bytes(top.bytes) for top in entry.top_logprobs] == list(dict.fromkeys(parts)) for entry in content)


async def test_tokens_with_the_same_text_have_distinct_names(
    http: httpx.AsyncClient, engine: ScriptedEngine, version: LoadedVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.ids, engine.top = [60], {60: -0.5, 61: -1.0, 62: -2.0}
    monkeypatch.setattr(Tokenizer, "token_bytes", lambda self, id_: b"a" if id_ < 62 else b"b")
    answer = await http.post("/v1/completions", json=COMPLETION | {"logprobs": 3})
    assert answer.json()["choices"][0]["logprobs"]["top_logprobs"] == [{"a": -0.5, "token_id:61": -1.0, "b": -2.0}]


# --- Echo ---


async def test_echo_puts_each_prompt_before_its_text(http: httpx.AsyncClient, version: LoadedVersion) -> None:
    ids = list(version.compiler.tokenizer.encode("job welder"))
    for prompts in (["job nurse", "job welder"], [ids, ids]):
        answer = await http.post("/v1/completions", json=COMPLETION | {"prompt": prompts, "echo": True})
        texts = [choice["text"] for choice in answer.json()["choices"]]
        assert texts == [("job welder" if prompt is ids else prompt) + "nurse at acme" for prompt in prompts]


# --- Models ---


@pytest.mark.parametrize("name", ["brew360", "brew360@3"])
async def test_one_model_is_retrieved(openai: Any, name: str) -> None:
    model = await openai.models.retrieve(name)
    listed = (await openai.models.list()).data
    assert model in listed
    assert (model.id, model.object, model.owned_by) == (name, "model", "brew360")


@pytest.mark.parametrize(
    "name", ["gpt-5", "brew360@4", "org/model", "a b?c#d%", "\u00e9\U0001f600", "x" * 3_000, "...", "a/../b"]
)
async def test_an_unknown_model_is_an_error_of_the_client(openai: Any, name: str) -> None:
    import openai as package

    with pytest.raises(package.NotFoundError) as refused:
        await openai.models.retrieve(name)
    assert (refused.value.type, refused.value.code) == ("invalid_request_error", "not_found")
    assert refused.value.body["message"].startswith(f"model {name!r} is not served here; GET /v1/models lists")


@pytest.mark.parametrize(
    ("method", "path"), [("DELETE", "/v1/models/brew360"), ("POST", "/v1/models"), ("GET", "/v1/completions")]
)
async def test_a_method_that_is_not_served_is_refused_in_openais_form(
    http: httpx.AsyncClient, method: str, path: str
) -> None:
    answer = await http.request(method, path)
    assert answer.status_code == 405
    assert answer.json()["error"]["code"] == "not_served"


@pytest.mark.parametrize("path", ["/health", "/ready", "/healthz"])
async def test_probes_can_send_head(http: httpx.AsyncClient, path: str) -> None:
    assert (await http.head(path)).status_code == 200
