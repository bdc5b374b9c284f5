"""The clients: equal methods of both, retries after the service's retry time, and error classes with messages."""

import asyncio
import json
import math
import re
from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal
from types import MappingProxyType
from typing import Any

import httpx
import numpy as np
import pytest

from brew_platform.errors import BrewError, UserError
from brew_serve.client import AsyncRankClient, RankClient, Retries
from brew_serve.errors import (
    BodyTooLarge,
    Expired,
    Forbidden,
    Late,
    Lost,
    Overloaded,
    QuotaExceeded,
    Unauthorized,
    Uncalibrated,
)
from brew_serve.stores.sqlite_file import Unavailable

RANKED = {
    "version": 1,
    "task": "t",
    "ranking": [{"id": "a", "score": 0.5, "probabilities": {"x": 0.5, "y": 0.5}}],
    "usage": {"prompt_tokens": 9, "candidates": 1},
    "milliseconds": 1.5,
    "truncated": {
        "turns_dropped": 0,
        "head_tokens_dropped": 0,
        "history_tokens_dropped": 0,
        "fields_cut": 0,
        "candidates": {},
    },
}
NEARLINE = {name: value for name, value in RANKED.items() if name != "milliseconds"} | {
    "member_id": "m/1",
    "request_id": "r",
    "computed_at": "2026-01-31T12:00:00Z",
    "staleness_seconds": 0,
    "waiting": 0,
    "events": {"count": 0, "newest": []},
}
EVENT = {"event_id": "e", "member_id": "m", "entity_id": "j", "surface": "jobs", "action": "apply"}

# method, arguments, what is expected, its answer
CALLS: list[tuple[str, dict[str, Any], str, dict[str, Any]]] = [
    ("rank", {"task": "t", "member_id": "m", "candidates": ["a"]}, "POST /v1/rank", RANKED),
    ("health", {}, "GET /health", {"status": "ok", "version": 3}),
    ("ready", {}, "GET /ready", {"status": "ok", "version": 3}),
    ("models", {}, "GET /v1/models", {"data": []}),
    ("status", {}, "GET /v1/status", {"model": "brew360", "alias": "production", "versions": []}),
    ("send_events", {"events": [EVENT]}, "POST /v1/events", {"accepted": 1, "known": 0}),
    (
        "rank_nearline",
        {"task": "t", "member_id": "m", "candidates": ["a"]},
        "POST /v1/nearline/rank",
        {"request_id": "r", "result": "/x"},
    ),
    (
        "nearline_ranking",
        {"task": "t", "member_id": "m/1"},
        "GET /v1/nearline/rankings?task=t&member_id=m%2F1",
        NEARLINE,
    ),
]


class Service:
    """A fake service that returns its answers in order, and repeats the last one; it records requests and waits."""

    def __init__(self, *answers: httpx.Response | Exception) -> None:
        self._answers = list(answers)
        self.requests: list[httpx.Request] = []
        self.waits: list[float] = []

    def answer(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, Exception):
            raise answer
        return httpx.Response(answer.status_code, content=answer.content, headers=answer.headers)  # each is read once


def blocking(service: Service, method: str, arguments: dict[str, Any], **options: Any) -> Any:
    transport = httpx.MockTransport(service.answer)
    with RankClient("http://test", transport=transport, sleep=service.waits.append, **options) as client:
        return getattr(client, method)(**arguments)


def asynchronous(service: Service, method: str, arguments: dict[str, Any], **options: Any) -> Any:
    async def sleep(seconds: float) -> None:
        service.waits.append(seconds)

    async def run() -> Any:
        transport = httpx.MockTransport(service.answer)
        async with AsyncRankClient("http://test", transport=transport, sleep=sleep, **options) as client:
            return await getattr(client, method)(**arguments)

    return asyncio.run(run())


