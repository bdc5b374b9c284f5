"""The contract of a nearline store, on SQLite and Redis: newer data replaces older, and old data expires."""

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from brew_serve.nearline.redis_store import RedisNearlineStore
from brew_serve.nearline.store import (
    CandidateSlate,
    NearlineStore,
    Outcome,
    Receipt,
    SqliteNearlineStore,
    StoredRanking,
)
from brew_serve.stores.sqlite_file import Unavailable

NOW = 1_800_000_000  # seconds
SLATE = CandidateSlate(
    task="job_apply", member_id="ada", request_id="r1", requested_at=NOW * 1_000_000, candidates=["e0", "e2"]
)
RANKING = StoredRanking(
    task="job_apply",
    member_id="ada",
    request_id="r1",
    newness=f"{SLATE.newness}.1",
    version=3,
    computed_at=5,
    events=1,
    event_ids=["a\n"],
    answer={"ranking": [{"id": "e0", "score": 0.1}]},
)


class Clock:
    """Time of a store, in seconds since 1970."""

    def __init__(self) -> None:
        self.now = float(NOW)

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["sqlite", "redis"])
def store(request: pytest.FixtureRequest, tmp_path: Path, clock: Clock) -> Iterator[NearlineStore]:
    options: dict[str, Any] = {"ranking_seconds": 1_000.0, "clock": clock}
    if request.param == "sqlite":
        store: NearlineStore = SqliteNearlineStore(tmp_path / "nearline.sqlite", **options)
    else:
        store = RedisNearlineStore(request.getfixturevalue("redis_url"), f"{tmp_path.name}:", **options)
    yield store
    store.close()


def test_an_older_slate_never_replaces_a_newer_slate(store: NearlineStore) -> None:
    newer = replace(
        SLATE,
        request_id="a",
        requested_at=SLATE.requested_at + 20_000,
        candidates=[{"id": "x", "fields": {"title": "ä\n"}}],
    )
    other = replace(SLATE, task="post_interest", instruction="y", top_k=3)
    slates = (SLATE, SLATE, newer, SLATE, newer, other)
    assert [store.put_slate(slate) for slate in slates] == [True, False, True, False, False, True]
    assert store.slates("ada") == [newer, other]
    assert store.slates("nobody") == []


def test_slates_of_the_same_microsecond_have_a_fixed_order(store: NearlineStore) -> None:
    slates = [replace(SLATE, request_id=f"request-{n}") for n in range(6)]
    kept = []
    for member, order in enumerate([slates, slates[::-1], slates[3:] + slates[:3]]):
        for slate in order:
            store.put_slate(replace(slate, member_id=str(member)))
        kept += [slate.request_id for slate in store.slates(str(member))]
    assert len(kept) == 3
    assert len(set(kept)) == 1


def test_only_a_newer_ranking_replaces_a_ranking(store: NearlineStore) -> None:
    assert store.ranking("job_apply", "ada") is None
    assert store.put_ranking(RANKING)
    assert not store.put_ranking(replace(RANKING, newness=f"{SLATE.newness}.0", version=9))
    assert store.ranking("job_apply", "ada") == RANKING
    assert not store.put_ranking(replace(RANKING, version=4)), "one version reports an event"
    assert store.put_ranking(replace(RANKING, member_id="new"))
    assert store.ranking("job_apply", "ada") == RANKING
    newer = replace(RANKING, newness=f"{SLATE.newness}.2", version=4)
    assert store.put_ranking(newer)
    assert store.ranking("job_apply", "ada") == newer
    assert store.ranking("post_interest", "ada") is None


def test_concurrent_writes_keep_the_newest(store: NearlineStore) -> None:
    def write(thread: int) -> None:
        for at in range(30):
            store.put_ranking(replace(RANKING, newness=f"{SLATE.newness}.{at:03d}.{thread}"))
            store.begin(["event:x"], 0.0)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stored = store.ranking("job_apply", "ada")
    assert stored is not None
    assert stored.newness == f"{SLATE.newness}.029.2"
    assert store.receipts(["event:x"])["event:x"].attempts == 90


def test_receipts_record_attempts_and_outcomes(store: NearlineStore) -> None:
    assert store.receipts(["a", "b"]) == {}
    assert store.begin(["a", "b"], 1.0) == {"a": Receipt(attempts=1), "b": Receipt(attempts=1)}
    store.settle({"a": Outcome(state="failed", error="e1"), "b": Outcome(state="done"), "z": Outcome(state="done")})
    failed = Receipt(attempts=1, state="failed", error="e1")
    assert store.receipts(["a", "b", "z"]) == {"a": failed, "b": Receipt(attempts=1, state="done")}
    store.reset(["a", "b"])
    assert store.receipts(["a"])["a"].state is None
    assert store.receipts(["b"])["b"].state == "done"
    assert store.begin(["a"], 2.0)["a"].attempts == 2
    store.settle({"a": Outcome(state="dead", error="e2"), "b": Outcome(state="failed", error="late")})
    store.settle({"a": Outcome(state="done")})
    assert store.receipts(["a"])["a"] == Receipt(attempts=2, state="dead", error="e2")
    assert store.receipts(["b"])["b"].state == "done"
    store.forget(["a"])
    assert set(store.receipts(["a", "b"])) == {"b"}
    assert store.begin(["a"], 3.0)["a"] == Receipt(attempts=1)


