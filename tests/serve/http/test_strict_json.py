"""JSON bodies: what Python's parser accepts and JSON does not is refused, with the path of the value."""

import json
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from brew_platform.errors import UserError
from brew_serve.http.error_responses import add_error_handlers
from brew_serve.http.request_context import RequestContext, Trace
from brew_serve.http.strict_json import MAX_DIGITS, StrictJsonRoute, parse_body, parse_body_in_thread, parse_json

from ..http_client import client_of_app

LONG = "7" * (MAX_DIGITS + 1)

REFUSED = [
    (b'{"task": 1, "task": 1}', "task occurs twice; send every key once."),
    (b'{"a": {"b": [{}, {"c": 1, "d": 2, "c": 3}]}}', "a.b.1.c occurs twice"),
    (rb'{"a": 1, "\u0061": 2}', "a occurs twice"),
    (b'{"": 1, "": 2}', '"" occurs twice'),
    (b'{"a": [NaN]}', "a.0 is NaN, which is not JSON; send null or leave it out."),
    (b'{"a": -Infinity}', "a is -Infinity, which is not JSON"),
    (b"Infinity", "the body is Infinity, which is not JSON"),
    (b'{"a": [0, 1e400]}', "a.1 is a number that a 64-bit float cannot hold"),
    (b'{"a": -1E+0400}', "a is a number that a 64-bit float cannot hold"),
    (b'{"a": ' + b"9" * 250 + b"e99}", "a is a number that a 64-bit float cannot hold"),
    (
        b'{"a": {"n": ' + LONG.encode() + b"}}",
        f"a.n is a number of {MAX_DIGITS + 1:,} digits; send at most {MAX_DIGITS:,}",
    ),
    (b'{"a": -' + LONG.encode() + b"}", f"a is a number of {MAX_DIGITS + 1:,} digits"),
    (b"[" * 100_000, "the body is nested too deeply"),
    (b'{"a":' * 100_000, "the body is nested too deeply"),
    (b'{"a": "\xff"}', "the body is not UTF-8 (byte 7 is 0xff); send JSON in UTF-8."),
    ('{"a": "ä"}'.encode("latin-1"), "the body is not UTF-8 (byte 7 is 0xe4)"),
    ('{"a": 1}'.encode("utf-16"), "the body is not UTF-8 (byte 0 is 0xff)"),
    (b'\xef\xbb\xbf{"a": 1}', "the body is not valid JSON (Unexpected UTF-8 BOM"),
    (rb'{"a": ["x", "\ud800"]}', "a.1 has half of a surrogate pair, which is not text."),
    (rb'{"a": {"\udfff": 1}}', "a key of a has half of a surrogate pair"),
    (b'{"a": ', "the body is not valid JSON (Expecting value at character 6); send one object."),
    (b'{"a": 1} {"a": 2}', "the body is not valid JSON (Extra data at character 9)"),
    (b'{"a": 1, "b": {"c": 1, "c": 2}, "b": 1}', "b occurs twice"),
]


@pytest.mark.parametrize(("body", "sentence"), REFUSED, ids=[sentence[:35] for _, sentence in REFUSED])
def test_what_is_not_json_is_refused_with_the_path_of_the_value(body: bytes, sentence: str) -> None:
    with pytest.raises(UserError) as refusal:
        parse_json(body)
    assert str(refusal.value).startswith(sentence), str(refusal.value)


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b'{"a": ' + b"7" * MAX_DIGITS + b"}", {"a": int("7" * MAX_DIGITS)}),
        (b'{"a": 1e308, "b": -1e-400, "text": "1e400"}', {"a": 1e308, "b": 0.0, "text": "1e400"}),
        (rb'{"a": "\ud83d\ude00"}', {"a": "\U0001f600"}),
        (b'[{"a": 1}, {"a": 1}]', [{"a": 1}, {"a": 1}]),
        (b'{"NaN": "Infinity"}', {"NaN": "Infinity"}),
    ],
)
def test_json_is_parsed(body: bytes, value: Any) -> None:
    assert parse_json(body) == value


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.text(), below, max_size=3),
    max_leaves=10,
)


@given(values)
def test_every_json_value_is_parsed_as_by_python(value: Any) -> None:
    for ascii_only in (True, False):
        assert parse_json(json.dumps(value, ensure_ascii=ascii_only).encode()) == value


class Numbers(BaseModel):
    n: list[int]


HEADERS = [("", "is missing"), ("text/plain", "is 'text/plain'"), ("application/x-www-form-urlencoded", "is 'app")]


@pytest.mark.parametrize(("content_type", "problem"), HEADERS)
async def test_a_wrong_content_type_is_named(content_type: str, problem: str) -> None:
    with pytest.raises(UserError, match=f"^the header content-type {problem}.*send `content-type: application/json`"):
        parse_body(Numbers, b'{"n": [1]}', content_type)


async def test_a_large_body_is_parsed_in_a_thread_with_the_same_result() -> None:
    body = json.dumps({"n": list(range(50_000))}).encode()
    assert len((await parse_body_in_thread(Numbers, body, "application/json; charset=utf-8")).n) == 50_000
    with pytest.raises(UserError, match=r"^n occurs twice"):
        await parse_body_in_thread(Numbers, body[:-1] + b', "n": []}', "application/vnd.api+json")


async def test_routes_of_fastapi_give_the_same_messages() -> None:
    router = APIRouter(route_class=StrictJsonRoute)

    @router.post("/numbers")
    async def numbers(body: Numbers) -> int:
        return sum(body.n)

    api = FastAPI(strict_content_type=True)
    api.include_router(router)
    add_error_handlers(api)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        scope["state"] = {"context": RequestContext(arrival=0.0, trace=Trace.of("", ""))}  # as the middleware does
        await api(scope, receive, send)

    json_header = {"content-type": "application/json"}
    async with client_of_app(app) as http:
        assert (await http.post("/numbers", content=b'{"n": [1, 2]}', headers=json_header)).json() == 3
        for body, sentence in REFUSED:
            answer = await http.post("/numbers", content=body, headers=json_header)
            assert (answer.status_code, answer.json()["code"]) == (400, "invalid_request")
            assert answer.json()["error"].startswith(sentence)
        for content_type, problem in HEADERS:
            headers = {"content-type": content_type} if content_type else {}
            answer = await http.post("/numbers", content=b'{"n": [1]}', headers=headers)
            assert answer.json()["error"].startswith(f"the header content-type {problem}")
        answer = await http.post("/numbers", headers=json_header)
        assert answer.json()["error"].startswith("the body is missing")
