"""Records a training run: a metrics row after every optimizer step, and events.

Both files have one JSON object per line and are only ever appended to, so a step that is repeated after a loss has a
row for each time: the last one counts. A worker may be killed in the middle of a line; readers leave a torn line out,
and writers begin a new one after it. Recording never stops a training: what cannot be written is logged, and left out.
"""

import json
import logging
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from brew_platform.errors import UserError
from brew_train.telemetry.goodput import Goodput, GoodputMeter

__all__ = ["EVENTS", "KINDS", "MEASURES", "METRICS", "TENSORBOARD", "Measure", "Recorder", "Sink", "Tail", "read_run"]

_log = logging.getLogger(__name__)
METRICS, EVENTS, TENSORBOARD = "metrics.jsonl", "events.jsonl", "tensorboard"  # inside the run folder


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A field of a metrics row."""

    unit: str  # empty: a name, a count, or a ratio
    meaning: str


def _m(unit: str, meaning: str) -> Measure:
    return Measure(unit=unit, meaning=meaning)


MEASURES: dict[str, Measure] = {
    "attempt": _m("", "which start of the workers made the row"),
    "time": _m("unix seconds", "when the row was written, after the step and its evaluation"),
    "stage": _m("", "the stage's name"),
    "step": _m("steps", "optimizer steps done, over all stages"),
    "steps": _m("steps", "of the whole run"),
    "loss": _m("nats", "the objective over all workers' bins; null where it is not finite"),
    "prompt_loss": _m("nats", "mean cross-entropy of prompt tokens"),
    "answer_loss": _m("nats", "mean cross-entropy of answer tokens; in pairs, of the chosen answers"),
    "rejected_loss": _m("nats", "pairs only: mean cross-entropy of the rejected answers"),
    "accuracy": _m("ratio", "pairs only: share of pairs with a margin above 0"),
    "margin": _m("nats", "pairs only: mean of what the objective drives apart (brew_train.objectives.base)"),
    "grad_norm": _m("", "the gradient's global norm before clipping; null where it is not finite"),
    "skipped": _m("", "whether the step was left out (on_bad_step=skip)"),
    "learning_rate": _m("", "of this step"),
    "tokens": _m("tokens", "real ones in this step, over all workers; there is no padding"),
    "tokens_per_second": _m("tokens/s", "tokens of this step / seconds, all workers together"),
    "mfu": _m("ratio", "model FLOP/s over the devices' peak; null where the peak is not known"),
    "memory_bytes": _m("bytes", "most that rank 0 ever held: allocated on its GPU, or resident on CPU"),
    "seconds": _m("seconds", "of the step: reading, forward, backward, update; no checkpoint, no evaluation"),
    "data_wait_seconds": _m("seconds", "part of the step in which rank 0 read and packed bins"),
    "checkpoint_blocked_seconds": _m("seconds", "that checkpoints held up training since the row before"),
    "evaluation": _m("", "the objective's measures of the averaged weights on the evaluation bins, or null"),
    "evaluation_seconds": _m("seconds", "that this evaluation took"),
    "seconds_left": _m("seconds", "until the last step, if steps stay as fast as they were"),
    "goodput": _m("ratio", "productive share of the time held so far (telemetry.goodput)"),
}

KINDS = {  # of events, beside time, attempt and kind
    "launch": "a driver (or its relauncher) begins to start workers",
    "attempt": "the workers are in our code and have checked what they were given (workers, checked_seconds)",
    "restored": "a checkpoint was read (step, checkpoint)",
    "ready": "the first step of an attempt or a stage begins (stage, step, checkpoint_blocked_seconds)",
    "checkpointed": "a checkpoint is complete (step, background_seconds)",
    "skipped": "a bad step was left out (step, bins, loss)",
    "noticed": "on request or because of a preemption, the run wrote a checkpoint at once (step)",
    "failed": "the run ended with an error that starting it again would only repeat (error)",
    "stopped": "someone interrupted the run",
    "finished": "all steps are done and exported (step, checkpoint_blocked_seconds)",
}


class Sink(Protocol):
    """Where rows go beside metrics.jsonl. One that raises is logged, and left out from then on."""

    def step(self, row: Mapping[str, Any], goodput: Goodput) -> None:
        """Takes a row as metrics.jsonl has it, and the goodput up to it."""

    def close(self) -> None:
        """Gives back what it holds; may be called twice."""


class Recorder:
    """Records a run, from one process at a time. Leaving its `with` block by a UserError records that, too.

    Args:
        run: the run's folder; it exists.
        attempt: names this start of the workers, different from every other.
        sinks: take the rows, too. TensorBoard's is added where tensorboardX is installed.
        writes: false on the workers that record nothing, so that all can make the same calls.
        clock: unix seconds.
    """

    def __init__(
        self,
        run: Path,
        *,
        attempt: str,
        sinks: Sequence[Sink] = (),
        writes: bool = True,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._run = run
        self._attempt = attempt
        self._sinks = list(sinks)
        self._writes = writes
        self._clock = clock
        self._meter: GoodputMeter | None = None  # made by the first step, from all that was recorded before
        self._failed: set[str] = set()  # files that could not be written to

    def step(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Records an optimizer step.

        Args:
            row: MEASURES of the step, and those of its objective; `attempt`, `time` and `goodput` are added here.

        Returns:
            The row as recorded: with null for what is not finite. As given where this process records nothing.
        """
        if not self._writes:
            return dict(row)
        if self._meter is None:
            self._meter = self._begin()
        recorded = _finite({"attempt": self._attempt, "time": self._clock(), **row})
        self._meter.add(recorded)
        goodput = self._meter.at(recorded["time"])
        recorded["goodput"] = goodput.goodput
        self._append(METRICS, recorded)
        for sink in list(self._sinks):
            try:
                sink.step(recorded, goodput)
            except Exception as error:  # whatever a sink meets must not cost the training
                _log.warning("metrics no longer go to %s: %s", type(sink).__name__, error)
                self._sinks.remove(sink)
        return recorded

    def event(self, kind: str, **fields: Any) -> None:
        """Records that something of one of KINDS happened now. Any thread may tell of a checkpoint."""
        if not self._writes:
            return
        record = _finite({"time": self._clock(), "attempt": self._attempt, "kind": kind, **fields})
        if self._meter is not None:
            self._meter.add(record)
        self._append(EVENTS, record)

    def close(self) -> None:
        """Closes the sinks."""
        while self._sinks:
            self._sinks.pop().close()

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if isinstance(error, UserError):  # others may pass; the run is then launched again
            self.event("failed", error=str(error))
        self.close()

    def _begin(self) -> GoodputMeter:
        meter = GoodputMeter()
        rows, events = read_run(self._run)
        for record in sorted([*events, *rows], key=lambda record: record["time"]):
            meter.add(record)
        try:
            from brew_train.telemetry.tensorboard import TensorBoardSink

            self._sinks.append(TensorBoardSink(self._run / TENSORBOARD, attempt=self._attempt))
        except (ImportError, OSError) as error:
            _log.info("no TensorBoard files: %s", error)
        return meter

    def _append(self, name: str, record: Mapping[str, Any]) -> None:
        try:
            append_line(self._run / name, record)
        except OSError as error:
            if name not in self._failed:
                _log.warning("%s cannot be written (%s); training goes on without it", self._run / name, error)
            self._failed.add(name)
        else:
            self._failed.discard(name)


