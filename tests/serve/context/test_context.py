"""The contract of a member context, on SQLite and Redis, and properties of the SQLite file."""

import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import redis

from brew_data.prompts.compiler import Entity, PastInteraction
from brew_data.schema import Tables
from brew_platform.errors import UserError
from brew_serve.context.base import Context, MemberContext, MemberEvent, UnknownId
from brew_serve.context.location import build_context, check_context, open_context, public_location
from brew_serve.context.redis import RedisContext
from brew_serve.stores.redis_server import RedisErrors
from brew_serve.stores.sqlite_file import Unavailable

Open = Callable[[], Context]  # another connection to the same store


@pytest.fixture(params=["sqlite", "redis"])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Callable[[Tables], None], Open]:
    """Functions that build a context from tables and open it."""
    if request.param == "sqlite":
        path = tmp_path / "context.sqlite"
        return lambda tables: MemberContext.build(tables, path), lambda: MemberContext(path, writable=True)
    url, prefix = request.getfixturevalue("redis_url"), f"{tmp_path.name}:"
    return lambda tables: RedisContext.build(tables, url, prefix), lambda: RedisContext(url, prefix)


@pytest.fixture
def context(backend: Any, tables: Tables) -> Iterator[Context]:
    build, open_ = backend
    build(tables)
    context = open_()
    yield context
    context.close()


EVENT = MemberEvent(event_id="a", member_id="ada", entity_id="e2", surface="jobs", action="skip", timestamp=20_000_000)


def test_a_member_has_their_profile_and_history_in_order(context: Context, history: list[PastInteraction]) -> None:
    profile, past = context.member("ada")
    assert profile == {"title": "engineer", "location": "berlin"}
    assert past == history
    snapshot = context.snapshot("ada")
    assert (snapshot.profile, snapshot.history, snapshot.events) == (profile, past, [])


def test_an_entity_has_its_type_and_the_fields_that_are_not_null(context: Context) -> None:
    assert context.entity("e0") == Entity(entity_type="job", fields={"title": "data engineer", "company": "acme"})
    assert context.entity("e1") == Entity(entity_type="post", fields={"topic": "nurse"})


def test_several_entities_are_read_at_once(context: Context) -> None:
    ids = ["e2", "e0", "e1"]
    assert context.entities(ids) == {id_: context.entity(id_) for id_ in ids}
    assert context.entities([]) == {}
    with pytest.raises(UnknownId, match="candidate 'e99' is unknown here"):
        context.entities(["e0", "e99"])


@pytest.mark.parametrize("id_", ["", "None", "ada\n", "ada ", "ADA", "a\0b", "*", "?d*", "ad[a]", "../ada", "\u00e5da"])
def test_an_id_names_no_other_record(context: Context, id_: str) -> None:
    with pytest.raises(UnknownId):
        context.member(id_)
    with pytest.raises(UnknownId):
        context.entity(id_)


def test_a_member_who_opted_out_is_unknown(context: Context) -> None:
    for member in ["gone", "nobody", "' OR 1=1 --"]:
        with pytest.raises(UnknownId, match="is unknown here, or has opted out"):
            context.member(member)
        with pytest.raises(UnknownId, match="is unknown here, or has opted out"):
            context.record([replace(EVENT, member_id=member)])


def test_an_unknown_entity_is_refused(context: Context) -> None:
    with pytest.raises(UnknownId, match="candidate 'e99' is unknown here"):
        context.entity("e99")
    with pytest.raises(UnknownId, match="candidate 'e99' is unknown here"):
        context.record([EVENT, replace(EVENT, event_id="b", entity_id="e99")])
    assert context.snapshot("ada").events == []  # all or none


def test_events_are_sorted_by_time_and_recorded_once(
    context: Context, backend: tuple[Any, Open], history: list[PastInteraction]
) -> None:
    early = replace(EVENT, event_id="b", timestamp=500_000, action="apply")
    assert context.record([EVENT, early]) == 2
    assert context.record([early, replace(EVENT, action="apply"), replace(EVENT, event_id="c")]) == 1

    other = backend[1]()
    snapshot = other.snapshot("ada")
    other.close()
    entity = context.entity("e2")
    mine = [PastInteraction(entity=entity, surface="jobs", action="apply", timestamp=500_000)]
    late = PastInteraction(entity=entity, surface="jobs", action="skip", timestamp=20_000_000)
    assert snapshot.history == [history[0], *mine, *history[1:], late, late]
    assert snapshot.events == ["b", "a", "c"]
    assert context.member("new") == ({"title": "nurse"}, [])


