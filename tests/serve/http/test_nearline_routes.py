"""The nearline routes without Ray: durability before the response, error messages, and staleness."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from brew_data.schema import Tables
from brew_serve.context.base import MemberContext
from brew_serve.http.app import create_app
from brew_serve.http.backend import LocalBackend
from brew_serve.http.routes.nearline import nearline_router
from brew_serve.nearline.dispatcher import Dispatcher, Message
from brew_serve.nearline.message_handler import NearlineWorker
from brew_serve.nearline.outbox import Outbox
from brew_serve.nearline.redis_store import RedisNearlineStore
from brew_serve.nearline.service import NearlineService
from brew_serve.nearline.store import NearlineStore, SqliteNearlineStore
from brew_serve.ranking.scoring import Scorer
from brew_serve.ranking.service import RankingService
from brew_serve.version import LoadedVersion

NOW = 1_800_000_000.0
EVENT = {
    "event_id": "a",
    "member_id": "ada",
    "entity_id": "e2",
    "surface": "jobs",
    "action": "skip",
    "timestamp": "2026-01-31T12:00:00Z",
}
RANK = {"task": "job_apply", "member_id": "ada", "candidates": ["e0", {"id": "x", "fields": {"title": "pilot"}}]}
RESULT = "/v1/nearline/rankings/job_apply/ada"


class LocalNearline:
    """The ingress, and a consumer that runs when `work` is called."""

    def __init__(self, folder: Path, tables: Tables, version: LoadedVersion, engine: Any) -> None:
        MemberContext.build(tables, folder / "context.sqlite")
        self.now, self.held = NOW, list[Message]()
        self.context = MemberContext(folder / "context.sqlite", writable=True)
        self.outbox = Outbox(folder / "outbox.sqlite", most_open=1_500)
        self.store: NearlineStore = SqliteNearlineStore(folder / "nearline.sqlite")
        self.ranker = RankingService(3, version, engine, None)
        self.scorer = Scorer(engine, version.compiler)
        self.serve(self.store)

    def serve(self, store: NearlineStore) -> None:
        self.dispatcher = Dispatcher(self.outbox, self, store, clock=lambda: self.now)
        suite = self.ranker.version.suite
        self.service = NearlineService(self.outbox, store, self.dispatcher, lambda: suite, clock=lambda: self.now)

    def send(self, message: Message) -> None:
        self.held.append(message)

    def work(self) -> None:
        """Send the due jobs and handle them."""
        self.dispatcher.step()
        worker = NearlineWorker(3, self.scorer, self.context, self.store, asyncio.run, clock=lambda: self.now)
        while self.held:
            message = self.held.pop()
            worker.handle(message.member_id, message.jobs)

    def close(self) -> None:
        self.service.close()
        self.context.close()


@pytest.fixture
def nearline(tmp_path: Path, tables: Tables, version: LoadedVersion, table_engine: Any) -> Iterator[LocalNearline]:
    nearline = LocalNearline(tmp_path, tables, version, table_engine)
    yield nearline
    nearline.close()


@pytest.fixture
async def http(nearline: LocalNearline) -> Any:
    api = create_app(LocalBackend(nearline.ranker), routers=(nearline_router(lambda: nearline.service),))
    transport = httpx.ASGITransport(api, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


async def post_event(http: httpx.AsyncClient, **changed: Any) -> httpx.Response:
    return await http.post("/v1/events", json={"events": [EVENT | changed]})


async def test_events_are_durable_before_the_response_and_repeated_ids_count_once(
    http: httpx.AsyncClient, nearline: LocalNearline
) -> None:
    batch = {"events": [EVENT, EVENT | {"event_id": "b", "entity": {"entity_type": "job", "fields": {"title": "x"}}}]}
    first = await http.post("/v1/events", json=batch)
    assert (first.status_code, first.json()) == (202, {"accepted": 2, "known": 0})
    assert nearline.outbox.counts() == {"accepted": 2}
    assert (await post_event(http)).json() == {"accepted": 0, "known": 1}
    await asyncio.to_thread(nearline.work)
    snapshot = nearline.context.snapshot("ada")
    assert snapshot.events == ["a", "b"]
    assert snapshot.history[-1].timestamp == 1_769_860_800_000_000


async def test_a_ranking_from_the_request_to_its_update_by_an_event(
    http: httpx.AsyncClient, nearline: LocalNearline
) -> None:
    missing = await http.get(RESULT)
    assert (missing.status_code, missing.json()["error"]) == (
        404,
        "there is no ranking of job_apply for member 'ada'; request it with POST /v1/nearline/rank.",
    )
    accepted = await http.post("/v1/nearline/rank", json=RANK)
    assert accepted.status_code == 202
    assert accepted.json()["result"] == RESULT
    waits = await http.get(RESULT)
    assert (waits.status_code, waits.json()["error"]) == (
        404,
        "the ranking of job_apply for member 'ada' is being computed; try again in a moment.",
    )

    await asyncio.to_thread(nearline.work)
    ranked = (await http.get(RESULT)).json()
    assert (ranked["version"], ranked["staleness_seconds"], ranked["waiting"]) == (3, 0.0, 0)
    assert ranked["request_id"] == accepted.json()["request_id"]
    assert ranked["computed_at"] == "2027-01-15T08:00:00Z"
    assert {item["id"] for item in ranked["ranking"]} == {"e0", "x"}
    assert ranked["usage"]["candidates"] == 2
    assert ranked["events"] == {"count": 0, "newest": []}

    await post_event(http)
    nearline.now += 40.0
    stale = (await http.get(RESULT)).json()
    assert (stale["staleness_seconds"], stale["waiting"]) == (pytest.approx(40.0), 1)
    assert stale["ranking"] == ranked["ranking"]
    await asyncio.to_thread(nearline.work)  # shown before it is settled in the outbox
    fresh = (await http.get(RESULT)).json()
    assert (fresh["staleness_seconds"], fresh["waiting"], fresh["events"]) == (0.0, 0, {"count": 1, "newest": ["a"]})
    assert fresh["ranking"] != ranked["ranking"]


async def test_a_failed_ranking_reports_the_reason(http: httpx.AsyncClient, nearline: LocalNearline) -> None:
    await http.post("/v1/nearline/rank", json=RANK | {"candidates": ["e99"]})
    await asyncio.to_thread(nearline.work)
    await asyncio.to_thread(nearline.work)
    answer = await http.get(RESULT)
    assert answer.status_code == 404
    assert answer.json()["error"].startswith("the ranking of job_apply for member 'ada' failed: candidate 'e99' is")


async def test_a_request_with_a_repeated_id_is_one_job(http: httpx.AsyncClient, nearline: LocalNearline) -> None:
    for _ in range(2):
        answer = await http.post("/v1/nearline/rank", json=RANK | {"request_id": "mine"})
        assert answer.json() == {"request_id": "mine", "result": RESULT}
    assert nearline.outbox.counts() == {"accepted": 1}
    other = await http.post("/v1/nearline/rank", json=RANK | {"request_id": "mine", "top_k": 1})
    assert other.status_code == 400
    assert other.json()["error"].startswith("rank id 'mine' was used before with other content")


async def test_ids_with_any_characters_are_returned_unchanged(http: httpx.AsyncClient, nearline: LocalNearline) -> None:
    accepted = await http.post("/v1/nearline/rank", json=RANK | {"member_id": "a/b ?\N{SNOWMAN}", "request_id": "r"})
    answer = await http.get(accepted.json()["result"].replace("%2F", "-"))
    assert "for member 'a-b ?\N{SNOWMAN}'" in answer.json()["error"]


BAD_EVENTS = [
    ({"events": []}, "events: List should have at least 1 item"),
    ({"events": [EVENT] * 2}, "event id 'a' occurs twice; send every event id once."),
    ({"events": [EVENT | {"event_id": str(n)} for n in range(1001)]}, "events: List should have at most 1000 items"),
    (
        {"events": [{**EVENT, "timestamp": "2026-01-31T12:00:00"}]},
        "events.0.timestamp: Input should have timezone info",
    ),
    ({"events": [{**EVENT, "timestamp": 5}]}, "a timestamp is text such as"),
    (
        {"events": [{**EVENT, "timestamp": "2027-01-15T09:00:01Z"}]},
        "events.0: timestamp 2027-01-15T09:00:01+00:00 is in",
    ),
    ({"events": [EVENT, {**EVENT, "event_id": "b", "surface": "moon"}]}, "events.1: surface 'moon' is unknown; this"),
    (
        {"events": [{**EVENT, "action": "sing"}]},
        "events.0: action 'sing' is unknown on surface 'jobs'; known are apply",
    ),
    ({"events": [{**EVENT, "event_id": ""}]}, "events.0.event_id: String should have at least 1 character"),
    ({"events": [{**EVENT, "member_id": "x" * 201}]}, "events.0.member_id: String should have at most 200"),
    ({"events": [{**EVENT, "mood": "good"}]}, "events.0.mood is not a key of this request"),
    ({"events": [{k: v for k, v in EVENT.items() if k != "event_id"}]}, "events.0.event_id is missing; give it"),
    (
        {"events": [{**EVENT, "entity": {"entity_type": "job", "fields": {"title": "x" * 2001}}}]},
        "events.0.entity.fiel",
    ),
    ([EVENT], "the body: Input should be"),
]


@pytest.mark.parametrize(("body", "sentence"), BAD_EVENTS, ids=[sentence[:40] for _, sentence in BAD_EVENTS])
async def test_invalid_events_are_refused_with_a_message_and_not_stored(
    http: httpx.AsyncClient, nearline: LocalNearline, body: Any, sentence: str
) -> None:
    answer = await http.post("/v1/events", json=body)
    assert answer.status_code == 400, answer.text
    assert answer.json()["code"] == "invalid_request"
    assert answer.json()["error"].startswith(sentence), answer.text
    assert nearline.outbox.counts() == {}


BAD_RANKS = [
    ({"task": "nothing"}, 400, "task 'nothing' is unknown; this model knows job_apply, post_interest."),
    ({"candidates": []}, 400, "candidates: List should have at least 1 item"),
    (
        {"candidates": ["e0", {"id": "e0", "fields": {}}]},
        400,
        "candidate id 'e0' occurs twice; send every candidate id",
    ),
    ({"candidates": [str(n) for n in range(1001)]}, 400, "candidates: List should have at most 1000 items"),
    ({"member_id": None}, 400, "member_id: Input should be a valid string."),
    ({"deadline_ms": 5}, 400, "deadline_ms is not a key of this request"),
]


@pytest.mark.parametrize(("changed", "status", "sentence"), BAD_RANKS, ids=[case[2][:40] for case in BAD_RANKS])
async def test_an_invalid_nearline_request_gets_a_message(
    http: httpx.AsyncClient, nearline: LocalNearline, changed: Any, status: int, sentence: str
) -> None:
    answer = await http.post("/v1/nearline/rank", json=RANK | changed)
    assert answer.status_code == status, answer.text
    assert answer.json()["error"].startswith(sentence), answer.text
    assert nearline.outbox.counts() == {}


async def test_reading_a_ranking_of_an_unknown_task_is_an_error(http: httpx.AsyncClient) -> None:
    answer = await http.get("/v1/nearline/rankings/nothing/ada")
    assert (answer.status_code, answer.json()["error"][:26]) == (400, "task 'nothing' is unknown;")


async def test_too_many_jobs_are_refused_with_a_retry_time(http: httpx.AsyncClient, nearline: LocalNearline) -> None:
    for start in (0, 1000):
        events = [EVENT | {"event_id": str(start + n)} for n in range(1000)]
        answer = await http.post("/v1/events", json={"events": events})
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "30")
    assert answer.json()["error"] == "2000 nearline jobs are open; the limit of this service is 1500. Try later."
    assert nearline.outbox.counts() == {"accepted": 1000}


async def test_while_redis_is_down_events_are_accepted_and_rankings_return_503(
    http: httpx.AsyncClient, nearline: LocalNearline
) -> None:
    nearline.serve(RedisNearlineStore("redis://127.0.0.1:1/0"))
    assert (await post_event(http)).status_code == 202
    answer = await http.get(RESULT)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
    assert answer.json()["error"].startswith("Redis did not answer (ConnectionError: ")


async def test_a_full_disk_returns_503_and_stores_nothing(http: httpx.AsyncClient, nearline: LocalNearline) -> None:
    nearline.outbox._file._db.execute("PRAGMA max_page_count = 1")  # as SQLite reports a disk without space
    events = [EVENT | {"event_id": str(n), "entity_id": "x" * 200} for n in range(500)]
    answer = await http.post("/v1/events", json={"events": events})
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
    assert answer.json()["error"].startswith("outbox.sqlite cannot be used now (database or disk is full).")
    nearline.outbox._file._db.execute("PRAGMA max_page_count = 100000")
    assert nearline.outbox.counts() == {}
    assert (await post_event(http)).status_code == 202


async def test_nearline_routes_without_the_nearline_service_return_an_error(nearline: LocalNearline) -> None:
    api = create_app(LocalBackend(nearline.ranker), routers=(nearline_router(lambda: None),))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(api), base_url="http://test") as client:
        answer = await post_event(client)
    assert (answer.status_code, answer.json()["error"]) == (
        400,
        "this service has no nearline routes (setting nearline); use POST /v1/rank.",
    )
