"""The nearline service in one process without Ray, for tests; every call of its parts can be made to fail."""

import asyncio
import shutil
from pathlib import Path
from typing import Any

from brew_data.prompts.compiler import PromptCompiler
from brew_platform.calibration_map import CalibrationMap
from brew_serve.context.base import Context, MemberContext
from brew_serve.nearline.dispatcher import DispatchConfig, Dispatcher, Message
from brew_serve.nearline.job_holds import JobHolds
from brew_serve.nearline.message_handler import NearlineWorker
from brew_serve.nearline.outbox import Job, Outbox
from brew_serve.nearline.store import NearlineStore, SqliteNearlineStore, StoredRanking
from brew_serve.ranking.scoring import Scorer

__all__ = ["BASE", "Fault", "Faulty", "Killed", "LocalNearline", "event", "rank_job"]

BASE = 8  # interactions of ada in the tables
CONFIG = DispatchConfig(window=6, most_jobs=4, lost_seconds=60.0, retry_seconds=10.0)


class Killed(BaseException):
    """Simulates the end of the process."""


class Faulty:
    """Forwards calls to `inner`; the call that `fault` selects raises before or after its effect."""

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
    """Selects the call that fails, its error, and whether it takes effect first."""

    def __init__(self) -> None:
        self.left, self.after, self.error = -1, False, BaseException()

    def hit(self) -> bool:
        self.left -= 1
        return self.left == -1

    def set(self, at: int | None, *, after: bool = False, error: BaseException | None = None) -> None:
        self.left, self.after, self.error = -1 if at is None else at, after, error or Killed()


class Lane:
    """A queue in memory; tests deliver its messages explicitly."""

    def __init__(self) -> None:
        self.held: list[Message] = []

    def send(self, message: Message) -> None:
        self.held.append(message)

    def close(self) -> None: ...


class Telling:
    """A store that records which model versions' rankings it stored."""

    def __init__(self, inner: NearlineStore, ranked_by: dict[tuple[str, str, str], set[int]]) -> None:
        self._inner, self._ranked_by = inner, ranked_by

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def put_ranking(self, ranking: StoredRanking) -> bool:
        stored = self._inner.put_ranking(ranking)
        if stored:
            newness = (ranking.task, ranking.member_id, ranking.newness)
            self._ranked_by.setdefault(newness, set()).add(ranking.version)
        return stored


class LocalNearline:
    """Ingress, dispatcher, queue and consumer in one process, with a fake clock."""

    def __init__(self, folder: Path, context_file: Path, compiler: PromptCompiler, engine: Any) -> None:
        self.folder, self.now, self.fault, self.lane = folder, 1_000.0, Fault(), Lane()
        shutil.copy(context_file, folder / "context.sqlite")
        self.compiler, self.engine = compiler, engine
        self.context: Context = MemberContext(folder / "context.sqlite", writable=True)
        self.store: NearlineStore = SqliteNearlineStore(folder / "nearline.sqlite", clock=lambda: self.now)
        self.most_attempts = 1_000
        self.version = 3  # of the consumers that are started from now on
        self.ranked_by: dict[tuple[str, str, str], set[int]] = {}  # versions by task, member and newness
        self.start()

    def start(self) -> None:
        """Start the ingress, whose only state is its files."""
        self.outbox = Outbox(self.folder / "outbox.sqlite")
        parts = (Faulty(part, self.fault) for part in (self.outbox, self.lane, self.store))
        self.dispatcher = Dispatcher(*parts, CONFIG, clock=lambda: self.now)

    def worker(
        self,
        version: int | None = None,
        *,
        holds: JobHolds | None = None,
        calibration: CalibrationMap | None = None,
        **changed: Any,
    ) -> NearlineWorker:
        parts = {"context": self.context, "store": Telling(self.store, self.ranked_by), **changed}
        return NearlineWorker(
            version or self.version,
            Scorer(self.engine, self.compiler),
            Faulty(parts["context"], self.fault),
            Faulty(parts["store"], self.fault),
            asyncio.run,
            holds=holds,
            calibration=calibration,
            most_attempts=self.most_attempts,
            clock=lambda: self.now,
        )

    def close(self) -> None:
        self.outbox.close()
        self.context.close()
        self.store.close()

    def drain(self, rounds: int = 60) -> None:
        """Run without faults until no job is open."""
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


def rank_job(number: int | str, member: str = "ada", task: str = "job_apply", **more: Any) -> Job:
    payload = {"request_id": str(number), "candidates": ["e0", "e4"], "instruction": "", "top_k": None, **more}
    return Job(job_id=f"rank:{number}", kind="rank", member_id=member, task=task, payload=payload)
