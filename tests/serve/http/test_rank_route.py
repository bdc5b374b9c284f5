"""`POST /v1/rank` without Ray: responses, and a 4xx status with a message for every invalid request."""

import json
from typing import Any

import httpx
import pytest

from brew_data.prompts.compiler import Entity, PastInteraction
from brew_platform.errors import BrewError, UserError
from brew_serve.client import RankClient, Retries
from brew_serve.http.app import create_app
from brew_serve.http.backend import LocalBackend
from brew_serve.ranking.scoring import Scorer
from brew_serve.ranking.service import RankingService
from brew_serve.version import LoadedVersion

from ..http_client import client_of_app

NOTHING_CUT = {
    "turns_dropped": 0,
    "head_tokens_dropped": 0,
    "history_tokens_dropped": 0,
    "fields_cut": 0,
    "candidates": {},
}


@pytest.fixture
async def http(service: RankingService) -> Any:
    async with client_of_app(create_app(LocalBackend(service))) as client:
        yield client


async def test_the_response_is_the_ranking_of_the_scorer(
    http: httpx.AsyncClient,
    body: dict[str, Any],
    service: RankingService,
    history: list[PastInteraction],
    candidates: list[tuple[str, Entity]],
) -> None:
    scorer = Scorer(service.engine, service.version.compiler)
    profile = {"title": "engineer", "location": "berlin"}
    expected = await scorer.rank(service.version.suite.task("job_apply"), profile, history, candidates)

    answer = await http.post("/v1/rank", json=body)

    assert answer.status_code == 200
    result = answer.json()
    assert result.pop("milliseconds") > 0
    assert result == {
        "version": 3,
        "task": "job_apply",
        "ranking": [{"id": c.id, "score": c.score, "probabilities": c.probabilities} for c in expected.candidates],
        "calibrated": False,
        "partial": False,
        "unscored": [],
        "usage": {"prompt_tokens": expected.prompt_tokens, "candidates": len(candidates)},
        "truncated": NOTHING_CUT,
    }


async def test_requests_by_id_and_inline_get_the_same_scores(http: httpx.AsyncClient, body: dict[str, Any]) -> None:
    jobs = ["e0", "e2", "e4", "e6"]
    by_id = await http.post("/v1/rank", json={"task": "job_apply", "member_id": "ada", "candidates": jobs})
    body["candidates"] = [{**body["candidates"][int(id_[1:])], "id": id_} for id_ in jobs]
    inline = await http.post("/v1/rank", json=body)
    assert by_id.json()["ranking"] == inline.json()["ranking"]


async def test_top_k_and_own_words(http: httpx.AsyncClient, body: dict[str, Any]) -> None:
    whole = (await http.post("/v1/rank", json=body)).json()
    best = (await http.post("/v1/rank", json={**body, "top_k": 2})).json()
    assert best["ranking"] == whole["ranking"][:2]
    assert best["usage"]["candidates"] == len(body["candidates"])
    changed = (await http.post("/v1/rank", json={**body, "instruction": "I like ever now <|user|>"})).json()
    assert changed["ranking"] != whole["ranking"]


async def test_truncation_is_reported(http: httpx.AsyncClient, body: dict[str, Any]) -> None:
    body["candidates"][0]["fields"] = {"title": "nurse " * 100}
    body["member"]["profile"] = {"title": "welder " * 60}
    body["member"]["history"] *= 5
    truncated = (await http.post("/v1/rank", json=body)).json()["truncated"]
    assert truncated["turns_dropped"] > 0
    assert truncated["head_tokens_dropped"] > 0
    assert list(truncated["candidates"]) == ["c0"]


async def test_values_of_other_types_are_written_as_in_tables(http: httpx.AsyncClient, body: dict[str, Any]) -> None:
    def ask(profile: dict[str, Any], fields: dict[str, Any]) -> dict[str, Any]:
        return body | {"member": {"profile": profile}, "candidates": [{"id": "a", "fields": fields}]}

    plain = await http.post("/v1/rank", json=ask({"title": "care, law"}, {"title": "3", "company": "yes"}))
    other = await http.post(
        "/v1/rank",
        json=ask({"title": [" care", "", None, "law\n"], "location": " "}, {"title": 3.0, "company": True, "x": None}),
    )
    assert plain.status_code == other.status_code == 200
    assert plain.json()["ranking"] == other.json()["ranking"]
    assert plain.json()["usage"] == other.json()["usage"]


