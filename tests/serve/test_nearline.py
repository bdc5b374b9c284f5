"""The nearline plane without Ray: whatever is lost, doubled or killed, each accepted event counts exactly once."""

import asyncio
import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from brew_data.compiler import Entity, PromptCompiler
from brew_data.tables import Tables
from brew_platform.errors import BrewError
from brew_serve.context import Context, MemberContext
from brew_serve.nearline_dispatch import DispatchConfig, Dispatcher, Message, messages
from brew_serve.nearline_store import NearlineStore, SqliteNearlineStore
from brew_serve.nearline_work import NearlineWorker
from brew_serve.outbox import Job, Outbox
from brew_serve.scoring import Scorer
from brew_serve.sqlite_file import Unavailable

BASE = 8  # interactions of ada in the tables
CONFIG = DispatchConfig(window=6, most_jobs=4, lost_seconds=60.0, retry_seconds=10.0)


class Killed(BaseException):
    """The process ends here."""


class Faulty:
    """Passes calls on to `inner`; the one that `fault` counts down to raises instead, or once it is done."""

    def __init__(self, inner: Any, fault: "Fault") -> None:
        self._inner, self._fault = inner, fault

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._inner, name)
        if not callable(value):
            return value

        def call(*args: Any, **options: Any) -> Any:
            hit = self._fault.hit()
            if hit and not self._fault.after:
                raise self._fault.error
            result = value(*args, **options)
            if hit:
                raise self._fault.error
            return result

        return call


class Fault:
    """Which of the next calls fails, how, and whether it has its effect first."""

    def __init__(self) -> None:
        self.left, self.after, self.error = -1, False, BaseException()

    def hit(self) -> bool:
        self.left -= 1
        return self.left == -1

    def set(self, at: int | None, *, after: bool = False, error: BaseException | None = None) -> None:
        self.left, self.after, self.error = -1 if at is None else at, after, error or Killed()


class Lane:
    """A queue in memory that tests deliver from as they like."""

    def __init__(self) -> None:
        self.held: list[Message] = []

    def send(self, message: Message) -> None:
        self.held.append(message)

    def close(self) -> None: ...


class Plane:
    """Everything between an accepted job and its ranking, in one process and with a clock of its own."""

    def __init__(self, folder: Path, context_file: Path, compiler: PromptCompiler, engine: Any) -> None:
        self.folder, self.now, self.fault, self.lane = folder, 1_000.0, Fault(), Lane()
        shutil.copy(context_file, folder / "context.sqlite")
        self.compiler, self.engine = compiler, engine
        self.context: Context = MemberContext(folder / "context.sqlite", writable=True)
        self.store: NearlineStore = SqliteNearlineStore(folder / "nearline.sqlite")
        self.most_attempts = 1_000
        self.start()

    def start(self) -> None:
        """The ingress, which remembers nothing but its files."""
        self.outbox = Outbox(self.folder / "outbox.sqlite")
        parts = (Faulty(part, self.fault) for part in (self.outbox, self.lane, self.store))
        self.dispatcher = Dispatcher(*parts, CONFIG, clock=lambda: self.now)

    def worker(self, number: int = 3, **changed: Any) -> NearlineWorker:
        parts = {"context": self.context, "store": self.store, **changed}
        return NearlineWorker(
            number,
            Scorer(self.engine, self.compiler),
            Faulty(parts["context"], self.fault),
            Faulty(parts["store"], self.fault),
            asyncio.run,
            most_attempts=self.most_attempts,
            clock=lambda: self.now,
        )

    def close(self) -> None:
        self.outbox.close()
        self.context.close()
        self.store.close()

    def drain(self, rounds: int = 60) -> None:
        """Without faults from here on, until nothing is open."""
        self.fault.set(None)
        for _ in range(rounds):
            while self.dispatcher.step() or self.lane.held:
                while self.lane.held:
                    message = self.lane.held.pop()
                    self.worker().handle(message.member_id, message.jobs)
            if not set(self.outbox.counts()) - {"done", "dead"}:
                return
            self.now += 2_000.0
        raise AssertionError(f"still open: {self.outbox.counts()}")

    def accept(self, *jobs: Job) -> None:
        self.outbox.accept(jobs, self.now)


