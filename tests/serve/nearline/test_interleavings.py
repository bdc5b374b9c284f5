"""Random interleavings of the nearline service: under losses, repeats and kills each event is applied exactly once."""

import asyncio
import contextlib
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from brew_data.prompts.compiler import PromptCompiler
from brew_serve.ranking.scoring import Scorer
from brew_serve.stores.sqlite_file import Unavailable

from ..nearline_service import BASE, Killed, LocalNearline, event, rank_job


class Interleaving(RuleBasedStateMachine):
    """Accepted jobs, steps, deliveries (repeated, late, or lost), outages, kills and promotions in any order."""

    make: Callable[[Path], LocalNearline]

    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="brew-nearline-"))
        self.nearline = self.make(self.folder)
        self.events: dict[str, set[str]] = {"ada": set(), "new": set()}
        self.latest_requests: dict[tuple[str, str], str] = {}  # by member and task
        self.requests = 0

    @rule(numbers=st.lists(st.integers(0, 9), min_size=1, max_size=4, unique=True))
    def accept(self, numbers: list[int]) -> None:
        jobs = [event(n, member="new" if n % 3 == 0 else "ada") for n in numbers]
        self.nearline.accept(*jobs)
        for job in jobs:
            self.events[job.member_id].add(str(job.payload["event_id"]))

    @rule(number=st.integers(0, 3), task=st.sampled_from(["job_apply", "post_interest"]))
    def rank_job(self, number: int, task: str) -> None:
        self.requests += 1
        request = str(self.requests)
        member = "new" if number == 0 else "ada"
        candidates = ["e0", "e4"] if task == "job_apply" else ["e1", "e3"]
        self.nearline.accept(rank_job(request, member=member, task=task, candidates=candidates[: 1 + number % 2]))
        self.latest_requests[member, task] = request

    @rule(at=st.none() | st.integers(0, 12), after=st.booleans(), down=st.booleans())
    def step(self, at: int | None, after: bool, down: bool) -> None:
        self.nearline.fault.set(at, after=after, error=Unavailable("down.") if down else Killed())
        try:
            self.nearline.dispatcher.step()
        except Unavailable:
            pass
        except Killed:
            self.nearline.outbox.close()
            self.nearline.start()

    @rule(version=st.sampled_from([3, 4]))
    def promote(self, version: int) -> None:
        self.nearline.version = version

    @rule(
        at=st.integers(0, 9),
        keep=st.booleans(),
        call=st.none() | st.integers(0, 20),
        after=st.booleans(),
        version=st.sampled_from([3, 4]),  # consumers of both versions run while one takes over from the other
    )
    def deliver(self, at: int, keep: bool, call: int | None, after: bool, version: int) -> None:
        held = self.nearline.lane.held
        if held:
            message = held[at % len(held)] if keep else held.pop(at % len(held))
            self.nearline.fault.set(call, after=after)
            with contextlib.suppress(Killed):
                self.nearline.worker(version).handle(message.member_id, message.jobs)

    @rule(call=st.integers(0, 20), after=st.booleans())
    def deliver_while_the_store_fails(self, call: int, after: bool) -> None:
        if self.nearline.lane.held:
            message = self.nearline.lane.held.pop(0)
            self.nearline.fault.set(call, after=after, error=Unavailable("down."))
            with contextlib.suppress(Unavailable):
                self.nearline.worker().handle(message.member_id, message.jobs)

    @rule(at=st.integers(0, 9))
    def lose(self, at: int) -> None:
        if self.nearline.lane.held:
            self.nearline.lane.held.pop(at % len(self.nearline.lane.held))

    @rule(seconds=st.sampled_from([-30.0, 1.0, 30.0, 100.0]))
    def wait(self, seconds: float) -> None:
        self.nearline.now += seconds

    def teardown(self) -> None:
        if not hasattr(self, "nearline"):
            return
        nearline = self.nearline
        try:
            nearline.drain()
            assert nearline.outbox.dead_letters() == []
            assert nearline.outbox.counts().get("done", 0) == len(nearline.outbox._file.rows("SELECT 1 FROM jobs"))
            for member, events in self.events.items():
                snapshot = nearline.context.snapshot(member)
                assert sorted(snapshot.events) == sorted(events)
                assert len(snapshot.history) == len(events) + (BASE if member == "ada" else 0)
            for (member, task), request in self.latest_requests.items():
                stored = nearline.store.ranking(task, member)
                assert stored is not None
                assert stored.request_id == request
                assert sorted(stored.event_ids) == sorted(self.events[member])
                assert stored.answer["ranking"] == expected(nearline, member, task, stored)
            assert all(len(versions) == 1 for versions in nearline.ranked_by.values()), (
                "two versions ranked the same state"
            )
        finally:
            nearline.close()
            shutil.rmtree(self.folder)


def expected(nearline: LocalNearline, member: str, task: str, stored: Any) -> list[dict[str, Any]]:
    """Return the expected ranking for the member's whole history."""
    profile, history = nearline.context.member(member)
    ids = sorted(item["id"] for item in stored.answer["ranking"])
    candidates = [(id_, nearline.context.entity(id_)) for id_ in ids]
    scorer = Scorer(nearline.engine, nearline.compiler)
    ranking = asyncio.run(scorer.rank(nearline.compiler.suite.task(task), profile, history, candidates))
    return [
        {"id": candidate.id, "score": candidate.score, "probabilities": candidate.probabilities}
        for candidate in ranking.candidates
    ]


def test_every_interleaving_applies_every_event_exactly_once(
    context_file: Path, compiler: PromptCompiler, table_engine: Any
) -> None:
    class Machine(Interleaving):
        make = staticmethod(lambda folder: LocalNearline(folder, context_file, compiler, table_engine))

    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=40, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
