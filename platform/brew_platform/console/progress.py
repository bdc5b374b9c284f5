"""How far a road of named stages has come: a live bar on a terminal, plain lines elsewhere, and both in the log.

Owns: the display and the seconds per stage. Does not own what a stage does.
"""

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn
from rich.progress_bar import ProgressBar
from rich.text import Text

__all__ = ["PipeSafeConsole", "StageProgress", "Stages", "duration"]

_log = logging.getLogger(__name__)


def duration(seconds: float) -> str:
    """`seconds` for people: "0.4 s", "12 s", "1 min 30 s", "2 h 05 min"."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


class StageProgress:
    """How far one stage has come; made by `Stages.stage`. `update` may be called from any thread, as often as you like.

    Args:
        total: units in the whole stage; None where that is not known.
        unit: what is counted, in the plural.
        clock: seconds that never run backwards.
    """

    def __init__(self, *, total: float | None, unit: str, clock: Callable[[], float]) -> None:
        self.total = total
        self.done = 0.0
        self._unit = unit
        self._clock = clock
        self._start = clock()
        self._first: tuple[float, float] | None = None  # time and count of the first update; what precedes is start-up
        self._facts: dict[str, object] = {}

    def update(self, done: float, *, total: float | None = None, **facts: object) -> None:
        """Tells that `done` units are complete in all.

        Args:
            done: units since the start of the stage, not since the last call.
            total: replaces the stage's total.
            **facts: shown as they are given (`loss=2.31`), until they are given anew.
        """
        self.done = done
        self.total = self.total if total is None else total
        self._first = self._first or (self._clock(), done)
        self._facts.update(facts)

    @property
    def seconds(self) -> float:
        """Since the start of the stage."""
        return self._clock() - self._start

    @property
    def rate(self) -> float | None:
        """Units per second, measured from the first update on; None before the second one."""
        if self._first is None or self.done <= self._first[1]:
            return None
        return (self.done - self._first[1]) / max(self._clock() - self._first[0], 1e-9)

    def status(self) -> str:
        """One line, such as `120/400 steps, 3.1 steps/s, 1 min 30 s left, loss 2.31`."""
        rate, parts = self.rate, []
        if self._first is not None or self.total is not None:
            of = "" if self.total is None else f"/{_number(self.total)}"
            parts.append(f"{_number(self.done)}{of} {self._unit}")
        if rate is not None:
            parts.append(f"{_number(rate)} {self._unit}/s")
        if rate is not None and self.total is not None and self.done < self.total:
            parts.append(f"{duration((self.total - self.done) / rate)} left")
        else:
            parts.append(duration(self.seconds))
        return ", ".join([*parts, *_told(self._facts)])

    def summary(self) -> str:
        """The line at the end, such as `400 steps in 2 min 10 s, loss 2.02`."""
        counted = "" if self._first is None else f"{_number(self.done)} {self._unit} in "
        return ", ".join([f"{counted}{duration(self.seconds)}", *_told(self._facts)])


class Stages:
    """The road, stage by stage; `with stages.stage("train", total=400, unit="steps") as progress: ...`.

    Args:
        names: all stages, in order.
        console: where to show them; by default a PipeSafeConsole on the standard output.
        clock: seconds that never run backwards.
        every_seconds: between two plain lines.

    Attributes:
        seconds: of each stage that has ended, also of one that failed; a stage that ran twice has the sum.
    """

    def __init__(
        self,
        names: Sequence[str],
        *,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
        every_seconds: float = 15.0,
    ) -> None:
        self.names = list(names)
        self.seconds: dict[str, float] = {}
        self._console = console or PipeSafeConsole()
        self._clock = clock
        self._every = every_seconds

    @contextmanager
    def stage(self, name: str, *, total: float | None = None, unit: str = "steps") -> Iterator[StageProgress]:
        """Shows the stage while the block runs, and records its seconds.

        Args:
            name: one of `names`.
            total: units in the whole stage; None where that is not known.
            unit: what is counted, in the plural.
        """
        head = f"[{self.names.index(name) + 1}/{len(self.names)}] {name}"
        progress = StageProgress(total=total, unit=unit, clock=self._clock)
        ended = threading.Event()
        ticker = threading.Thread(target=self._tick, args=(head, progress, ended), name="progress", daemon=True)
        bar = self._bar(head, progress)
        self._line(f"{head} ...", show=bar is None)
        ticker.start()
        outcome = "failed after "
        try:
            if bar:
                with suppress(OSError, ValueError):
                    bar.start()
            yield progress
            outcome = ""
        finally:
            ended.set()
            ticker.join()
            if bar:
                with suppress(OSError, ValueError):
                    bar.stop()
            self.seconds[name] = self.seconds.get(name, 0.0) + progress.seconds
            self._line(f"{head}: {outcome}{progress.summary()}", show=True)

    def _tick(self, head: str, progress: StageProgress, ended: threading.Event) -> None:
        while not ended.wait(self._every):
            self._line(f"{head} ... {progress.status()}", show=not self._console.is_terminal)

    def _line(self, text: str, *, show: bool) -> None:
        _log.info(text)
        if show:
            writable = text.encode(self._console.encoding, "replace").decode(self._console.encoding)
            with suppress(OSError, ValueError):  # a closed or broken output; the log has the line
                self._console.print(Text(writable), soft_wrap=True)

    def _bar(self, head: str, progress: StageProgress) -> Progress | None:
        if not self._console.is_terminal:
            return None
        columns = [SpinnerColumn("line"), TextColumn(Text(head).markup), _Bar(progress), _Status(progress)]
        bar = Progress(*columns, console=self._console, transient=True, refresh_per_second=4)
        bar.add_task(head, total=None)
        return bar


class _Bar(BarColumn):
    """Rich's bar, filled from a StageProgress."""

    def __init__(self, progress: StageProgress) -> None:
        super().__init__(bar_width=30)
        self._progress = progress

    def render(self, task: Task) -> ProgressBar:
        task.total, task.completed = self._progress.total, self._progress.done
        return super().render(task)


class _Status(ProgressColumn):
    """The text beside the bar."""

    def __init__(self, progress: StageProgress) -> None:
        super().__init__()
        self._progress = progress

    def render(self, task: Task) -> Text:
        return Text(self._progress.status(), overflow="ellipsis", no_wrap=True)


class PipeSafeConsole(Console):
    """A console whose reader may leave (`| head`): the work goes on, unseen. Rich's own would end the process."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def _told(facts: dict[str, object]) -> list[str]:
    pairs = list(facts.items())  # another thread may be adding one
    return [f"{name.replace('_', ' ')} {_number(v) if isinstance(v, int | float) else v}" for name, v in pairs]


def _number(value: float) -> str:
    """To three digits, and never with an exponent where it is large."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