def test_slates_and_rankings_expire_after_their_request(store: NearlineStore, clock: Clock) -> None:
    later = replace(SLATE, task="post_interest", requested_at=SLATE.requested_at + 600 * 1_000_000)
    for slate in (SLATE, later):
        store.put_slate(slate)
        store.put_ranking(replace(RANKING, task=slate.task, newness=f"{slate.newness}.1"))
    clock.now += 900
    store.prune(clock.now)
    assert len(store.slates("ada")) == 2
    clock.now += 200  # the first one has expired; the second one has 500 s left
    for _ in range(2):
        assert [slate.task for slate in store.slates("ada")] == ["post_interest"]
        assert store.ranking("job_apply", "ada") is None
        assert store.ranking("post_interest", "ada") is not None
        store.prune(clock.now)
    updated = replace(RANKING, newness=f"{SLATE.newness}.2")
    store.put_ranking(updated)  # by an event: it expires with its request all the same
    assert store.ranking("job_apply", "ada") is None
    clock.now += 600
    store.prune(clock.now)
    assert store.slates("ada") == []
    if isinstance(store, SqliteNearlineStore):
        assert store._file.rows("SELECT 1 FROM slates UNION ALL SELECT 1 FROM rankings") == []
    else:
        assert isinstance(store, RedisNearlineStore)
        for kind in ("slates", "rankings"):  # Redis' own clock has not moved: the keys expire with the newest request
            assert 900_000 < store._redis.pttl(f"{store._prefix}{kind}:ada") <= 1_600_000


def test_a_hold_ends_after_its_time(store: NearlineStore, clock: Clock) -> None:
    store.hold(["a", "b"], 0.2)
    store.begin(["a"], clock.now)
    assert store.receipts(["a", "b"]) == {"a": Receipt(attempts=1, held=True)}
    clock.now += 1.0
    if isinstance(store, RedisNearlineStore):
        time.sleep(0.25)
    assert not store.receipts(["a"])["a"].held
    store.hold(["a"], 100.0)
    assert store.receipts(["a"])["a"].held
    store.forget(["a"])
    store.begin(["a"], clock.now)
    assert not store.receipts(["a"])["a"].held


def test_ids_with_any_characters_have_receipts_of_their_own(store: NearlineStore) -> None:
    ids = ["event:a", "event:a\0", "event:a\0b", "event:a ", "event:\u00e9", "event:e\u0301", "event:%", "event:*"]
    for number, job_id in enumerate(ids):
        for _ in range(number + 1):
            store.begin([job_id], 1.0)
    assert {id_: receipt.attempts for id_, receipt in store.receipts(ids).items()} == dict(
        zip(ids, range(1, 9), strict=True)
    )
    many = [f"event:{number}" for number in range(1_200)]
    store.begin(many, 1.0)
    assert len(store.receipts(many)) == 1_200


def test_writes_are_confirmed_when_the_replicas_have_them(new_redis: Any, redis_binary: Any, tmp_path: Path) -> None:
    replica = type(new_redis)(redis_binary, tmp_path / "replica", replica_of=new_redis)
    store = RedisNearlineStore(new_redis.url, replicas=1)
    follower = RedisNearlineStore(replica.url)
    try:
        until = time.monotonic() + 10
        while store._redis.info("replication").get("slave0", {}).get("state") != "online":
            assert time.monotonic() < until
            time.sleep(0.05)
        store.begin(["event:a"], 1.0)
        store.confirm()
        assert follower.receipts(["event:a"])["event:a"].attempts == 1
        replica.pause()
        store.begin(["event:b"], 1.0)
        with pytest.raises(Unavailable, match="0 replicas of Redis have the latest writes, but redis_replicas is 1"):
            store.confirm()
        replica.resume()
        store.confirm()
        assert set(follower.receipts(["event:a", "event:b"])) == {"event:a", "event:b"}
    finally:
        replica.kill()
        store.close()
        follower.close()


def test_old_receipts_are_removed(store: NearlineStore) -> None:
    store.begin(["old"], 100.0)
    store.begin(["new"], 300.0)
    store.prune(200.0)
    if isinstance(store, SqliteNearlineStore):
        assert set(store.receipts(["old", "new"])) == {"new"}
    else:
        assert 0 < store._redis.ttl(store._receipt("old")) <= 86_400
