"""The outbox: accepted jobs survive any crash, and states change only as documented."""

import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from brew_platform.errors import UserError
from brew_serve.errors import Overloaded
from brew_serve.nearline.metrics import NearlineCollector
from brew_serve.nearline.outbox import Accepted, Backlog, Job, Outbox
from brew_serve.stores.sqlite_file import Unavailable

CLAIM = {"window": 100, "lost_after": 10.0}


def event(number: int | str, member: str = "ada", **payload: object) -> Job:
    return Job(job_id=f"event:{number}", kind="event", member_id=member, payload={"timestamp": 5, **payload})


@pytest.fixture
def outbox(tmp_path: Path) -> Outbox:
    outbox = Outbox(tmp_path / "outbox.sqlite", most_open=10)
    yield outbox
    outbox.close()


def ids(jobs: list[Job]) -> list[str]:
    return [job.job_id for job in jobs]


def test_jobs_that_a_killed_process_accepted_survive(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom brew_serve.nearline.outbox import Job, Outbox\n"
        "outbox = Outbox(Path(sys.argv[1]))\n"
        "for n in range(10**6):\n"
        "    jobs = [Job(job_id=f'event:{n}.{i}', kind='event', member_id='a', payload={}) for i in range(3)]\n"
        "    outbox.accept(jobs, 1.0)\n    print(n, flush=True)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "outbox.sqlite")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) == 50:
                process.send_signal(signal.SIGKILL)
                break
        acknowledged = [50, *map(int, process.stdout.read().split())][-1]
    outbox = Outbox(tmp_path / "outbox.sqlite")
    accepted = outbox.counts()["accepted"]
    assert accepted % 3 == 0  # never a part of a batch
    assert accepted // 3 in (acknowledged + 1, acknowledged + 2)  # the answer to the last may not have been read
    assert outbox._file.rows("PRAGMA synchronous") == [(2,)]  # FULL: every commit is synced, so it outlives the machine
    outbox.close()


def test_a_job_is_accepted_once_and_a_batch_atomically(outbox: Outbox) -> None:
    assert outbox.accept([event(1), event(2)], 5.0) == Accepted(new=2, known=0)
    assert outbox.accept([event(2), event(3)], 6.0) == Accepted(new=1, known=1)
    with pytest.raises(
        UserError,
        match="event id '2' was used before with other content, so nothing of this request was stored. Use a unique id",
    ):
        outbox.accept([event(4), event(2, action="skip")], 7.0)
    with pytest.raises(UserError, match="event id '1' was used before"):
        outbox.accept([event(1, member="new")], 7.0)
    with pytest.raises(Overloaded, match="11 nearline jobs are open; the limit of this service is 10") as error:
        outbox.accept([event(n) for n in range(10, 18)], 7.0)
    assert error.value.retry_after == 30.0
    assert outbox.counts() == {"accepted": 3}


def test_jobs_are_claimed_in_order_even_if_the_clock_jumps(outbox: Outbox) -> None:
    for number, now in enumerate([50.0, 10.0, 50.0]):
        outbox.accept([event(number)], now)
    jobs = outbox.claim(now=60.0, **CLAIM)
    assert sorted(job.accepted_at for job in jobs) == [50_000_000, 50_000_001, 50_000_002]


def test_a_lost_job_is_claimed_again_and_waits_longer_each_time(outbox: Outbox) -> None:
    outbox.accept([event(1)], 0.0)
    claimed = [now for now in range(100) if outbox.claim(now=float(now), **CLAIM)]
    assert claimed == [0, 10, 30, 70]
    assert outbox.enqueued() == ["event:1"]
    outbox.settle(["event:1"], 100.0)
    assert outbox.claim(now=1e9, **CLAIM) == []


def test_the_queue_never_holds_more_than_the_window(outbox: Outbox) -> None:
    outbox.accept([event(n) for n in range(9)], 0.0)
    first = outbox.claim(window=4, now=1.0, lost_after=10.0)
    assert ids(first) == ["event:0", "event:1", "event:2", "event:3"]
    assert outbox.claim(window=4, now=2.0, lost_after=10.0) == []
    outbox.settle(ids(first[:3]), 3.0)
    assert ids(outbox.claim(window=4, now=3.0, lost_after=10.0)) == ["event:4", "event:5", "event:6"]
    lost_first = outbox.claim(window=4, now=12.0, lost_after=10.0)
    assert (ids(lost_first), lost_first[0].sends) == (["event:3"], 1)


def test_several_dispatchers_never_claim_the_same_job(outbox: Outbox, tmp_path: Path) -> None:
    outbox.accept([event(n) for n in range(10)], 0.0)
    claimed: list[str] = []

    def claim() -> None:
        mine = Outbox(tmp_path / "outbox.sqlite")
        for _ in range(10):
            claimed.extend(ids(mine.claim(window=100, now=1.0, lost_after=10.0)))
        mine.close()

    threads = [threading.Thread(target=claim) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(claimed) == [f"event:{n}" for n in range(10)]


def test_a_claim_is_released_and_a_failed_job_waits(outbox: Outbox) -> None:
    outbox.accept([event(1), event(2)], 0.0)
    outbox.claim(now=0.0, **CLAIM)
    outbox.release(["event:1"], due_at=3.0)
    outbox.retry({"event:2": "no engine"}, due_at=5.0)
    assert outbox.counts() == {"accepted": 2}
    assert outbox.claim(now=2.9, **CLAIM) == []
    assert [(job.job_id, job.sends) for job in outbox.claim(now=3.0, **CLAIM)] == [("event:1", 0)]
    assert [(job.job_id, job.sends) for job in outbox.claim(now=5.0, **CLAIM)] == [("event:2", 1)]


def test_a_dead_letter_keeps_payload_error_and_count_and_is_replayed(outbox: Outbox) -> None:
    jobs = [event(1, text="\N{SNOWMAN}"), event(2), event(3, member="new")]
    outbox.accept(jobs, 7.0)
    outbox.claim(now=8.0, **CLAIM)
    outbox.bury({"event:1": ("no such entity.", 4), "event:3": ("x", 1)}, 9.0)
    outbox.settle(["event:1", "event:2"], 10.0)  # too late for the first
    letter = outbox.dead_letters(member_id="ada")[0]
    assert replace(letter.job, accepted_at=0, sends=0) == jobs[0]
    assert (letter.error, letter.attempts, letter.died_at) == ("no such entity.", 4, 9.0)
    assert len(outbox.dead_letters()) == 2
    assert outbox.replay(["event:2", "nonsense"]) == 0
    assert outbox.replay(["event:1"]) == 1
    assert outbox.counts() == {"accepted": 1, "dead": 1, "done": 1}
    assert outbox.replay() == 1
    assert outbox.claim(now=10.0, **CLAIM)[0].sends == 0


def test_done_jobs_are_replayed_after_a_context_was_rebuilt(outbox: Outbox) -> None:
    outbox.accept([event(n, timestamp=n) for n in range(4)], 0.0)
    rank = Job(job_id="rank:r", kind="rank", member_id="ada", task="job_apply", payload={"candidates": []})
    outbox.accept([rank], 0.001)
    outbox.settle([f"event:{n}" for n in range(4)], 1.0)
    outbox.settle(["rank:r"], 1.0)
    assert outbox.replay_done(after=2) == 2  # one event, and the request, which was accepted after it
    assert set(ids(outbox.claim(now=1.0, **CLAIM))) == {"event:3", "rank:r"}


def test_only_done_jobs_are_pruned(outbox: Outbox) -> None:
    outbox.accept([event(n) for n in range(4)], 0.0)
    outbox.settle(["event:0"], 10.0)
    outbox.settle(["event:1"], 30.0)
    outbox.bury({"event:2": ("x", 1)}, 10.0)
    assert outbox.prune(20.0) == 1
    assert outbox.counts() == {"accepted": 1, "dead": 1, "done": 1}


def test_depth_is_read_only(outbox: Outbox, tmp_path: Path) -> None:
    assert Outbox.depth(tmp_path / "missing.sqlite") == 0
    outbox.accept([event(n) for n in range(5)], 0.0)
    outbox.claim(window=2, now=1.0, lost_after=9.0)
    outbox.settle(["event:4"], 1.0)
    assert Outbox.depth(tmp_path / "outbox.sqlite") == 4
    assert not (tmp_path / "missing.sqlite").exists()


def test_open_jobs_of_a_ranking_are_listed(outbox: Outbox) -> None:
    rank_jobs = [
        Job(job_id=f"rank:{task}", kind="rank", member_id="ada", task=task, payload={}) for task in ("jobs", "posts")
    ]
    outbox.accept([event(1), event(2, member="new"), *rank_jobs, event(3)], 1.0)
    outbox.settle(["event:3"], 1.0)
    waiting = outbox.waiting("ada", "jobs")
    assert [job.job_id for job in waiting] == ["event:1", "rank:jobs"]
    assert waiting[0].accepted_at == 1_000_000


def test_the_backlog_has_what_is_not_done(outbox: Outbox) -> None:
    assert outbox.backlog() == Backlog(jobs={"accepted": 0, "enqueued": 0, "dead": 0}, oldest=None)
    outbox.accept([event(0)], 1.0)
    outbox.accept([event(n) for n in range(1, 5)], 2.0)
    outbox.claim(window=2, now=2.0, lost_after=9.0)
    outbox.settle(["event:0"], 3.0)
    outbox.bury({"event:4": ("x", 1)}, 3.0)
    assert outbox.backlog() == Backlog(jobs={"accepted": 2, "enqueued": 1, "dead": 1}, oldest=2_000_000)


def test_metrics_of_the_backlog(outbox: Outbox) -> None:
    def metrics(problem: str = "") -> dict[tuple[str, str], float]:
        collector = NearlineCollector(outbox.backlog, lambda: problem, clock=lambda: 31.0)
        samples = [sample for family in collector.collect() for sample in family.samples]
        return {(sample.name, sample.labels.get("state", "")): sample.value for sample in samples}

    assert metrics()["brew_nearline_oldest_seconds", ""] == 0
    outbox.accept([event(0), event(1)], 1.0)
    found = metrics("the queue does not answer")
    assert found["brew_nearline_jobs", "accepted"] == 2
    assert found["brew_nearline_oldest_seconds", ""] == pytest.approx(30, abs=0.01)
    assert found["brew_nearline_degraded", ""] == 1

    def fail() -> Backlog:
        raise Unavailable("no disk")

    failed = NearlineCollector(fail, lambda: "")
    assert [(family.name, family.samples[0].value) for family in failed.collect()] == [("brew_nearline_degraded", 1)]