def test_events_follow_interactions_of_the_same_time(context: Context, history: list[PastInteraction]) -> None:
    context.record([replace(EVENT, event_id=id_, timestamp=history[3].timestamp) for id_ in "zy"])
    snapshot = context.snapshot("ada")
    assert snapshot.history[:4] == history[:4]
    assert [past.action for past in snapshot.history[4:6]] == ["skip", "skip"]
    assert snapshot.events == ["y", "z"]


def test_an_event_can_add_an_entity_but_not_change_it(context: Context) -> None:
    known = replace(EVENT, entity=Entity(entity_type="job", fields={"title": "changed"}))
    fresh = Entity(entity_type="post", fields={"topic": "chef \N{SNOWMAN}"})
    context.record([known, replace(EVENT, event_id="b", entity_id="p9", surface="feed", action="like", entity=fresh)])
    assert context.entity("e2").fields["title"] == "welder"
    assert context.entity("p9") == fresh == context.snapshot("ada").history[-1].entity


def test_a_revision_sorts_after_all_earlier_ones(context: Context, backend: Any, tables: Tables) -> None:
    revisions = [context.snapshot("ada").revision]
    for at in range(12):
        context.record([replace(EVENT, event_id=str(at))])
        revisions.append(context.snapshot("ada").revision)
    backend[0](tables)  # a rebuild removes the events, and rankings that used them are still older
    other = backend[1]()
    revisions.append(other.snapshot("ada").revision)
    other.close()
    assert revisions == sorted(set(revisions))
    assert len({len(revision) for revision in revisions}) == 1


def test_a_rebuild_replaces_the_context(context: Context, backend: Any, tables: Tables) -> None:
    context.record([EVENT])
    fewer = Tables(members=tables.members.slice(0, 1), entities=tables.entities, interactions=tables.interactions[:0])
    backend[0](fewer)
    replaced = backend[1]()
    assert replaced.member("ada")[1] == []
    with pytest.raises(UnknownId):
        replaced.member("new")
    replaced.close()


