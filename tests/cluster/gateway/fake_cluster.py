"""A cluster in memory, with a clock that a test sets, and crashes at any call."""

from dataclasses import dataclass, field
from typing import Any

from brew_cluster.gateway.executor import Run, RunState

__all__ = ["Clock", "Crash", "CrashingCalls", "FakeCluster"]


@dataclass
class Clock:
    """Unix time, in seconds."""

    now: float = 1_780_000_000.0  # 2026-05-28

    def __call__(self) -> float:
        return self.now


@dataclass
class FakeRun:
    started: float
    state: RunState
    log: str = ""


@dataclass
class FakeCluster:
    """A JobExecutor: runs start at once, and end when a test says so."""

    clock: Clock
    runs: dict[str, FakeRun] = field(default_factory=dict)
    starts: list[str] = field(default_factory=list)
    stops_take_effect: bool = True

    def check(self) -> None:
        pass

    def submit(self, run: Run) -> None:
        if run.id not in self.runs:
            self.runs[run.id] = FakeRun(self.clock(), RunState(status="active"), f"log of {run.id}\n")
            self.starts.append(run.id)

    def state(self, run: Run) -> RunState:
        return self.runs[run.id].state if run.id in self.runs else RunState(status="missing")

    def stop(self, run: Run) -> None:
        if run.id not in self.runs:
            self.runs[run.id] = FakeRun(self.clock(), RunState(status="stopped"))
        elif self.runs[run.id].state.status == "active" and self.stops_take_effect:
            self.end(run.id, "stopped")

    def logs(self, run: Run, offset: int) -> str:
        return self.runs[run.id].log[offset:] if run.id in self.runs else ""

    def end(self, run_id: str, status: Any, **details: Any) -> None:
        """End a run now."""
        assert self.runs[run_id].state.status == "active"
        self.runs[run_id].state = RunState(status=status, ended=self.clock(), **details)

    def active(self) -> list[str]:
        """Return the ids of the runs that have not ended."""
        return [name for name, run in self.runs.items() if run.state.status == "active"]


class Crash(BaseException):
    """The process is killed here."""


class CrashingCalls:
    """Passes calls on to an object, and crashes before or after one of them.

    Args:
        inner: The object.
        shared: `calls` counts the calls of all objects that share it; the crash is at number `at`, half before and half
            after the call.
    """

    def __init__(self, inner: Any, shared: dict[str, int], names: tuple[str, ...]) -> None:
        self._inner, self._shared, self._names = inner, shared, names

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._inner, name)
        if name not in self._names:
            return value

        def call(*arguments: Any) -> Any:
            self._tick()
            result = value(*arguments)
            self._tick()
            return result

        return call

    def _tick(self) -> None:
        self._shared["calls"] += 1
        if self._shared["calls"] == self._shared["at"]:
            raise Crash
