"""The HTTP API fuzzed from its OpenAPI document: every response is one that the document describes.

Schemathesis makes requests that fit the document and requests that do not, and checks each answer against it: status,
content type, body, the Allow header, and that what does not fit is refused. Every refusal is one sentence.
"""

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from fastapi import FastAPI
from hypothesis import HealthCheck, given, settings
from jsonschema import Draft202012Validator
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)

from brew_serve.http.app import create_app
from brew_serve.http.backend import LocalBackend
from brew_serve.ranking.service import RankingService
from brew_serve.schemas.openai import PATHS, is_openai_path

from ..http_client import client_of_app

EXAMPLES = 30  # per route, that fit the document, and as many that do not

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    negative_data_rejection,
]


@pytest.fixture(scope="module")
def api(service: RankingService) -> FastAPI:
    return create_app(LocalBackend(service))


@pytest.fixture(scope="module")
def document(api: FastAPI) -> schemathesis.BaseSchema:
    return schemathesis.openapi.from_asgi("/openapi.json", api)


POSTS = ["/v1/rank", "/v1/completions", "/v1/chat/completions", "/v1/score", "/generative_scoring"]
GETS = ["/v1/models", "/v1/models/{model}", "/v1/status", "/health", "/ready", "/metrics"]


quick = settings(
    max_examples=EXAMPLES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None
)


def known(value: Any, key: str = "") -> Any:
    """Replace names and token ids in `value` by those of this model, so that a request reaches the engine."""
    if isinstance(value, dict):
        return {name: known(part, name) for name, part in value.items()}
    if isinstance(value, list):
        return [known(part, key) for part in value[:8]]
    if key in ("query", "items", "prompt", "label_token_ids") and type(value) is int:
        return value % 300
    return {"model": "brew360", "task": "job_apply"}.get(key, value)


def checked(case: Case) -> int:
    answer = case.call(timeout=120)
    # Schemathesis does not count 413 as a refusal of what the document forbids.
    case.validate_response(
        answer, checks=[c for c in CHECKS if c != negative_data_rejection or answer.status_code != 413]
    )
    if answer.status_code >= 400:
        content = answer.json()
        if case.path in PATHS:
            content = {"error": content["error"]["message"], "code": content["error"]["code"]}
        assert list(content) == ["error", "code"]
        assert content["error"].endswith(".")
    return int(answer.status_code)


@pytest.mark.parametrize("path", POSTS)
def test_requests_that_match_the_document_are_answered_or_refused(document: schemathesis.BaseSchema, path: str) -> None:
    statuses = set()

    @quick
    @given(document[path]["POST"].as_strategy(generation_mode=GenerationMode.POSITIVE))
    def check(case: Case) -> None:
        case.body = known(case.body)
        if "completions" in path:
            case.body["max_tokens"] = 2  # the default of 16 takes this engine long
            case.body.pop("max_completion_tokens", None)
        statuses.add(checked(case))

    check()
    assert statuses <= {200, 400, 404, 408, 409, 503}  # 409: calibrated, and the version has no map
    assert path == "/v1/rank" or 200 in statuses  # made-up surfaces and members of a ranking are refused


@pytest.mark.parametrize("path", POSTS)
def test_requests_that_violate_the_document_are_refused(document: schemathesis.BaseSchema, path: str) -> None:
    @quick
    @given(document[path]["POST"].as_strategy(generation_mode=GenerationMode.NEGATIVE))
    def check(case: Case) -> None:
        checked(case)

    check()


OTHERS: list[Any] = [None, True, -1, 0, 1.5, 2**70, "", "5", "\x00", "x" * 300_000, [], [None], {}, {"a": 1}]


def spoilt(value: Any) -> Iterator[Any]:
    """Yield copies of `value` with one part replaced, removed, or added."""
    yield from OTHERS
    if isinstance(value, dict):
        yield {**value, "more": 1}
        for key, part in value.items():
            yield {name: part for name, part in value.items() if name != key}
            yield from ({**value, key: other} for other in spoilt(part))
    if isinstance(value, list):
        yield value * 2
        for i, part in enumerate(value):
            yield from ([*value[:i], other, *value[i + 1 :]] for other in spoilt(part))


async def test_every_single_fault_that_the_document_forbids_is_refused(api: FastAPI) -> None:
    document = api.openapi()
    async with client_of_app(api) as http:
        for path in POSTS:
            schema = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
            valid = Draft202012Validator({**schema, "components": document["components"]}).is_valid
            for example in document["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]]["examples"]:
                for body in filter(lambda body: not valid(body), spoilt(example)):
                    answer = await http.post(path, json=body)
                    assert answer.status_code == 400, (path, str(body)[:500], answer.text)
                    error = answer.json()["error"]
                    assert (error["message"] if path in PATHS else error).endswith(".")


def test_every_route_is_documented_with_an_example(api: FastAPI) -> None:
    document = api.openapi()
    routes = {(method, path) for path, methods in document["paths"].items() for method in methods}
    assert routes == {*(("post", path) for path in POSTS), *(("get", path) for path in GETS)}
    for path in POSTS:
        body = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
        examples = document["components"]["schemas"][body["$ref"].rsplit("/", 1)[1]]["examples"]
        assert examples
    for path in [*POSTS, "/v1/models", "/v1/models/{model}", "/health", "/ready"]:
        [operation] = document["paths"][path].values()
        assert "422" not in operation["responses"]
        assert {"400", "401", "413", "429", "503", "504"} <= operation["responses"].keys()
        form = operation["responses"]["400"]["content"]["application/json"]["schema"]["$ref"].rsplit("/", 1)[1]
        assert form == ("OpenAIErrorAnswer" if is_openai_path(path) else "ErrorAnswer")
        kinds = operation["responses"]["200"]["content"].keys()
        assert ("text/event-stream" in kinds) == path.endswith("completions")


async def test_every_example_of_the_document_is_answered(api: FastAPI, service: RankingService) -> None:
    document = api.openapi()
    async with client_of_app(api) as http:
        for path in POSTS:
            body = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
            for example in document["components"]["schemas"][body["$ref"].rsplit("/", 1)[1]]["examples"]:
                answer = await http.post(path, json=example)
                known_here = "member_id" not in example  # the example's member is not this test's
                assert answer.status_code == (200 if known_here else 404), answer.text
