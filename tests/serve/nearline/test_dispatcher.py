"""The dispatcher: failed and dead jobs, outages, and the time at which an outcome is used."""

import time
from dataclasses import replace
from typing import Any

import pytest

from brew_platform.errors import BrewError
from brew_serve.nearline.autoscaling import OutboxDepthPolicy, consumers_needed
from brew_serve.nearline.dispatcher import DispatchConfig, Dispatcher, messages
from brew_serve.stores.sqlite_file import Unavailable

from ..nearline_plane import Fault, Faulty, Killed, Plane, event, rank_job


def test_a_job_that_kills_its_consumer_becomes_dead_without_affecting_others(plane: Plane) -> None:
    plane.most_attempts = 3
    plane.accept(
        event(1),
        rank_job("poison", instruction="poison"),
        event(2),
        rank_job("good", task="post_interest", candidates=["e1"]),
    )
    scorer = plane.compiler.prefix
    deaths = 0

    class Compiler:
        def __getattr__(self, name: str) -> Any:
            return getattr(plane_compiler, name)

        def prefix(self, *args: Any, own_words: str = "", **options: Any) -> Any:
            if own_words == "poison":
                raise Killed
            return scorer(*args, own_words=own_words, **options)

    plane_compiler, plane.compiler = plane.compiler, Compiler()  # type: ignore[assignment]
    for _ in range(40):
        plane.dispatcher.step()
        while plane.lane.held:
            message = plane.lane.held.pop()
            try:
                plane.worker().handle(message.member_id, message.jobs)
            except Killed:
                deaths += 1
        plane.now += 100.0
    assert plane.outbox.counts() == {"done": 3, "dead": 1}
    letter = plane.outbox.dead_letters()[0]
    assert (letter.job.job_id, letter.attempts) == ("rank:poison", 4)
    assert letter.error == "the consumer exited during this job without reporting"
    assert deaths == 3
    assert plane.context.snapshot("ada").events == ["1", "2"]


def test_a_failed_job_is_retried_with_growing_waits(plane: Plane) -> None:
    plane.most_attempts, plane.now = 4, 0.0
    plane.accept(rank_job("r"), event(1))
    answer, tried = plane.engine.next_token_logprobs, []

    async def broken(*_: Any) -> Any:
        tried.append(plane.now)
        raise BrewError("the engine failed.")

    plane.engine.next_token_logprobs = broken
    while plane.now < 60.0:
        plane.dispatcher.step()
        while plane.lane.held:
            message = plane.lane.held.pop()
            plane.worker().handle(message.member_id, message.jobs)
        plane.dispatcher.step()
        plane.now += 1.0
    assert sorted(set(tried))[:3] == [0.0, 10.0, 30.0]
    plane.engine.next_token_logprobs = answer
    plane.drain()
    assert plane.outbox.counts() == {"done": 2}

    plane.engine.next_token_logprobs = broken
    plane.accept(rank_job("s"))
    plane.drain()
    assert plane.outbox.dead_letters()[0].error == "BrewError: the engine failed."
    assert plane.outbox.dead_letters()[0].attempts == 4


def test_an_outcome_is_used_only_after_it_survives_a_crash_of_the_store(plane: Plane) -> None:
    plane.store.settle_seconds = 2.5
    plane.accept(event(1))
    plane.dispatcher.step()
    plane.worker().handle("ada", plane.lane.held.pop().jobs)
    for waited, state in [(0.0, "enqueued"), (2.0, "enqueued"), (1.0, "done")]:
        plane.now += waited
        plane.dispatcher.step()
        assert plane.outbox.counts() == {state: 1}
    assert plane.store.receipts(["event:1"]) == {}

    plane.accept(event(2))
    plane.dispatcher.step()
    plane.worker().handle("ada", plane.lane.held.pop().jobs)
    plane.dispatcher.step()
    plane.store.forget(["event:2"])  # the store crashed and lost its last second
    plane.now += 3.0
    plane.dispatcher.step()
    assert plane.outbox.counts() == {"done": 1, "enqueued": 1}
    plane.drain()
    assert plane.outbox.counts() == {"done": 2}


def test_an_unavailable_queue_causes_no_duplicate_sends(plane: Plane) -> None:
    plane.accept(*(event(n, member="ada" if n % 2 else "new") for n in range(6)))
    plane.fault.set(4, error=Unavailable("the queue is down."))  # after enqueued, settle, bury and claim: send
    with pytest.raises(Unavailable):
        plane.dispatcher.step()
    assert plane.outbox.counts() == {"accepted": 6}
    plane.now += 1.0
    assert plane.dispatcher.step() == 2
    assert sorted(job.sends for message in plane.lane.held for job in message.jobs) == [0] * 6


def test_jobs_of_a_member_share_a_message_unless_they_were_sent_before() -> None:
    jobs = [
        event(1),
        event(2, member="new"),
        replace(event(3), sends=1),
        event(4),
        event(5),
        replace(event(6), sends=2),
    ]
    grouped = messages(jobs, most_jobs=2)
    assert [(message.member_id, [job.job_id[6:] for job in message.jobs]) for message in grouped] == [
        ("ada", ["1", "4"]),
        ("ada", ["5"]),
        ("new", ["2"]),
        ("ada", ["3"]),
        ("ada", ["6"]),
    ]


def test_the_thread_continues_after_an_outage_and_stops_at_close(plane: Plane, caplog: Any) -> None:
    broken = Faulty(plane.lane, fault := Fault())
    fault.set(0, error=Unavailable("the queue is down."))
    dispatcher = Dispatcher(plane.outbox, broken, plane.store, DispatchConfig(poll_seconds=0.05))
    plane.now = time.time()
    plane.accept(event(1))
    dispatcher.start()
    until = time.monotonic() + 10
    while not plane.lane.held and time.monotonic() < until:
        time.sleep(0.02)
    dispatcher.close()
    assert [job.job_id for job in plane.lane.held[0].jobs] == ["event:1"]
    assert caplog.text.count("nearline dispatch is paused: the queue is down.") == 1


def test_the_number_of_consumers_follows_the_outbox_depth(plane: Plane) -> None:
    assert [consumers_needed(depth, 64) for depth in (0, 1, 64, 65, 640)] == [1, 1, 1, 2, 10]
    plane.accept(*(event(n) for n in range(5)))
    policy = OutboxDepthPolicy(str(plane.folder / "outbox.sqlite"), 2)
    assert policy(None) == (3, {})
    plane.drain()
    assert policy(None) == (1, {})
