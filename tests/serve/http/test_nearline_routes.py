"""The nearline routes without Ray: durability before the response, error messages, and staleness."""

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, unquote_to_bytes

import httpx
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

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
from brew_serve.nearline.store import NearlineStore, SqliteNearlineStore, StoredRanking
from brew_serve.ranking.scoring import Scorer
from brew_serve.ranking.service import RankingService
from brew_serve.schemas.nearline import NearlineRankRequest
from brew_serve.stores.sqlite_file import Unavailable
from brew_serve.version import LoadedVersion

from ..http_client import client_of_app

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
RESULT = "/v1/nearline/rankings?task=job_apply&member_id=ada"


class LocalNearline:
    """The ingress, and a consumer that runs when `work` is called."""

    def __init__(self, folder: Path, tables: Tables, version: LoadedVersion, engine: Any) -> None:
        MemberContext.build(tables, folder / "context.sqlite")
        self.now, self.held = NOW, list[Message]()
        self.context = MemberContext(folder / "context.sqlite", writable=True)
        self.outbox = Outbox(folder / "outbox.sqlite", most_open=1_500)
        self.store: NearlineStore = SqliteNearlineStore(folder / "nearline.sqlite", clock=lambda: self.now)
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
    async with client_of_app(api) as client:
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
    for changed in ({"top_k": 1}, {"task": "post_interest"}, {"member_id": "new"}):
        other = await http.post("/v1/nearline/rank", json=RANK | {"request_id": "mine", **changed})
        assert other.status_code == 400
        assert other.json()["error"].startswith("rank id 'mine' was used before with other content")


def stored_ranking(task: str, member_id: str) -> StoredRanking:
    return StoredRanking(
        task=task,
        member_id=member_id,
        request_id="r",
        newness=f"{int(NOW * 1e6):020d}.a.b",
        version=3,
        computed_at=int(NOW * 1e6),
        events=0,
        event_ids=[],
        answer={
            "ranking": [],
            "usage": {"prompt_tokens": 1, "candidates": 0},
            "truncated": {"turns_dropped": 0, "head_tokens_dropped": 0, "candidates": {}},
        },
    )


async def request_raw(api: Any, target: bytes) -> tuple[int, dict[str, Any]]:
    """Send a GET with these bytes as its target, as a server passes it on: a client would normalise it."""
    raw_path, _, query = target.partition(b"?")
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": unquote(raw_path.decode("latin-1")),
        "raw_path": raw_path,
        "query_string": query,
        "root_path": "",
        "headers": [(b"host", b"test")],
        "server": ("test", 80),
        "client": ("127.0.0.1", 1),
    }
    await api(scope, receive, send)
    return sent[0]["status"], json.loads(b"".join(message.get("body", b"") for message in sent[1:]) or b"{}")


HARD_IDS = [
    *("a/b", "/", "//", "ada/", "/ada", ".", "..", "../ada", "x/../ada", "./ada", "%2F", "a%2Fb", "%", "%zz", "%00"),
    *("?", "ada?", "ada#", "#", "a&member_id=ada", "a=b", "a+b", "a b", " ", "ada ", " ada", "ada\n", "\n", "a\0b"),
    *(
        "\0",
        "\x7f",
        "ada\\",
        ";",
        "ada;",
        "\u00e9",
        "e\u0301",
        "\u212b",
        "\u00c5",
        "\ufffd",
        "\u202e",
        "\U0001f600" * 200,
    ),
    *("a" * 200, "job_apply", "None", "null", "*", "~", "'", '"', "<b>", "\ufeff", "\u2028"),
]
IDS = st.one_of(
    st.sampled_from(HARD_IDS),
    st.text(st.sampled_from("ab/.%2F \\\0\n?#&=+e\u0301\u00e9;"), min_size=1, max_size=8),
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=200),
)


@pytest.fixture
def api(nearline: LocalNearline) -> Any:
    return create_app(LocalBackend(nearline.ranker), routers=(nearline_router(lambda: nearline.service),))


async def test_every_id_is_read_back_at_the_address_that_is_returned(http: httpx.AsyncClient, nearline: Any) -> None:
    for member_id in HARD_IDS:
        accepted = await http.post("/v1/nearline/rank", json=RANK | {"member_id": member_id})
        assert accepted.status_code == 202, accepted.text
        nearline.store.put_ranking(stored_ranking("job_apply", member_id))
        answer = await http.get(accepted.json()["result"])
        assert (answer.status_code, answer.json().get("member_id")) == (200, member_id), answer.text


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(member_id=IDS, other=IDS)
def test_no_address_yields_the_ranking_of_another_member(
    nearline: LocalNearline, api: Any, member_id: str, other: str
) -> None:
    """At the address of one id, in either form, with the other id's ranking alone in the store."""
    nearline.store._file._db.execute("DELETE FROM rankings")  # type: ignore[attr-defined]
    nearline.store.put_ranking(stored_ranking("job_apply", other))
    accepted = nearline.service.rank(NearlineRankRequest(task="job_apply", member_id=member_id, candidates=["e0"]))
    by_path = f"/v1/nearline/rankings/job_apply/{quote(member_id, safe='')}"
    for address in (accepted.result, by_path):
        status, answer = asyncio.run(request_raw(api, address.encode()))
        assert (status == 200) <= (member_id == other)
        if address == accepted.result or "\n" not in member_id:
            assert (status, answer.get("member_id")) == ((200, other) if member_id == other else (404, None))