def event(number: int | str, member: str = "ada", entity_id: str = "e2", **more: Any) -> Job:
    payload = {"event_id": str(number), "entity_id": entity_id, "surface": "jobs", "action": "skip", "entity": None}
    payload |= {"timestamp": 10**8 + (number if isinstance(number, int) else 0), **more}
    return Job(job_id=f"event:{number}", kind="event", member_id=member, payload=payload)


def ask(number: int | str, member: str = "ada", task: str = "job_apply", **more: Any) -> Job:
    payload = {"request_id": str(number), "candidates": ["e0", "e4"], "instruction": "", "top_k": None, **more}
    return Job(job_id=f"rank:{number}", kind="rank", member_id=member, task=task, payload=payload)


@pytest.fixture(scope="module")
def context_file(tables: Tables, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("nearline") / "context.sqlite"
    MemberContext.build(tables, path)
    return path


@pytest.fixture
def plane(tmp_path: Path, context_file: Path, compiler: PromptCompiler, table_engine: Any) -> Iterator[Plane]:
    plane = Plane(tmp_path, context_file, compiler, table_engine)
    yield plane
    plane.close()


class Interleaving(RuleBasedStateMachine):
    """Acceptances, steps, deliveries (also twice, out of order, or never), outages and kills, in any order."""

    make: Callable[[Path], Plane]

    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="brew-nearline-"))
        self.plane = self.make(self.folder)
        self.events: dict[str, set[str]] = {"ada": set(), "new": set()}
        self.asked: dict[tuple[str, str], str] = {}  # the latest request
        self.requests = 0

    @rule(numbers=st.lists(st.integers(0, 9), min_size=1, max_size=4, unique=True))
    def accept(self, numbers: list[int]) -> None:
        jobs = [event(n, member="new" if n % 3 == 0 else "ada") for n in numbers]
        self.plane.accept(*jobs)
        for job in jobs:
            self.events[job.member_id].add(str(job.payload["event_id"]))

    @rule(number=st.integers(0, 3), task=st.sampled_from(["job_apply", "post_interest"]))
    def ask(self, number: int, task: str) -> None:
        self.requests += 1
        request = str(self.requests)
        member = "new" if number == 0 else "ada"
        candidates = ["e0", "e4"] if task == "job_apply" else ["e1", "e3"]
        self.plane.accept(ask(request, member=member, task=task, candidates=candidates[: 1 + number % 2]))
        self.asked[member, task] = request

    @rule(at=st.none() | st.integers(0, 12), after=st.booleans(), down=st.booleans())
    def step(self, at: int | None, after: bool, down: bool) -> None:
        self.plane.fault.set(at, after=after, error=Unavailable("down.") if down else Killed())
        try:
            self.plane.dispatcher.step()
        except Unavailable:
            pass
        except Killed:
            self.plane.outbox.close()
            self.plane.start()

    @rule(at=st.integers(0, 9), keep=st.booleans(), call=st.none() | st.integers(0, 20), after=st.booleans())
    def deliver(self, at: int, keep: bool, call: int | None, after: bool) -> None:
        held = self.plane.lane.held
        if held:
            message = held[at % len(held)] if keep else held.pop(at % len(held))
            self.plane.fault.set(call, after=after)
            with contextlib.suppress(Killed):
                self.plane.worker().handle(message.member_id, message.jobs)

    @rule(call=st.integers(0, 20), after=st.booleans())
    def deliver_while_the_store_fails(self, call: int, after: bool) -> None:
        if self.plane.lane.held:
            message = self.plane.lane.held.pop(0)
            self.plane.fault.set(call, after=after, error=Unavailable("down."))
            with contextlib.suppress(Unavailable):
                self.plane.worker().handle(message.member_id, message.jobs)

    @rule(at=st.integers(0, 9))
    def lose(self, at: int) -> None:
        if self.plane.lane.held:
            self.plane.lane.held.pop(at % len(self.plane.lane.held))

    @rule(seconds=st.sampled_from([-30.0, 1.0, 30.0, 100.0]))
    def wait(self, seconds: float) -> None:
        self.plane.now += seconds

    def teardown(self) -> None:
        if not hasattr(self, "plane"):
            return
        plane = self.plane
        try:
            plane.drain()
            assert plane.outbox.dead_letters() == []
            assert plane.outbox.counts().get("done", 0) == len(plane.outbox._file.rows("SELECT 1 FROM jobs"))
            for member, events in self.events.items():
                snapshot = plane.context.snapshot(member)
                assert sorted(snapshot.events) == sorted(events)
                assert len(snapshot.history) == len(events) + (BASE if member == "ada" else 0)
            for (member, task), request in self.asked.items():
                stored = plane.store.ranking(task, member)
                assert stored is not None
                assert stored.request_id == request
                assert sorted(stored.event_ids) == sorted(self.events[member])
                assert stored.answer["ranking"] == expected(plane, member, task, stored)
        finally:
            plane.close()
            shutil.rmtree(self.folder)


