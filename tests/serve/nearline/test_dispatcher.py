"""The dispatcher: failed and dead jobs, outages, and the time at which an outcome is used."""

import time
from dataclasses import replace
from typing import Any

import pytest

from brew_data.prompts.member_prompts import MemberPrompts
from brew_platform.errors import BrewError
from brew_serve.nearline.autoscaling import OutboxDepthPolicy, consumers_needed
from brew_serve.nearline.dispatcher import DispatchConfig, Dispatcher, messages
from brew_serve.nearline.job_holds import JobHolds
from brew_serve.stores.sqlite_file import Unavailable

from ..nearline_service import Fault, Faulty, Killed, LocalNearline, event, rank_job


def test_a_job_that_kills_its_consumer_becomes_dead_without_affecting_others(
    nearline: LocalNearline, monkeypatch: pytest.MonkeyPatch
) -> None:
    nearline.most_attempts = 3
    nearline.accept(
        event(1),
        rank_job("poison", instruction="poison"),
        event(2),
        rank_job("good", task="post_interest", candidates=["e1"]),
    )
    prefixes, deaths = MemberPrompts.prefixes, 0

    def prefixes_or_death(self: MemberPrompts, *args: Any, own_words: str = "", **options: Any) -> Any:
        if own_words == "poison":
            raise Killed
        return prefixes(self, *args, own_words=own_words, **options)

    monkeypatch.setattr(MemberPrompts, "prefixes", prefixes_or_death)
    for _ in range(40):
        nearline.dispatcher.step()
        while nearline.lane.held:
            message = nearline.lane.held.pop()
            try:
                nearline.worker().handle(message.member_id, message.jobs)
            except Killed:
                deaths += 1
        nearline.now += 100.0
    assert nearline.outbox.counts() == {"done": 3, "dead": 1}
    letter = nearline.outbox.dead_letters()[0]
    assert (letter.job.job_id, letter.attempts) == ("rank:poison", 4)
    assert letter.error == "the consumer exited during this job without reporting"
    assert deaths == 3
    assert nearline.context.snapshot("ada").events == ["1", "2"]


def test_a_failed_job_is_retried_with_growing_waits(nearline: LocalNearline) -> None:
    nearline.most_attempts, nearline.now = 4, 0.0
    nearline.accept(rank_job("r"), event(1))
    answer, tried = nearline.engine.next_token_logprobs, []

    async def broken(*_: Any) -> Any:
        tried.append(nearline.now)
        raise BrewError("the engine failed.")

    nearline.engine.next_token_logprobs = broken
    while nearline.now < 60.0:
        nearline.dispatcher.step()
        while nearline.lane.held:
            message = nearline.lane.held.pop()
            nearline.worker().handle(message.member_id, message.jobs)
        nearline.dispatcher.step()
        nearline.now += 1.0
    assert sorted(set(tried))[:3] == [0.0, 10.0, 30.0]
    nearline.engine.next_token_logprobs = answer
    nearline.drain()
    assert nearline.outbox.counts() == {"done": 2}

    nearline.engine.next_token_logprobs = broken
    nearline.accept(rank_job("s"))
    nearline.drain()
    assert nearline.outbox.dead_letters()[0].error == "BrewError: the engine failed."
    assert nearline.outbox.dead_letters()[0].attempts == 4


def test_an_outcome_is_used_only_after_it_survives_a_crash_of_the_store(nearline: LocalNearline) -> None:
    nearline.store.settle_seconds = 2.5
    nearline.accept(event(1))
    nearline.dispatcher.step()
    nearline.worker().handle("ada", nearline.lane.held.pop().jobs)
    for waited, state in [(0.0, "enqueued"), (2.0, "enqueued"), (1.0, "done")]:
        nearline.now += waited
        nearline.dispatcher.step()
        assert nearline.outbox.counts() == {state: 1}
    assert nearline.store.receipts(["event:1"]) == {}

    nearline.accept(event(2))
    nearline.dispatcher.step()
    nearline.worker().handle("ada", nearline.lane.held.pop().jobs)
    nearline.dispatcher.step()
    nearline.store.forget(["event:2"])  # the store crashed and lost its last second
    nearline.now += 3.0
    nearline.dispatcher.step()
    assert nearline.outbox.counts() == {"done": 1, "enqueued": 1}
    nearline.drain()
    assert nearline.outbox.counts() == {"done": 2}


def test_an_unavailable_queue_causes_no_duplicate_sends(nearline: LocalNearline) -> None:
    nearline.accept(*(event(n, member="ada" if n % 2 else "new") for n in range(6)))
    nearline.fault.set(3, error=Unavailable("the queue is down."))  # after enqueued, check and claim: send
    with pytest.raises(Unavailable):
        nearline.dispatcher.step()
    assert nearline.outbox.counts() == {"accepted": 6}
    nearline.now += 1.0
    assert nearline.dispatcher.step() == 2
    assert sorted(job.sends for message in nearline.lane.held for job in message.jobs) == [0] * 6


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


def test_the_thread_continues_after_an_outage_and_stops_at_close(nearline: LocalNearline, caplog: Any) -> None:
    broken = Faulty(nearline.lane, fault := Fault())
    fault.set(0, error=Unavailable("the queue is down."))
    dispatcher = Dispatcher(nearline.outbox, broken, nearline.store, DispatchConfig(poll_seconds=0.05))
    nearline.now = time.time()
    nearline.accept(event(1))
    dispatcher.start()
    until = time.monotonic() + 10
    while not nearline.lane.held and time.monotonic() < until:
        time.sleep(0.02)
    dispatcher.close()
    assert [job.job_id for job in nearline.lane.held[0].jobs] == ["event:1"]
    assert caplog.text.count("nearline dispatch is paused: the queue is down.") == 1