TARGETS = st.binary(max_size=40).map(lambda tail: bytes(byte for byte in tail if byte > 32 and byte != 127))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tail=TARGETS)
@example(tail=b"ada/")
@example(tail=b"ada%2F")
@example(tail=b"ada%0A")
@example(tail=b"x/../ada")
@example(tail=b"x%2F..%2Fada")
@example(tail=b"%2e/ada")
@example(tail=b"\xff")
@example(tail=b"%FF")
@example(tail=b"%C3%A9")
@example(tail=b"\xc3\xa9")
@example(tail=b"e%CC%81")
@example(tail=b"ada;x")
@example(tail=b"ada&member_id=eve")
@example(tail=b"ada?member_id=eve")
def test_a_malformed_address_yields_nothing_but_the_member_it_spells(
    nearline: LocalNearline, api: Any, tail: bytes
) -> None:
    for member in ("ada", "eve", "\ufffd", "\u00e9", "\u00c3\u00a9", "/", "x"):
        nearline.store.put_ranking(stored_ranking("job_apply", member))
    for start in (b"/v1/nearline/rankings/job_apply/", b"/v1/nearline/rankings?task=job_apply&member_id="):
        status, answer = asyncio.run(request_raw(api, start + tail))
        if status == 200:
            spelled = tail if b"?" in start else tail.partition(b"?")[0]
            assert unquote_to_bytes(spelled).decode() == answer["member_id"]
        else:
            assert status in (400, 404), answer


@pytest.mark.parametrize(
    "query", ["", "?task=job_apply", "?member_id=ada", "?task=job_apply&member_id=", "?task=&member_id=ada"]
)
async def test_an_address_without_an_id_is_refused(http: httpx.AsyncClient, query: str) -> None:
    answer = await http.get(f"/v1/nearline/rankings{query}")
    assert answer.status_code == 400, answer.text


async def test_addresses_of_earlier_versions_are_still_answered(
    http: httpx.AsyncClient, nearline: LocalNearline
) -> None:
    for member_id in ("ada", "a/b", "a b", ".."):
        nearline.store.put_ranking(stored_ranking("job_apply", member_id))
        path = quote(member_id, safe="").replace("..", "%2E%2E")
        answer = await http.get(f"/v1/nearline/rankings/job_apply/{path}")
        assert (answer.status_code, answer.json().get("member_id")) == (200, member_id)


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
    answer = await http.get("/v1/nearline/rankings?task=nothing&member_id=ada")
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


async def test_a_store_that_hangs_delays_neither_events_nor_health_probes(
    http: httpx.AsyncClient, nearline: LocalNearline
) -> None:
    hangs = threading.Event()

    class Store:
        def __getattr__(self, name: str) -> Any:
            return getattr(nearline.store, name)

        def ranking(self, task: str, member_id: str) -> None:
            hangs.wait(20)
            raise Unavailable("Redis did not answer.")

    nearline.serve(Store())  # type: ignore[arg-type]
    reads = [asyncio.create_task(http.get(RESULT)) for _ in range(300)]
    await asyncio.sleep(0.05)
    start = time.monotonic()
    for number in range(20):
        assert (await post_event(http, event_id=str(number))).status_code == 202
        assert (await http.get("/health")).status_code == 200
    assert time.monotonic() - start < 5
    hangs.set()
    answers = await asyncio.gather(*reads)
    codes = [answer.json()["code"] for answer in answers]
    assert {answer.status_code for answer in answers} == {503}
    assert all(answer.headers["retry-after"] == "2" for answer in answers)
    assert codes.count("overloaded") >= 30, "more than the pool takes are refused at once"
    assert codes.count("unavailable") >= 200
    assert nearline.outbox.counts() == {"accepted": 20}


async def test_health_says_that_the_nearline_store_does_not_answer(nearline: LocalNearline) -> None:
    api = create_app(LocalBackend(nearline.ranker), degraded=lambda: ["nearline"] if nearline.service.problem else [])
    async with client_of_app(api) as client:
        nearline.serve(RedisNearlineStore("redis://127.0.0.1:1/0"))
        for probe in ("/health", "/ready"):
            assert (await client.get(probe)).json() == {"status": "ok", "version": 3}
        nearline.dispatcher.start()
        until = time.monotonic() + 10
        while not nearline.service.problem and time.monotonic() < until:
            await asyncio.sleep(0.01)
        assert nearline.service.problem.startswith("Redis did not answer")
        for probe in ("/health", "/ready"):
            answer = await client.get(probe)
            assert (answer.status_code, answer.json()) == (
                200,
                {"status": "ok", "version": 3, "degraded": ["nearline"]},
            )


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
    async with client_of_app(api) as client:
        answer = await post_event(client)
    assert (answer.status_code, answer.json()["error"]) == (
        400,
        "this service has no nearline routes (setting nearline); use POST /v1/rank.",
    )
