"""Prometheus sink: gauges on the metrics endpoint of the Ray node that runs rank 0.

A job that the job gateway started has its team in the environment variable BREW360_JOB_TEAM.

Ray must be initialised in this process.
"""

import os
import threading
from collections.abc import Mapping
from typing import Any

from ray.util.metrics import Gauge

from brew_train.telemetry.goodput import CAUSES, Goodput
from brew_train.telemetry.recorder import MEASURES

__all__ = ["PrometheusSink", "gauge_name"]

_LABELS = ("attempt", "stage", "evaluation", "skipped")
_RENAMED = {"time": "last_step_time_seconds", "seconds": "step_seconds"}  # fields whose name is too short for a gauge
_FROM_GOODPUT = {
    "held_seconds": "time held since the first launch, including the time when workers were down",
    "productive_seconds": "time in steps that are neither repeated nor skipped",
    "restarts": "attempts after the first",
    "repeated_steps": "steps repeated after a lost worker",
    "skipped_steps": "steps skipped because of a bad loss or gradient",
}
REPEAT_SECONDS = 5.0  # below Ray's report interval of 10 s


class PrometheusSink:
    """Exports the last row as gauges. Ray adds the prefix `ray_` to their names, and its own tags to `run` and others.

    Ray reports only gauges that were set since its last report, and removes them 20 s later. Steps may take longer than
    that, so a thread sets the gauges again until `close`.

    Args:
        run: value of the tag `run`.
        team: value of the tag `team`; None for that of the environment, which is `none` outside of the job gateway.
        repeat_seconds: interval between two settings by the thread.
    """

    def __init__(self, *, run: str, team: str | None = None, repeat_seconds: float = REPEAT_SECONDS) -> None:
        self._run, self._team = run, team or os.environ.get("BREW360_JOB_TEAM") or "none"
        self._repeat = repeat_seconds
        self._gauges: dict[str, Gauge] = {}
        self._stage = ""
        self._values: dict[tuple[str, str], float] = {}  # by name and cause; only lost time has a cause
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def step(self, row: Mapping[str, Any], goodput: Goodput) -> None:
        """Sets the gauges to the values of `row`, and stops reporting fields for which it has no number."""
        with self._lock:
            if row["stage"] != self._stage:
                self._stage = row["stage"]
                self._values.clear()
            for name, value in row.items():
                if name not in _LABELS:
                    self._put(gauge_name(name), value)
            for name, value in (row.get("evaluation") or {}).items():
                self._put(f"brew_train_evaluation_{name}", value)
            for name in _FROM_GOODPUT:
                self._put(gauge_name(name), getattr(goodput, name))
            for cause, seconds in goodput.lost.items():
                self._put("brew_train_lost_seconds", seconds, cause)
            self._set()
        if self._thread is None:
            self._thread = threading.Thread(target=self._set_again, name="prometheus", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Stops the thread; Ray removes the gauges soon after."""
        self._closed.set()
        if self._thread:
            self._thread.join()

    def _put(self, name: str, value: object, cause: str = "") -> None:
        if isinstance(value, int | float):
            self._values[name, cause] = float(value)
        else:
            self._values.pop((name, cause), None)

    def _set(self) -> None:
        for (name, cause), value in self._values.items():
            tags = {"run": self._run, "team": self._team, "stage": self._stage} | ({"cause": cause} if cause else {})
            if name not in self._gauges:
                self._gauges[name] = Gauge(name, description=_description(name), tag_keys=tuple(tags))
            self._gauges[name].set(value, tags=tags)

    def _set_again(self) -> None:
        while not self._closed.wait(self._repeat):
            with self._lock:
                self._set()


def gauge_name(field: str) -> str:
    """Returns the name of the gauge of a field of a metrics row or of `Goodput`, without Ray's prefix `ray_`."""
    return f"brew_train_{_RENAMED.get(field, field)}"


def _description(name: str) -> str:
    fields = {gauge_name(field): f"{m.meaning} [{m.unit}]" for field, m in MEASURES.items()}
    fields |= {gauge_name(field): meaning for field, meaning in _FROM_GOODPUT.items()}
    fields["brew_train_lost_seconds"] = f"held time that was lost, by cause: {', '.join(CAUSES)}"
    evaluation = name.replace("_evaluation_", "_")
    return fields.get(name) or f"evaluation: {fields.get(evaluation, 'a measure of the objective')}"