def expected(plane: Plane, member: str, task: str, stored: Any) -> list[dict[str, Any]]:
    """What the scorer says of the member's whole history."""
    profile, history = plane.context.member(member)
    ids = sorted(item["id"] for item in stored.answer["ranking"])
    candidates = [(id_, plane.context.entity(id_)) for id_ in ids]
    scorer = Scorer(plane.engine, plane.compiler)
    ranking = asyncio.run(scorer.rank(plane.compiler.suite.task(task), profile, history, candidates))
    return [{"id": one.id, "score": one.score, "probabilities": one.probabilities} for one in ranking.candidates]


def test_any_interleaving_ends_with_every_event_applied_exactly_once(
    context_file: Path, compiler: PromptCompiler, table_engine: Any
) -> None:
    class Machine(Interleaving):
        make = staticmethod(lambda folder: Plane(folder, context_file, compiler, table_engine))

    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=40, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )


def test_an_event_recorded_while_its_member_is_ranked_is_not_missed(plane: Plane) -> None:
    """The other consumer finds no slate to rank anew, so this one must find the other's event."""

    class Between:
        def __getattr__(self, name: str) -> Any:
            return getattr(plane.store, name)

        def ask(self, slate: Any) -> bool:
            if not plane.context.snapshot("ada").events:
                plane.worker().handle("ada", [event(1)])
            return plane.store.ask(slate)

    plane.worker(store=Between()).handle("ada", [replace(ask("r"), accepted_at=5)])
    stored = plane.store.ranking("job_apply", "ada")
    assert stored is not None
    assert stored.event_ids == ["1"]


def test_later_events_renew_every_ranking_of_the_member(plane: Plane) -> None:
    plane.accept(ask("jobs"), ask("posts", task="post_interest", candidates=["e1", "e3"], top_k=1), event(1))
    plane.drain()
    first = [plane.store.ranking(task, "ada") for task in ("job_apply", "post_interest")]
    plane.accept(event(2, action="apply", timestamp=1), event(3, member="new"))
    plane.drain()
    second = [plane.store.ranking(task, "ada") for task in ("job_apply", "post_interest")]
    assert [one.event_ids for one in (*first, *second) if one] == [["1"], ["1"], ["2", "1"], ["2", "1"]]
    for one in second:
        assert one is not None
        assert one.version == 3
        assert one.answer["usage"]["candidates"] == 2
    assert len(second[1].answer["ranking"]) == 1  # type: ignore[union-attr]
    calls = plane.engine.calls
    plane.worker().handle("ada", [event(2, action="apply", timestamp=1)])  # delivered once more: nothing to compute
    assert plane.engine.calls == calls


def test_an_older_request_that_arrives_late_does_not_replace_a_newer_one(plane: Plane) -> None:
    plane.accept(ask("old"))
    plane.accept(ask("new", candidates=["e6"]))
    plane.dispatcher.step()
    old, new = plane.lane.held[0].jobs
    plane.worker().handle("ada", [new])
    plane.worker().handle("ada", [old])
    stored = plane.store.ranking("job_apply", "ada")
    assert stored is not None
    assert (stored.request_id, [item["id"] for item in stored.answer["ranking"]]) == ("new", ["e6"])
    assert [slate.request_id for slate in plane.store.slates("ada")] == ["new"]