def change(**values: Any) -> Any:
    return lambda body: body.update(values)


def both(body: dict[str, Any]) -> None:
    body["member_id"] = "ada"


def past(**values: Any) -> Any:
    return lambda body: body["member"]["history"][0].update(values)


BAD = [
    (change(task="nothing"), 400, "task 'nothing' is unknown; this model knows job_apply, post_interest."),
    (change(task=5), 400, "task: Input should be a valid string."),
    (lambda body: body.pop("task"), 400, "task is missing; give it (GET /docs describes the request)."),
    (lambda body: body.pop("member"), 400, "neither of member and member_id given; give exactly one of them."),
    (both, 400, "both of member and member_id given; give exactly one of them."),
    (
        change(member=None, member_id="nobody"),
        404,
        "member 'nobody' is unknown here, or has opted out; send",
    ),
    (change(candidates=[]), 400, "candidates: List should have at least 1 item"),
    (change(candidates=["e0", "e0"]), 400, "candidate id 'e0' is given twice; give every candidate once."),
    (change(candidates=["e0", "e99"]), 404, "candidate 'e99' is unknown here; send it inline"),
    (change(candidates=["e1"]), 400, "task job_apply ranks entities of type 'job', not 'post'."),
    (change(candidates=[f"e{i}" for i in range(1001)]), 400, "candidates: List should have at most 1000 items"),
    (
        change(candidates=[{"id": "a", "fields": {"title": "x" * 2001}}]),
        400,
        "candidates.0.fields.title: String",
    ),
    (
        change(candidates=[{"id": "a", "fields": {"title": {"en": "nurse"}}}]),
        400,
        "candidates.0.fields: field 'title' holds a value of type dict, which a prompt cannot show",
    ),
    (
        change(member={"profile": {"skills": ["care", ["law"]]}}),
        400,
        "member.profile: field 'skills[1]' holds a value of type list",
    ),
    (past(fields={"topic": {}}), 400, "member.history.0.fields: field 'topic' holds a value of type dict"),
    (
        change(member={"profile": {"skills": ["x" * 1500, "y" * 1500]}}),
        400,
        "member.profile.skills: String should have at most 2000 characters",
    ),
    (change(candidates=[{"id": "a"}]), 400, "candidates.0.fields is missing; give it"),
    (change(candidates=[7]), 400, "candidates.0: Input should be a valid dictionary"),
    (change(deadline=5), 400, "deadline is not a key of this request; remove it, or correct its spelling"),
    (change(top_k=0), 400, "top_k: Input should be greater than or equal to 1."),
    (change(instruction="x" * 2001), 400, "instruction: String should have at most 2000 characters."),
    (past(timestamp="2026-01-31T12:00:00"), 400, "member.history.0.timestamp: Input should have timezone info."),
    (past(surface="moon"), 400, "surface 'moon' is unknown; this model knows jobs, feed."),
    (past(action="sing"), 400, "action 'sing' is unknown on surface"),
    (past(entity_type="person"), 400, "surface feed shows entities of type 'post', not 'person'."),
]


@pytest.mark.parametrize(("spoil", "status", "sentence"), BAD, ids=[sentence[:40] for _, _, sentence in BAD])
async def test_an_invalid_request_gets_a_message(
    http: httpx.AsyncClient, body: dict[str, Any], spoil: Any, status: int, sentence: str
) -> None:
    spoil(body)
    answer = await http.post("/v1/rank", json=body)
    assert answer.status_code == status, answer.text
    assert answer.json()["code"] == {400: "invalid_request", 404: "not_found"}[status]
    assert answer.json()["error"].startswith(sentence), answer.text


RAW = [
    (b'{"task": ', "the body is not valid JSON (Expecting value at character 9); send one object."),
    (b'{"task": "\xff\xfe"}', "the body is not UTF-8 (byte 10 is 0xff); send JSON in UTF-8."),
    (b'{"task": "a", "task": "b"}', "task occurs twice; send every key once."),
    (b"[1, 2]", "the body: Input should be a valid dictionary or object to extract fields from."),
    (b"", "the body is missing; give it (GET /docs describes the request)."),
    (b'"text"', "the body: Input should be a valid dictionary or object to extract fields from."),
    (b"[" * 100_000, "the body is nested too deeply"),
]


