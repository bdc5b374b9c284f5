"""The contract of a nearline store, on SQLite and Redis: only newer data replaces older, and attempts are counted."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

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

SLATE = CandidateSlate(task="job_apply", member_id="ada", request_id="r1", requested_at=1_000, candidates=["e0", "e2"])
RANKING = StoredRanking(
    task="job_apply",
    member_id="ada",
    request_id="r1",
    newness="1.1",
    version=3,
    computed_at=5,
    events=1,
    event_ids=["a\n"],
    answer={"ranking": [{"id": "e0", "score": 0.1}]},
)


@pytest.fixture(params=["sqlite", "redis"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[NearlineStore]:
    if request.param == "sqlite":
        store: NearlineStore = SqliteNearlineStore(tmp_path / "nearline.sqlite")
    else:
        store = RedisNearlineStore(request.getfixturevalue("redis_url"), f"{tmp_path.name}:")
    yield store
    store.close()


def test_an_older_slate_never_replaces_a_newer_slate(store: NearlineStore) -> None:
    newer = replace(SLATE, request_id="a", requested_at=20_000, candidates=[{"id": "x", "fields": {"title": "ä\n"}}])
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
    assert not store.put_ranking(replace(RANKING, newness="1.0", version=9))
    assert store.ranking("job_apply", "ada") == RANKING
    assert not store.put_ranking(replace(RANKING, version=4)), "one version reports an event"
    assert store.put_ranking(replace(RANKING, member_id="new"))
    assert store.ranking("job_apply", "ada") == RANKING
    newer = replace(RANKING, newness="1.2", version=4)
    assert store.put_ranking(newer)
    assert store.ranking("job_apply", "ada") == newer
    assert store.ranking("post_interest", "ada") is None


def test_concurrent_writes_keep_the_newest(store: NearlineStore) -> None:
    def write(thread: int) -> None:
        for at in range(30):
            store.put_ranking(replace(RANKING, newness=f"{at:03d}.{thread}"))
            store.begin(["event:x"], 0.0)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stored = store.ranking("job_apply", "ada")
    assert stored is not None
    assert stored.newness == "029.2"
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


def test_old_receipts_are_removed(store: NearlineStore) -> None:
    store.begin(["old"], 100.0)
    store.begin(["new"], 300.0)
    store.prune(200.0)
    if isinstance(store, SqliteNearlineStore):
        assert set(store.receipts(["old", "new"])) == {"new"}
    else:
        assert 0 < store._redis.ttl(store._receipt("old")) <= 86_400