@pytest.fixture(params=[blocking, asynchronous])
def call_method(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """A function that calls one method of a client."""
    function: Callable[..., Any] = request.param
    return function


def busy(status: int, after: str | None) -> httpx.Response:
    return httpx.Response(status, json={"error": "wait."}, headers={} if after is None else {"retry-after": after})


RANK = CALLS[0][1]


@pytest.mark.parametrize(("method", "arguments", "expected", "answer"), CALLS, ids=[call[0] for call in CALLS])
def test_every_method_calls_its_route_and_returns_its_typed_response(
    call_method: Callable[..., Any], method: str, arguments: dict[str, Any], expected: str, answer: dict[str, Any]
) -> None:
    service = Service(httpx.Response(200, json=answer))
    response = call_method(service, method, arguments, api_key="b360_x")
    (request,) = service.requests
    assert f"{request.method} {request.url.raw_path.decode()}" == expected
    assert request.headers["authorization"] == "Bearer b360_x"
    content = json.loads(response.model_dump_json())
    assert content | answer == content
    if request.method == "POST":
        sent = json.loads(request.content)
        assert sent | arguments == sent


def test_both_clients_have_the_same_documented_methods() -> None:
    for method, *_ in CALLS:
        for client in (RankClient("http://test"), AsyncRankClient("http://test")):
            assert getattr(client, method).__doc__
            assert getattr(client, method).__name__ == method


def test_a_retried_nearline_request_keeps_its_id(call_method: Callable[..., Any]) -> None:
    arguments = {"task": "t", "member_id": "m", "candidates": ["a"]}
    service = Service(busy(503, "1"), httpx.Response(200, json={"request_id": "r", "result": "/x"}))
    call_method(service, "rank_nearline", arguments)
    first, second = (json.loads(request.content)["request_id"] for request in service.requests)
    assert first == second
    call_method(service, "rank_nearline", arguments | {"request_id": "mine"})
    assert json.loads(service.requests[-1].content)["request_id"] == "mine"


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_service_is_retried_after_its_retry_time(call_method: Callable[..., Any], status: int) -> None:
    service = Service(busy(status, "3"), busy(status, "4"), httpx.Response(200, json=RANKED))
    assert call_method(service, "rank", RANK).ranking[0].id == "a"
    assert service.waits == [0, 3, 4]


def test_without_retry_after_the_waits_double_up_to_the_last_retry(call_method: Callable[..., Any]) -> None:
    service = Service(busy(503, None))
    with pytest.raises(Overloaded, match=r"^wait\.$"):
        call_method(service, "rank", RANK, retries=Retries(max_retries=3))
    assert service.waits == [0, 1, 2, 4]


def test_a_retry_time_above_the_limit_is_not_waited_for(call_method: Callable[..., Any]) -> None:
    service = Service(busy(429, "31"))
    with pytest.raises(QuotaExceeded, match=r"^wait\. \(Retry-After: 31 s\)$") as caught:
        call_method(service, "rank", RANK)
    assert caught.value.retry_after == 31
    assert service.waits == [0]


def test_retries_do_not_wait_past_the_deadline(call_method: Callable[..., Any]) -> None:
    service = Service(busy(503, "1"))
    with pytest.raises(Overloaded):
        call_method(service, "rank", RANK | {"deadline_ms": 900})
    assert service.waits == [0]


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, UserError), (401, Unauthorized), (403, Forbidden), (404, UserError), (408, Expired), (409, Uncalibrated),
     (413, BodyTooLarge), (422, UserError), (429, QuotaExceeded), (500, BrewError), (503, Overloaded), (504, Late)],
)  # fmt: skip
def test_an_error_has_the_message_of_the_service_and_our_class(
    call_method: Callable[..., Any], status: int, kind: type[BrewError]
) -> None:
    service = Service(httpx.Response(status, json={"error": "do this."}))
    with pytest.raises(BrewError, match=r"^do this\.$") as caught:
        call_method(service, "rank", RANK, retries=Retries(max_retries=0))
    assert type(caught.value) is kind
    assert len(service.requests) == 1


@pytest.mark.parametrize(
    ("code", "kind"),
    [("overloaded", Overloaded), ("lost", Lost), ("unavailable", Unavailable), ("news", Overloaded)],
)
def test_the_code_of_a_503_selects_the_error_class(
    call_method: Callable[..., Any], code: str, kind: type[BrewError]
) -> None:
    ours = httpx.Response(503, json={"error": "do this.", "code": code}, headers={"retry-after": "5"})
    of_openai = {"message": "do this.", "type": "server_error", "param": None, "code": code}
    theirs = httpx.Response(503, json={"error": of_openai}, headers={"retry-after": "5"})
    for method, arguments, answer in [("rank", RANK, ours), ("models", {}, theirs)]:
        with pytest.raises(kind, match=r"^do this\. \(Retry-After: 5 s\)$") as caught:
            call_method(Service(answer), method, arguments, retries=Retries(max_retries=0))
        assert type(caught.value) is kind
        assert caught.value.retry_after == 5


@pytest.mark.parametrize(
    ("result", "sentence"),
    [
        (httpx.ConnectError("refused"), "no response from http://test (ConnectError: refused). Check that the service"),
        (
            httpx.ReadTimeout("slow"),
            "no response from http://test in time (ReadTimeout). Give the client a longer timeout",
        ),
        (httpx.Response(502, text="bad gateway"), "the service answered 502: bad gateway"),
        (
            httpx.Response(200, text="<html>"),
            "the response of http://test/v1/rank is not a valid RankResponse: '<html>'. Check",
        ),
    ],
)
def test_invalid_responses_and_failed_connections_are_reported(
    call_method: Callable[..., Any], result: httpx.Response | Exception, sentence: str
) -> None:
    with pytest.raises(BrewError, match=re.escape(sentence)):
        call_method(Service(result), "rank", RANK)