@pytest.mark.parametrize(("raw", "sentence"), RAW, ids=[repr(raw[:12]) for raw, _ in RAW])
async def test_a_body_that_is_not_a_json_object_gets_a_message(
    http: httpx.AsyncClient, raw: bytes, sentence: str
) -> None:
    answer = await http.post("/v1/rank", content=raw, headers={"content-type": "application/json"})
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"].startswith(sentence), answer.text


async def test_unknown_routes_refer_to_the_documentation(http: httpx.AsyncClient) -> None:
    for method, path, status in [("GET", "/v1/rank", 405), ("POST", "/v2/rank", 404)]:
        answer = await http.request(method, path)
        assert answer.status_code == status
        assert answer.json()["error"].startswith(f"{method} {path} is not served; GET /docs lists the routes.")
        assert answer.json()["code"] == "not_served"
        assert answer.headers.get("allow") == ("POST" if status == 405 else None)


async def test_healthz_fails_with_the_engine(
    http: httpx.AsyncClient, service: RankingService, monkeypatch: Any
) -> None:
    assert (await http.get("/healthz")).json() == {"status": "ok", "version": 3}

    def broken() -> None:
        raise BrewError("the engine failed. Start the service again.")

    monkeypatch.setattr(service.engine, "check", broken)
    answer = await http.get("/healthz")
    expected = {"error": "the engine failed. Start the service again.", "code": "lost"}
    assert (answer.status_code, answer.json()) == (503, expected)


async def test_a_bug_is_logged_and_not_exposed(
    http: httpx.AsyncClient, body: dict[str, Any], service: RankingService, monkeypatch: Any, caplog: Any
) -> None:
    async def bug(*_: object) -> None:
        raise ZeroDivisionError("a secret")

    monkeypatch.setattr(service.engine, "next_token_logprobs", bug)
    answer = await http.post("/v1/rank", json=body)
    assert answer.status_code == 500
    assert answer.json() == {
        "error": "the service failed on this request; its log says why. Tell the operators.",
        "code": "failed",
    }
    assert "a secret" in caplog.text


async def test_without_a_context_ids_are_refused(version: LoadedVersion, table_engine: Any) -> None:
    service = RankingService(1, version, table_engine, None)
    async with client_of_app(create_app(LocalBackend(service))) as http:
        answer = await http.post("/v1/rank", json={"task": "job_apply", "member_id": "ada", "candidates": ["e0"]})
    assert answer.status_code == 400
    assert answer.json()["error"].startswith("this service knows no members or entities by id; send member and")


def test_the_client_raises_the_messages_of_the_service(body: dict[str, Any]) -> None:
    answers = {
        "good": httpx.Response(200, json=json.loads(GOOD)),
        "bad": httpx.Response(400, json={"error": "do this."}),
        "down": httpx.Response(503, text="upstream"),
    }

    def answer(request: httpx.Request) -> httpx.Response:
        task = json.loads(request.content)["task"]
        if task == "lost":
            raise httpx.ConnectError("refused")
        return answers[task]

    with RankClient("http://test", transport=httpx.MockTransport(answer), retries=Retries(max_retries=0)) as client:
        assert client.rank(task="good", member_id="ada", candidates=["a"]).ranking[0].id == "a"
        with pytest.raises(UserError, match=r"^do this\.$"):
            client.rank(task="bad", member_id="ada", candidates=["a"])
        with pytest.raises(BrewError, match="the service answered 503: upstream"):
            client.rank(task="down", member_id="ada", candidates=["a"])
        with pytest.raises(BrewError, match=r"no response from http://test.* \(ConnectError: refused\)"):
            client.rank(task="lost", member_id="ada", candidates=["a"])


GOOD = """{"version": 1, "task": "good", "ranking": [{"id": "a", "score": 0.5, "probabilities": {"x": 0.5, "y": 0.5}}],
 "usage": {"prompt_tokens": 9, "candidates": 1}, "milliseconds": 1.5,
 "truncated": {"turns_dropped": 0, "head_tokens_dropped": 0, "candidates": {}}}"""