def test_concurrent_threads_lose_no_events(context: Context, history: list[PastInteraction]) -> None:
    def tell(thread: int) -> None:
        for at in range(20):
            context.record([replace(EVENT, event_id=f"{at}", timestamp=10**8 + at)])  # all report the same event
            context.record([replace(EVENT, event_id=f"{thread}-{at}")])
            context.snapshot("ada")

    threads = [threading.Thread(target=tell, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(context.snapshot("ada").history) == len(history) + 20 + 60


def test_a_rebuild_in_redis_leaves_other_prefixes_and_readers_that_have_begun(
    redis_url: str, tables: Tables, tmp_path: Path
) -> None:
    star, other = f"{tmp_path.name}*:", f"{tmp_path.name}x:"
    for prefix in (other, star):
        RedisContext.build(tables, redis_url, prefix)
    reader = RedisContext(redis_url, star)
    begun_with = reader._generation()
    RedisContext.build(tables, redis_url, star)
    for prefix, expires in [(begun_with, True), (reader._generation(), False), (f"{other}*", False)]:
        keys = list(reader._redis.scan_iter(prefix.replace("*:", "\\*:") + "*", count=1_000))
        assert keys
        for key in keys:
            assert (0 < reader._redis.ttl(key) <= 60) == expires, key
    reader.close()


def test_a_location_is_a_file_or_a_redis(redis_url: str, tables: Tables, tmp_path: Path) -> None:
    for location in (str(tmp_path / "a/context.sqlite"), f"{redis_url}#{tmp_path.name}:"):
        build_context(tables, location)
        check_context(location)
        context = open_context(location)
        assert context.member("new")[0] == {"title": "nurse"}
        context.close()
    with pytest.raises(Unavailable, match="this Redis contains no member context"):
        check_context(f"{redis_url}#nothing-here:")
    with pytest.raises(UserError, match="does not exist. Build the member context first"):
        check_context(str(tmp_path / "missing"))
    assert public_location("redis://me:secret@h:1/0?x=secret#p:") == "redis://h:1/0#p:"
    assert public_location("a/b") == str(Path("a/b").absolute())
    with pytest.raises(UserError, match="is not a URL of Redis") as error:
        open_context("redis://me:secret@h:port/0")
    assert "secret" not in str(error.value)


def test_a_hung_redis_delays_one_call_at_a_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:  # it accepts connections and never answers
        context = RedisContext(f"redis://127.0.0.1:{server.getsockname()[1]}/0")
        context._redis.connection_pool.connection_kwargs |= {"socket_timeout": 0.2}
        seconds = []
        for _ in range(5):
            start = time.monotonic()
            with pytest.raises(Unavailable, match=r"Redis did not answer \(TimeoutError"):
                context.member("ada")
            seconds.append(time.monotonic() - start)
        assert 0.1 < seconds[0] < 1.0, "the command is not repeated"
        assert max(seconds[1:]) < 0.05
        context.close()


def test_after_a_pause_one_call_tries_a_hung_redis_again() -> None:
    now = 0.0
    errors = RedisErrors(lambda: now)
    calls = 0

    def call(error: Exception | None) -> None:
        nonlocal calls
        with errors():
            calls += 1
            if error is not None:
                raise error

    hangs = redis.exceptions.TimeoutError("no answer")
    for time_, error, passes in [(0.0, hangs, 1), (0.9, None, 0), (1.1, hangs, 1), (1.2, None, 0), (2.5, None, 1)]:
        now, before = time_, calls
        if error is None and passes:
            call(None)
        else:
            with pytest.raises(Unavailable, match="no answer"):
                call(error)
        assert calls - before == passes
    call(None)
    with pytest.raises(Unavailable):
        call(redis.exceptions.ConnectionError("refused"))
    call(None)  # a server that refuses answers at once, so it is always tried


def test_a_redis_without_a_context_is_unavailable(redis_url: str) -> None:
    context = RedisContext(redis_url, "nothing-here:")
    for call in (lambda: context.member("ada"), lambda: context.record([EVENT]), context.check):
        with pytest.raises(Unavailable, match=r"this Redis contains no member context\. Build it"):
            call()
    context.close()


def test_a_redis_that_is_down_is_reported(tables: Tables) -> None:
    context = RedisContext("redis://127.0.0.1:1/0")
    with pytest.raises(Unavailable, match=r"Redis did not answer \(ConnectionError: .*\)\. Try again") as error:
        context.member("ada")
    assert error.value.retry_after == 2.0
    with pytest.raises(UserError, match="'http://x' is not a URL of Redis"):
        RedisContext("http://x")


@pytest.fixture
def file(tables: Tables, tmp_path: Path) -> Path:
    MemberContext.build(tables, tmp_path / "context.sqlite")
    assert [path.name for path in tmp_path.iterdir()] == ["context.sqlite"]
    return tmp_path / "context.sqlite"


def test_a_read_only_context_is_not_written(file: Path) -> None:
    context = MemberContext(file)
    with pytest.raises(Unavailable, match="readonly"):
        context.record([EVENT])
    context.close()


def test_a_reader_sees_events_of_another_process(file: Path, history: list[PastInteraction]) -> None:
    reader, writer = MemberContext(file), MemberContext(file, writable=True)
    assert len(reader.member("ada")[1]) == len(history)
    writer.record([EVENT])
    assert len(reader.member("ada")[1]) == len(history) + 1
    writer.close()
    reader.close()


def test_a_rebuild_during_writes_does_not_contain_the_old_file(
    file: Path, tables: Tables, history: list[PastInteraction]
) -> None:
    writer = MemberContext(file, writable=True)
    writer.record([EVENT])  # is in the old file's log, which SQLite would apply to the new file
    MemberContext.build(tables, file)
    replaced = MemberContext(file, writable=True)
    assert replaced.record([replace(EVENT, event_id="b")]) == 1
    writer.record([replace(EVENT, event_id="c")])
    writer.close()
    assert replaced.snapshot("ada").events == ["b"]
    replaced.close()
    again = MemberContext(file)
    assert again.snapshot("ada").events == ["b"]
    assert again._file.rows("PRAGMA integrity_check") == [("ok",)]
    again.close()


def test_a_file_that_is_not_a_context_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"does not exist\. Build the member context first"):
        MemberContext(tmp_path / "missing.sqlite")
    (tmp_path / "other.sqlite").write_bytes(pa.py_buffer(b"not a database at all" * 99).to_pybytes())
    with pytest.raises(UserError, match="is not a member context"):
        MemberContext(tmp_path / "other.sqlite")
    with sqlite3.connect(tmp_path / "empty.sqlite") as db:
        db.execute("CREATE TABLE other (x)")
    db.close()
    with pytest.raises(UserError, match="is not a member context .*no such table: built"):
        MemberContext(tmp_path / "empty.sqlite")