class Tail:
    """The records that are added to a file of records, whenever one looks.

    Args:
        path: may not exist yet.
        from_end: leave out what it holds already.
    """

    def __init__(self, path: Path, *, from_end: bool = False) -> None:
        self._path = path
        self._position = path.stat().st_size if from_end and path.exists() else 0

    def read(self) -> list[dict[str, Any]]:
        """The records since the last call; without torn lines, and without one that is not complete yet."""
        try:
            with self._path.open("rb") as handle:
                handle.seek(self._position)
                *lines, rest = handle.read().split(b"\n")
                self._position = handle.tell() - len(rest)
        except FileNotFoundError:
            return []
        records = []
        for line in lines:
            try:
                records.append(json.loads(line))
            except ValueError:  # torn, in the middle of a character at worst
                continue
        return records


def read_run(run: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """All rows of a run's metrics.jsonl, and all its events, as far as they are written."""
    return Tail(run / METRICS).read(), Tail(run / EVENTS).read()


def append_line(path: Path, record: Mapping[str, Any]) -> None:
    """Adds one record in one write, on a line of its own even where a killed writer left half a line.

    Raises:
        OSError: it could not be written, or only in part.
    """
    line = json.dumps(record, allow_nan=False).encode() + b"\n"
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        size = os.fstat(descriptor).st_size
        if size and os.pread(descriptor, 1, size - 1) != b"\n":
            line = b"\n" + line
        written = os.write(descriptor, line)
        if written != len(line):
            raise OSError(f"only {written} of {len(line)} bytes were written")
    finally:
        os.close(descriptor)


def _finite(value: Any) -> Any:
    """`value` as JSON can hold it: NaN and infinities become null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return value