def test_the_number_of_consumers_follows_the_outbox_depth(nearline: LocalNearline) -> None:
    assert [consumers_needed(depth, 64) for depth in (0, 1, 64, 65, 640)] == [1, 1, 1, 2, 10]
    nearline.accept(*(event(n) for n in range(5)))
    policy = OutboxDepthPolicy(str(nearline.folder / "outbox.sqlite"), 2)
    assert policy(None) == (3, {})
    nearline.drain()
    assert policy(None) == (1, {})


def test_a_job_that_takes_long_is_sent_once(nearline: LocalNearline) -> None:
    nearline.accept(rank_job("long"))
    nearline.dispatcher.step()
    message = nearline.lane.held.pop()
    holds = JobHolds(nearline.store, seconds=60.0, job_seconds=1_000.0, clock=lambda: nearline.now)
    sends, computed = [], nearline.engine.next_token_logprobs

    async def slow(*arguments: Any) -> list[float]:
        for _ in range(25):  # 500 s: more than lost_seconds, and than all attempts together
            nearline.now += 20.0
            holds.renew()
            sends.append(nearline.dispatcher.step())
        nearline.engine.next_token_logprobs = computed
        logprobs: list[float] = await computed(*arguments)
        return logprobs

    nearline.engine.next_token_logprobs = slow
    nearline.worker(holds=holds).handle(message.member_id, message.jobs)
    assert set(sends) == {0}
    nearline.drain()
    assert nearline.outbox.counts() == {"done": 1}


@pytest.mark.parametrize("hung", [False, True], ids=["killed", "hung"])
def test_a_job_whose_consumer_ended_or_hangs_is_sent_again(nearline: LocalNearline, hung: bool) -> None:
    nearline.accept(event(1))
    nearline.dispatcher.step()
    nearline.lane.held.clear()
    holds = JobHolds(nearline.store, seconds=60.0, job_seconds=300.0, clock=lambda: nearline.now)
    start, sent_after = nearline.now, 0.0
    with holds.hold(["event:1"]):
        nearline.store.begin(["event:1"], nearline.now)
        while not nearline.lane.held and nearline.now < start + 1_000:
            nearline.now += 5.0
            if hung:
                holds.renew()
            nearline.dispatcher.step()
            sent_after = nearline.now - start
    assert (300.0 if hung else 60.0) < sent_after <= (300.0 if hung else 0.0) + 100.0


def test_the_thread_renews_holds_until_the_job_ends(nearline: LocalNearline) -> None:
    renewed: list[list[str]] = []

    class Store:
        def hold(self, job_ids: Any, seconds: float) -> None:
            renewed.append(list(job_ids))
            if len(renewed) == 2:
                raise Unavailable("down.")

    holds = JobHolds(Store(), seconds=0.03, job_seconds=60.0)  # type: ignore[arg-type]
    holds.start()
    with holds.hold(["event:1"]):
        until = time.monotonic() + 10
        while len(renewed) < 4 and time.monotonic() < until:
            time.sleep(0.005)
    holds.close()
    assert renewed[:4] == [["event:1"]] * 4
    count = len(renewed)
    holds.renew()
    assert len(renewed) == count, "nothing is held"


def test_jobs_stay_open_until_the_replicas_have_their_effects(nearline: LocalNearline) -> None:
    behind = True

    class Store:
        settle_seconds = 0.0

        def __getattr__(self, name: str) -> Any:
            return getattr(nearline.store, name)

        def confirm(self) -> None:
            if behind:
                raise Unavailable("0 replicas have the latest writes.")

    dispatcher = Dispatcher(nearline.outbox, nearline.lane, Store(), clock=lambda: nearline.now)  # type: ignore[arg-type]
    nearline.accept(event(1), event(2, member="gone"))
    dispatcher.step()
    while nearline.lane.held:
        message = nearline.lane.held.pop()
        nearline.worker().handle(message.member_id, message.jobs)
    with pytest.raises(Unavailable):
        dispatcher.step()
    assert nearline.outbox.counts() == {"enqueued": 1, "dead": 1}
    behind = False
    dispatcher.step()
    assert nearline.outbox.counts() == {"done": 1, "dead": 1}


def test_a_receipt_that_a_failover_lost_is_not_used(nearline: LocalNearline) -> None:
    """The replica that took over while the writes were confirmed lacks the receipt, and the event."""

    class Store:
        settle_seconds = 0.0

        def __getattr__(self, name: str) -> Any:
            return getattr(nearline.store, name)

        def confirm(self) -> None:
            nearline.store.forget(["event:1"])

    dispatcher = Dispatcher(nearline.outbox, nearline.lane, Store(), clock=lambda: nearline.now)  # type: ignore[arg-type]
    nearline.accept(event(1))
    dispatcher.step()
    nearline.worker().handle("ada", nearline.lane.held.pop().jobs)
    dispatcher.step()
    assert nearline.outbox.counts() == {"enqueued": 1}
    nearline.drain()
    assert nearline.outbox.counts() == {"done": 1}


def test_dead_letters_are_kept_for_their_time(nearline: LocalNearline) -> None:
    config = DispatchConfig(keep_seconds=10_000.0, dead_seconds=20_000.0)
    dispatcher = Dispatcher(nearline.outbox, nearline.lane, nearline.store, config, clock=lambda: nearline.now)
    nearline.accept(event(1), event(2, member="gone"))
    nearline.drain()
    for waited, states in [(5_000.0, {"done": 1, "dead": 1}), (8_000.0, {"dead": 1}), (10_000.0, {})]:
        nearline.now += waited
        dispatcher.step()
        assert nearline.outbox.counts() == states
