"""Goodput: the share of the held time that went into steps done for the first time, and the causes of the rest.

The time line of a run is cut at its records, and each piece goes to exactly one cause: all pieces add up to the time
held, whatever the records say. A piece ends at a record, which names parts of it (waiting for data, a checkpoint, an
evaluation); what it does not name is the step, the start, the build ... that the record completes.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["CAUSES", "Goodput", "GoodputMeter", "goodput"]

CAUSES = {  # in the order that people are shown
    "start": "from the launch until the workers enter our code: processes, imports, process groups",
    "build": "building the model, restoring a checkpoint, opening bins, a stage's reference pass; until its first step",
    "down": "from the last record of a lost attempt until the workers of the next one enter",
    "repeated": "steps repeated because a worker was lost after the last checkpoint (the time of the repeats)",
    "skipped": "steps left out because their loss was no number or exploded",
    "data": "rank 0 waiting for bins",
    "checkpoint": "training held up by a checkpoint",
    "evaluation": "evaluating the averaged weights",
    "export": "after the last step: writing the exported weights",
    "other": "between steps: writing records, agreeing with the other workers; and the last, unfinished step",
    "unknown": "since the last record: a step under way, or workers that are gone; the next record tells",
}
_PARTS = {  # fields of any record that name a part of the time before it
    "checkpoint": "checkpoint_blocked_seconds",
    "evaluation": "evaluation_seconds",
    "data": "data_wait_seconds",
}
_ENDED_BY = {"launch": "down", "attempt": "down", "ready": "build", "finished": "export"}
_TAKES = ("launch", "attempt")  # the first of these begins the time held
_RELEASES = ("finished", "failed", "stopped")  # nothing is held from here to the next of those


@dataclass(frozen=True, kw_only=True)
class Goodput:
    """What the time of a run came to, up to a moment; `productive_seconds` and `lost` add up to `held_seconds`."""

    held_seconds: float  # from the first launch until the run ends, with the gaps in which workers were down
    productive_seconds: float  # inside steps that were done for the first time, without waiting
    lost: dict[str, float]  # seconds by cause; every one of CAUSES
    restarts: int  # times that workers entered after the first
    repeated_steps: int
    skipped_steps: int

    @property
    def goodput(self) -> float:
        """Productive share of the time held, from 0 to 1; 0 before anything was held."""
        return self.productive_seconds / self.held_seconds if self.held_seconds else 0.0


class GoodputMeter:
    """Folds a run's records, in the order of their times, into its goodput."""

    def __init__(self) -> None:
        self._holding = False  # workers, or waiting for them
        self._mark = 0.0  # everything before is accounted for
        self._last = ""  # kind of the record at the mark
        self._step = 0  # the furthest step ever done
        self._held = self._productive = 0.0
        self._lost = dict.fromkeys(CAUSES, 0.0)
        self._attempts = self._repeated = self._skipped = 0

    def add(self, record: Mapping[str, Any]) -> None:
        """Accounts for the time up to `record`, a row of metrics.jsonl or events.jsonl.

        A time before the last one (clocks of two nodes differ) counts as no time. Events that happen inside a step
        (restored, skipped, checkpointed, noticed) are ignored: the rows tell what they took.
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
        """The goodput at `now`, in unix seconds; what follows may still be added."""
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
        """Counts a step's own seconds, at most those that are `left`, and returns them."""
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
    """The goodput of a run from its records (`telemetry.recorder.read_run` reads them).

    Args:
        rows: of metrics.jsonl.
        events: of events.jsonl.
        now: unix seconds; None: the time of the last record, as of a run that is over.
    """
    records = sorted([*events, *rows], key=lambda record: record["time"])
    meter = GoodputMeter()
    for record in records:
        meter.add(record)
    last = records[-1]["time"] if records else 0.0
    return meter.at(last if now is None else now)