# --- Arguments that are refused before anything is sent ---

CLIENTS = [RankClient, AsyncRankClient]


@pytest.mark.parametrize("kind", CLIENTS)
@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("http://a:b", "'http://a:b' is not a URL ("),
        ("", "'' is not a URL with http:// or https:// and a host"),
        ("127.0.0.1", "is not a URL with http:// or https://"),
        ("localhost:8000", "is not a URL with http:// or https://"),
        ("http://", "is not a URL with http:// or https://"),
        ("ftp://a", "is not a URL with http:// or https://"),
        ("http://a:99999", "has the port 99999; ports are 1 to 65535"),
        ("http://a:0", "has the port 0"),
        ("http://a?key=1", "base_url has a query"),
        ("http://me:secret@a", "base_url has a query, a fragment or a password"),
        (None, "None is not a URL ("),
        ("http://a\n", "is not a URL ("),
    ],
)
def test_an_address_that_is_not_a_url_is_refused(kind: Any, url: Any, sentence: str) -> None:
    with pytest.raises(UserError, match=re.escape(sentence)) as refused:
        kind(url)
    assert str(refused.value).endswith("Pass one such as http://127.0.0.1:8000.")


@pytest.mark.parametrize("kind", CLIENTS)
@pytest.mark.parametrize("seconds", [-1, 0, math.nan, math.inf, 1e300, True, "5", None])
def test_a_timeout_that_is_not_positive_and_finite_is_refused(kind: Any, seconds: Any) -> None:
    with pytest.raises(UserError, match=r"^timeout_seconds is .*; pass a number of seconds greater than 0"):
        kind("http://test", timeout_seconds=seconds)


@pytest.mark.parametrize("kind", CLIENTS)
@pytest.mark.parametrize(
    "key", ["", "b360_x\n", "b360 x", "b360_x\r\nhost: evil", "b360_\u00fc", "b360_\ud800", b"b360_x"]
)
def test_a_key_that_no_header_can_carry_is_refused_and_not_repeated(kind: Any, key: Any) -> None:
    with pytest.raises(UserError, match=r"^api_key cannot be a key: .* strip\(\) removes") as refused:
        kind("http://test", api_key=key)
    assert "b360_" not in str(refused.value)


@pytest.mark.parametrize(
    ("limits", "sentence"),
    [
        ({"max_retries": -1}, "max_retries is -1"),
        ({"max_retries": 1.5}, "max_retries is 1.5"),
        ({"max_retries": True}, "max_retries is True"),
        ({"max_wait_seconds": -1}, "max_wait_seconds is -1"),
        ({"max_wait_seconds": math.nan}, "max_wait_seconds is nan"),
        ({"max_wait_seconds": math.inf}, "max_wait_seconds is inf"),
        ({"max_wait_seconds": "5"}, "max_wait_seconds is '5'"),
    ],
)
def test_limits_of_retries_are_checked(limits: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=re.escape(sentence)):
        Retries(**limits)


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


def circular() -> dict[str, Any]:
    value: dict[str, Any] = {}
    value["again"] = value
    return value


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (math.nan, "member.profile.x is nan, which JSON cannot represent; pass a finite number"),
        (-math.inf, "member.profile.x is -inf"),
        (np.float64("nan"), "member.profile.x is nan"),
        ([0.5, math.nan], "member.profile.x.1 is nan"),
        (
            datetime(2026, 1, 31, tzinfo=UTC),
            "member.profile.x is a datetime, which JSON cannot represent; pass its iso",
        ),
        (date(2026, 1, 31), "member.profile.x is a date"),
        ({"a"}, "member.profile.x is a set, which JSON cannot represent; pass a list."),
        (frozenset(), "member.profile.x is a frozenset"),
        (Decimal("1.5"), "member.profile.x is a Decimal"),
        (b"text", "member.profile.x is a bytes, which JSON cannot represent; decode it to text."),
        (np.int64(3), "member.profile.x is a int64, which JSON cannot represent; pass its tolist()."),
        (np.float32(0.5), "member.profile.x is a float32"),
        (np.zeros(2), "member.profile.x is a ndarray"),
        (object(), "member.profile.x is a object"),
        (iter([1]), "member.profile.x is a list_iterator"),
        ("\ud83d", "member.profile.x contains half of a surrogate pair at character 0"),
        ({"a\udc00": 1}, "member.profile.x contains half of a surrogate pair at character 1"),
        ({1: "a"}, "member.profile.x has the key 1, a int; the keys of JSON are text."),
        ({None: "a"}, "member.profile.x has the key None"),
        (10**5000, "member.profile.x is a number of more than 4300 digits"),
        (nested(2_000), "the request is nested more than 100 deep, or contains itself, at member.profile.x"),
        (circular(), "the request is nested more than 100 deep, or contains itself, at member.profile.x.again"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else type(value).__name__,
)
def test_values_that_json_cannot_represent_are_refused_before_anything_is_sent(
    call_method: Callable[..., Any], value: Any, sentence: str
) -> None:
    service = Service(httpx.Response(200, json=RANKED))
    with pytest.raises(UserError, match=re.escape(sentence)):
        call_method(service, "rank", RANK | {"member_id": None, "member": {"profile": {"x": value}}})
    assert not service.requests