def test_what_a_job_itself_is_wrong_about_kills_it_alone_and_can_be_mended(plane: Plane) -> None:
    plane.accept(
        event(1),
        event(2, entity_id="p9"),
        event(3, surface="moon"),
        event(4, entity_id="x9", entity={"entity_type": "person", "fields": {}}),
        ask("r"),
        ask("s", task="post_interest", candidates=["e0"]),
        event(5, member="gone"),
        event(6),
    )
    plane.drain()
    assert plane.outbox.counts() == {"done": 3, "dead": 5}
    letters = {letter.job.job_id: letter for letter in plane.outbox.dead_letters()}
    assert {id_: letter.error[:33] for id_, letter in letters.items()} == {
        "event:2": "candidate 'p9' is unknown here; s",
        "event:3": "surface 'moon' is unknown; this m",
        "event:4": "task job_apply ranks entities of ",
        "event:5": "member 'gone' is unknown here, or",
        "rank:s": "task post_interest ranks entities",
    }
    assert letters["event:2"].job.payload == event(2, entity_id="p9").payload
    assert letters["event:2"].attempts == 1
    assert plane.context.snapshot("ada").events == ["1", "6"]

    post = {"entity_type": "post", "fields": {"topic": "news"}}
    plane.accept(event(7, entity_id="p9", entity=post, surface="feed", action="like"))
    plane.drain()
    assert plane.outbox.replay(["event:2"]) == 1  # p9 is a post, which jobs does not show: dead again, for that
    plane.drain()
    again = next(letter for letter in plane.outbox.dead_letters() if letter.job.job_id == "event:2")
    assert again.error == "task job_apply ranks entities of type 'job', not 'post'."


def test_a_job_that_kills_its_consumer_is_given_up_and_takes_no_other_along(plane: Plane) -> None:
    plane.most_attempts = 3
    plane.accept(
        event(1), ask("poison", instruction="poison"), event(2), ask("good", task="post_interest", candidates=["e1"])
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
    assert letter.error == "the consumer ended while it worked on this, and left no word"
    assert deaths == 3
    assert plane.context.snapshot("ada").events == ["1", "2"]


def test_a_failure_is_tried_again_later_and_later_until_it_is_over(plane: Plane) -> None:
    plane.most_attempts, plane.now = 4, 0.0
    plane.accept(ask("r"), event(1))
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
    plane.accept(ask("s"))
    plane.drain()
    assert plane.outbox.dead_letters()[0].error == "BrewError: the engine failed."
    assert plane.outbox.dead_letters()[0].attempts == 4


def test_an_outcome_counts_only_once_it_would_survive_a_crash_of_the_store(plane: Plane) -> None:
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
    plane.store.forget(["event:2"])  # the store crashed, and its last second is gone
    plane.now += 3.0
    plane.dispatcher.step()
    assert plane.outbox.counts() == {"done": 1, "enqueued": 1}
    plane.drain()
    assert plane.outbox.counts() == {"done": 2}


def test_nothing_is_sent_twice_because_the_queue_is_down(plane: Plane) -> None:
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
    assert [(one.member_id, [job.job_id[6:] for job in one.jobs]) for one in grouped] == [
        ("ada", ["1", "4"]),
        ("ada", ["5"]),
        ("new", ["2"]),
        ("ada", ["3"]),
        ("ada", ["6"]),
    ]


def test_the_thread_goes_on_after_an_outage_and_ends_when_told(plane: Plane, caplog: Any) -> None:
    import time

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
    assert caplog.text.count("nearline work waits: the queue is down.") == 1


def test_consumers_follow_the_depth(plane: Plane) -> None:
    from brew_serve.nearline_scaling import OutboxDepthPolicy, consumers_wanted

    assert [consumers_wanted(depth, 64) for depth in (0, 1, 64, 65, 640)] == [1, 1, 1, 2, 10]
    plane.accept(*(event(n) for n in range(5)))
    policy = OutboxDepthPolicy(str(plane.folder / "outbox.sqlite"), 2)
    assert policy(None) == (3, {})
    plane.drain()
    assert policy(None) == (1, {})


def test_entities_that_come_with_an_event_are_ranked_by_what_they_are(plane: Plane) -> None:
    fields = {"title": "pilot", "company": "new"}
    plane.accept(event(1, entity_id="j9", entity={"entity_type": "job", "fields": fields}), ask("r", candidates=["j9"]))
    plane.drain()
    assert plane.context.entity("j9") == Entity(entity_type="job", fields=fields)
    stored = plane.store.ranking("job_apply", "ada")
    assert stored is not None
    assert [item["id"] for item in stored.answer["ranking"]] == ["j9"]
