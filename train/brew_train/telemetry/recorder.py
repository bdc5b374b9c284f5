"""Records a training run: a metrics row after every optimizer step, and events.

Both files have one JSON object per line and are append-only. A step that is repeated after a lost worker has several
rows, of which the last is valid. A worker may be killed in the middle of a line: readers skip incomplete lines, and
writers start a new line after them. A record that cannot be written is logged and dropped; it does not stop training.
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
METRICS, EVENTS, TENSORBOARD = "metrics.jsonl", "events.jsonl", "tensorboard"  # names in the run folder


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A field of a metrics row."""

    unit: str  # empty for a name or a number without a unit
    meaning: str


def _m(unit: str, meaning: str) -> Measure:
    return Measure(unit=unit, meaning=meaning)


MEASURES: dict[str, Measure] = {
    "attempt": _m("", "id of the attempt (one start of the workers) that wrote the row"),
    "time": _m("unix seconds", "when the row was written, after the step and its evaluation"),
    "stage": _m("", "the stage's name"),
    "step": _m("steps", "optimizer steps done, over all stages"),
    "steps": _m("steps", "optimizer steps of the whole run"),
    "loss": _m("nats", "loss of the objective over all workers' bins; null if it is not finite"),
    "prompt_loss": _m("nats", "mean cross-entropy of prompt tokens"),
    "answer_loss": _m("nats", "mean cross-entropy of answer tokens; in pairs, of the chosen answers"),
    "rejected_loss": _m("nats", "pairs only: mean cross-entropy of the rejected answers"),
    "accuracy": _m("ratio", "pairs only: share of pairs with a margin above 0"),
    "margin": _m("nats", "pairs only: mean of the difference that the objective increases (objectives.preference)"),
    "grad_norm": _m("", "global norm of the gradient before clipping; null if it is not finite"),
    "skipped": _m("", "whether the step was skipped (on_bad_step=skip)"),
    "learning_rate": _m("", "learning rate of this step"),
    "tokens": _m("tokens", "tokens in this step, over all workers; there is no padding"),
    "tokens_per_second": _m("tokens/s", "tokens of this step / seconds, all workers together"),
    "mfu": _m("ratio", "model FLOP/s over the devices' peak; null if the peak is unknown"),
    "memory_bytes": _m("bytes", "peak memory of rank 0: allocated on its GPU, or resident on CPU"),
    "seconds": _m("seconds", "duration of the step: reading, forward, backward, update; no checkpoint or evaluation"),
    "data_wait_seconds": _m("seconds", "part of the step until every worker had packed its bins"),
    "checkpoint_blocked_seconds": _m("seconds", "time that checkpoints blocked training since the previous row"),
    "evaluation": _m("", "loss and measures of the averaged weights on the evaluation bins, or null"),
    "evaluation_seconds": _m("seconds", "duration of this evaluation"),
    "seconds_left": _m("seconds", "estimated time until the last step, at the mean speed so far"),
    "goodput": _m("ratio", "productive share of the held time so far (telemetry.goodput)"),
}

KINDS = {  # kind of event -> meaning, and its fields besides time, attempt and kind
    "launch": "a driver (or its relauncher) starts workers",
    "attempt": "the workers are in train() and have validated its arguments (workers, checked_seconds)",
    "restored": "a checkpoint was restored (step, checkpoint)",
    "ready": "the first step of an attempt or a stage starts (stage, step, checkpoint_blocked_seconds)",
    "checkpointed": "a checkpoint is complete (step, background_seconds)",
    "skipped": "a step with a bad loss or gradient was skipped (step, bins, loss)",
    "noticed": "the run wrote a checkpoint at once, on request or because of a preemption (step)",
    "failed": "the run ended with an error that a restart cannot fix (error)",
    "stopped": "a user interrupted the run",
    "finished": "all steps are done and exported (step, checkpoint_blocked_seconds)",
}


class Sink(Protocol):
    """Receives the rows of metrics.jsonl. A sink that raises is logged, and receives no more rows."""

    def step(self, row: Mapping[str, Any], goodput: Goodput) -> None:
        """Receives a row of metrics.jsonl, and the goodput up to it."""

    def close(self) -> None:
        """Releases the resources of the sink; may be called twice."""


class Recorder:
    """Records a run, from one process at a time. A UserError that leaves its `with` block is recorded as an event.

    Args:
        run: run folder, which must exist.
        attempt: unique id of this start of the workers.
        sinks: receive the rows, too. The TensorBoard sink is added if tensorboardX is installed.
        writes: False: record nothing. All workers make the same calls, but only rank 0 writes.
        clock: returns unix seconds.
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
        self._meter: GoodputMeter | None = None  # created by the first step, from all earlier records
        self._failed: set[str] = set()  # names of files whose last write failed

    def step(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Records an optimizer step.

        Args:
            row: MEASURES of the step, including those of its objective; `attempt`, `time` and `goodput` are added.

        Returns:
            The recorded row, with None for numbers that are not finite; a copy of `row` if `writes` is False.
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
            except Exception as error:  # an error of a sink must not stop training
                _log.warning("%s failed and receives no more metrics: %s", type(sink).__name__, error)
                self._sinks.remove(sink)
        return recorded

    def event(self, kind: str, **fields: Any) -> None:
        """Records an event at the current time; may be called from any thread.

        Args:
            kind: one of KINDS.
            **fields: JSON values.
        """
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
        if isinstance(error, UserError):  # other errors may be temporary, and the run is launched again
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
            _log.info("TensorBoard files are not written: %s", error)
        return meter

    def _append(self, name: str, record: Mapping[str, Any]) -> None:
        try:
            append_line(self._run / name, record)
        except OSError as error:
            if name not in self._failed:
                _log.warning("%s cannot be written (%s); training continues without it", self._run / name, error)
            self._failed.add(name)
        else:
            self._failed.discard(name)


class Tail:
    """Reads the records that are appended to a file.

    Args:
        path: file with one JSON object per line, which may not exist yet.
        from_end: whether to skip the records that the file contains already.
    """

    def __init__(self, path: Path, *, from_end: bool = False) -> None:
        self._path = path
        self._position = path.stat().st_size if from_end and path.exists() else 0

    def read(self) -> list[dict[str, Any]]:
        """Returns the records since the last call, without lines that are damaged or not complete yet."""
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
            except ValueError:  # the line is cut off, perhaps in the middle of a character
                continue
        return records


def read_run(run: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Returns all rows of the metrics.jsonl of a run, and all its events."""
    return Tail(run / METRICS).read(), Tail(run / EVENTS).read()


def append_line(path: Path, record: Mapping[str, Any]) -> None:
    """Appends one record in one write, on a new line even if the last line is incomplete.

    Args:
        path: created if it does not exist.
        record: JSON values; numbers must be finite.

    Raises:
        OSError: the record could not be written completely.
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
    """Returns `value` with None in place of NaN and infinities, which JSON does not have."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return value
