"""Goodput: the productive share of the time that a run holds its workers, and the causes of the lost time.

Productive time is time in steps that are neither repeated nor skipped. The records of a run divide its time into
intervals. Each record names parts of the interval before it (waiting for data, a checkpoint, an evaluation). The rest
of the interval counts as the phase that the record completes: a step, the start, the build and so on. All parts add up
to the held time.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["CAUSES", "Goodput", "GoodputMeter", "goodput"]

CAUSES = {  # in the order of display
    "start": "from the launch until the workers enter train(): processes, imports, process groups",
    "build": "building the model, restoring a checkpoint, opening bins, reference pass; until the stage's first step",
    "down": "from the last record of a lost attempt until the workers of the next attempt enter train()",
    "repeated": "repeating steps that were lost with a worker after the last checkpoint",
    "skipped": "steps that were skipped because of a bad loss or gradient",
    "data": "rank 0 waiting for bins",
    "checkpoint": "training blocked by a checkpoint",
    "evaluation": "evaluating the averaged weights",
    "export": "after the last step: writing the exported weights",
    "other": "between steps: writing records, synchronizing the workers; and the last, unfinished step",
    "unknown": "since the last record: a step in progress, or lost workers; the next record assigns it to a cause",
}
_PARTS = {  # cause -> field of a record that counts it in the interval before the record
    "checkpoint": "checkpoint_blocked_seconds",
    "evaluation": "evaluation_seconds",
    "data": "data_wait_seconds",
}
_ENDED_BY = {"launch": "down", "attempt": "down", "ready": "build", "finished": "export"}
_TAKES = ("launch", "attempt")  # the first of these starts the held time
_RELEASES = ("finished", "failed", "stopped")  # each of these ends the held time, until the next of _TAKES


@dataclass(frozen=True, kw_only=True)
class Goodput:
    """Productive and lost time of a run; `productive_seconds` and the values of `lost` add up to `held_seconds`."""

    held_seconds: float  # from the first launch to the end of the run, including the time when workers were down
    productive_seconds: float  # in steps that are neither repeated nor skipped, without waiting for data
    lost: dict[str, float]  # seconds by cause, for all CAUSES
    restarts: int  # attempts after the first
    repeated_steps: int
    skipped_steps: int

    @property
    def goodput(self) -> float:
        """Productive share of the held time, from 0 to 1; 0 if no time was held."""
        return self.productive_seconds / self.held_seconds if self.held_seconds else 0.0


class GoodputMeter:
    """Computes the goodput of a run from its records, which are added in the order of their times."""

    def __init__(self) -> None:
        self._holding = False  # whether the run holds workers or waits for them
        self._mark = 0.0  # unix seconds up to which time is counted
        self._last = ""  # kind of the record at the mark
        self._step = 0  # largest step number so far
        self._held = self._productive = 0.0
        self._lost = dict.fromkeys(CAUSES, 0.0)
        self._attempts = self._repeated = self._skipped = 0

    def add(self, record: Mapping[str, Any]) -> None:
        """Counts the time up to `record`, a row of metrics.jsonl or events.jsonl.

        A record that is earlier than the last one (the clocks of two nodes differ) adds no time. Events inside a step
        (restored, skipped, checkpointed, noticed) are ignored, because the rows contain their times.
        """
        kind = record.get("kind", "step")
        if kind not in ("step", *_ENDED_BY, *_RELEASES) or (not self._holding and kind not in _TAKES):
            return
        left = max(0.0, record["time"] - self._mark) if self._holding else 0.0
        self._mark = max(self._mark, record["time"])
        self._held += left
        for cause, field in _PARTS.items():
            left -= self._lose(cause, record.get(field) or 0.0, left)
        if kind == "step":
            left -= self._count_step(record, left)
        after_launch = kind == "attempt" and self._last == "launch"
        self._lost["start" if after_launch else _ENDED_BY.get(kind, "other")] += left
        self._attempts += kind == "attempt"
        self._last = kind
        self._holding = kind not in _RELEASES

    def at(self, now: float) -> Goodput:
        """Returns the goodput at `now`, in unix seconds; more records may be added afterwards."""
        unknown = max(0.0, now - self._mark) if self._holding else 0.0
        return Goodput(
            held_seconds=self._held + unknown,
            productive_seconds=self._productive,
            lost={**self._lost, "unknown": unknown},
            restarts=max(0, self._attempts - 1),
            repeated_steps=self._repeated,
            skipped_steps=self._skipped,
        )

    def _count_step(self, row: Mapping[str, Any], left: float) -> float:
        """Counts the seconds of a step without its wait for data, at most `left`, and returns them."""
        own = min(left, max(0.0, (row.get("seconds") or 0.0) - (row.get("data_wait_seconds") or 0.0)))
        if row["step"] <= self._step:
            self._repeated += 1
            self._lost["repeated"] += own
        elif row.get("skipped"):
            self._skipped += 1
            self._lost["skipped"] += own
        else:
            self._productive += own
        self._step = max(self._step, row["step"])
        return own

    def _lose(self, cause: str, seconds: float, left: float) -> float:
        lost = min(left, max(0.0, seconds))
        self._lost[cause] += lost
        return lost


def goodput(
    rows: Iterable[Mapping[str, Any]], events: Iterable[Mapping[str, Any]], *, now: float | None = None
) -> Goodput:
    """Returns the goodput of a run from its records (`telemetry.recorder.read_run` reads them).

    Args:
        rows: records of metrics.jsonl.
        events: records of events.jsonl.
        now: unix seconds; None: the time of the last record, for a run that has ended.
    """
    records = sorted([*events, *rows], key=lambda record: record["time"])
    meter = GoodputMeter()
    for record in records:
        meter.add(record)
    last = records[-1]["time"] if records else 0.0
    return meter.at(last if now is None else now)
