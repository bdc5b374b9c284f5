"""Prometheus sink: gauges on the metrics endpoint of the Ray node that runs rank 0.

Needs Ray, initialised in this process.
"""

import threading
from collections.abc import Mapping
from typing import Any

from ray.util.metrics import Gauge

from brew_train.telemetry.goodput import CAUSES, Goodput
from brew_train.telemetry.recorder import MEASURES

__all__ = ["PrometheusSink", "gauge_name"]

_LABELS = ("attempt", "stage", "evaluation", "skipped")
_CLEARER = {"time": "last_step_time_seconds", "seconds": "step_seconds"}  # where a row's name says too little alone
_FROM_GOODPUT = {
    "held_seconds": "time held since the first launch, with the gaps in which workers were down",
    "productive_seconds": "time inside steps that were done for the first time",
    "restarts": "times that workers entered after the first",
    "repeated_steps": "steps done again after a loss",
    "skipped_steps": "steps left out because of a bad loss",
}
REPEAT_SECONDS = 5.0  # below Ray's report interval of 10 s


class PrometheusSink:
    """Gauges of the last row; Ray puts `ray_` before their names, and adds tags of its own to `run` and `stage`.

    Ray reports only gauges that were set since its last report, and forgets them 20 s later: those of a model whose
    steps take longer would come and go. So a thread sets them again, until `close`; a run that is gone disappears.

    Args:
        run: tells runs apart.
        repeat_seconds: how often the thread sets them.
    """

    def __init__(self, *, run: str, repeat_seconds: float = REPEAT_SECONDS) -> None:
        self._run = run
        self._repeat = repeat_seconds
        self._gauges: dict[str, Gauge] = {}
        self._stage = ""
        self._values: dict[tuple[str, str], float] = {}  # by name and cause; the cause is empty but for lost time
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def step(self, row: Mapping[str, Any], goodput: Goodput) -> None:
        """Sets the gauges to this row; what it has no number for is no longer reported."""
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
        """Ends the thread; Ray forgets the gauges soon after."""
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
            tags = {"run": self._run, "stage": self._stage} | ({"cause": cause} if cause else {})
            if name not in self._gauges:
                self._gauges[name] = Gauge(name, description=_description(name), tag_keys=tuple(tags))
            self._gauges[name].set(value, tags=tags)

    def _set_again(self) -> None:
        while not self._closed.wait(self._repeat):
            with self._lock:
                self._set()


def gauge_name(field: str) -> str:
    """The gauge of a field of a metrics row or of a Goodput, without Ray's `ray_`."""
    return f"brew_train_{_CLEARER.get(field, field)}"


def _description(name: str) -> str:
    fields = {gauge_name(field): f"{m.meaning} [{m.unit}]" for field, m in MEASURES.items()}
    fields |= {gauge_name(field): meaning for field, meaning in _FROM_GOODPUT.items()}
    fields["brew_train_lost_seconds"] = f"time held that was lost, by cause: {', '.join(CAUSES)}"
    evaluation = name.replace("_evaluation_", "_")
    return fields.get(name) or f"evaluation: {fields.get(evaluation, 'a measure of the objective')}"