def test_mappings_and_sequences_of_any_kind_are_sent(call_method: Callable[..., Any]) -> None:
    service = Service(httpx.Response(200, json=RANKED))
    fields = MappingProxyType({"title": "\u00e9\U0001f600", "tags": ("a", "b"), "pay": np.float64(0.5), "on": True})
    call_method(service, "rank", {"task": "t", "member_id": "m", "candidates": ({"id": "a", "fields": fields},)})
    sent = json.loads(service.requests[0].content)
    assert sent["candidates"][0]["fields"] == {**fields, "tags": ["a", "b"]}
    assert service.requests[0].headers["content-type"] == "application/json"


@pytest.mark.parametrize("candidates", ["abc", b"abc", {"id": "a"}, None, 5])
def test_a_list_argument_of_another_type_is_refused(call_method: Callable[..., Any], candidates: Any) -> None:
    service = Service(httpx.Response(200, json=RANKED))
    for method, arguments in [
        ("rank", {"task": "t", "member_id": "m", "candidates": candidates}),
        ("rank_nearline", {"task": "t", "member_id": "m", "candidates": candidates}),
        ("send_events", {"events": candidates}),
    ]:
        with pytest.raises(UserError, match=r"^(candidates|events) is a .*; pass a list\.$"):
            call_method(service, method, arguments)
    assert not service.requests


@pytest.mark.parametrize(
    ("member", "value"),
    [("a/b", "a%2Fb"), ("..", ".."), ("a b+?c#d%&e=", "a%20b%2B%3Fc%23d%25%26e%3D"), ("\u00e9", "%C3%A9")],
)
def test_an_id_is_one_value_of_the_query(call_method: Callable[..., Any], member: str, value: str) -> None:
    service = Service(httpx.Response(200, json=NEARLINE))
    call_method(service, "nearline_ranking", {"task": "t", "member_id": member})
    assert service.requests[0].url.raw_path.decode() == f"/v1/nearline/rankings?task=t&member_id={value}"


@pytest.mark.parametrize("member", ["", 5, None, "\ud800"])
def test_an_id_that_no_address_can_have_is_refused(call_method: Callable[..., Any], member: Any) -> None:
    service = Service(httpx.Response(200, json=NEARLINE))
    with pytest.raises(UserError, match=r"^member_id "):
        call_method(service, "nearline_ranking", {"task": "t", "member_id": member})
    assert not service.requests


@pytest.mark.parametrize("after", ["inf", "nan", "Wed, 21 Oct 2026 07:28:00 GMT", "-5"])
def test_a_retry_time_that_is_no_number_of_seconds_is_not_waited_for(
    call_method: Callable[..., Any], after: str
) -> None:
    service = Service(busy(503, after), httpx.Response(200, json=RANKED))
    assert call_method(service, "rank", RANK).version == 1
    assert service.waits == [0, 0 if after == "-5" else 1]


@pytest.mark.parametrize("error", [httpx.ReadTimeout("slow"), httpx.ReadError("reset"), httpx.ConnectError("refused")])
def test_a_request_that_may_have_been_answered_is_not_sent_again(
    call_method: Callable[..., Any], error: Exception
) -> None:
    service = Service(error, httpx.Response(200, json=RANKED))
    with pytest.raises(BrewError, match="no response from http://test"):
        call_method(service, "rank", RANK)
    assert len(service.requests) == 1


@pytest.mark.parametrize(
    "body", [b"", b"[1]", b"null", b'{"error": null}', b'{"error": {"message": 5}}', b"[" * 100_000, b"\xff", b"<html>"]
)
def test_an_error_response_in_no_form_of_ours_is_a_brew_error(call_method: Callable[..., Any], body: bytes) -> None:
    with pytest.raises(BrewError, match="the service answered 500: "):
        call_method(Service(httpx.Response(500, content=body)), "rank", RANK)
