"""Shows the progress of a command's phases: a live bar on a terminal, plain lines elsewhere, and lines in the log."""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn
from rich.progress_bar import ProgressBar
from rich.text import Text

from brew_platform.console.plain_console import PlainConsole, escape_controls
from brew_platform.tracing import start_span

__all__ = ["PhaseProgress", "Phases", "duration"]

_log = logging.getLogger(__name__)


def duration(seconds: float) -> str:
    """Format a duration in seconds as "0.4 s", "12 s", "1 min 30 s" or "2 h 05 min"."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


class PhaseProgress:
    """The progress of one phase; created by `Phases.phase`. `update` is cheap and thread-safe.

    Args:
        total: Number of units in the phase; None if unknown.
        unit: Name of the counted units, in the plural.
        clock: Monotonic time in seconds.
    """

    def __init__(self, *, total: float | None, unit: str, clock: Callable[[], float]) -> None:
        self.total = total
        self.done = 0.0
        self._unit = unit
        self._clock = clock
        self._start = clock()
        self._first: tuple[float, float] | None = None  # time and count of the first update; earlier time is start-up
        self._facts: dict[str, object] = {}

    def update(self, done: float, *, total: float | None = None, **facts: object) -> None:
        """Set the number of units that are complete.

        Args:
            done: Units since the start of the phase, not since the last call.
            total: Replaces the phase's total.
            **facts: Shown by name (`loss=2.31`) until replaced.
        """
        self.done = done
        self.total = self.total if total is None else total
        self._first = self._first or (self._clock(), done)
        self._facts.update(facts)

    @property
    def seconds(self) -> float:
        """Seconds since the start of the phase."""
        return self._clock() - self._start

    @property
    def rate(self) -> float | None:
        """Units per second since the first update; None before the second update."""
        if self._first is None or self.done <= self._first[1]:
            return None
        return (self.done - self._first[1]) / max(self._clock() - self._first[0], 1e-9)

    def status(self) -> str:
        """Return one line, such as `120/400 steps, 3.1 steps/s, 1 min 30 s left, loss 2.31`."""
        rate, parts = self.rate, []
        if self._first is not None or self.total is not None:
            of = "" if self.total is None else f"/{_format_number(self.total)}"
            parts.append(f"{_format_number(self.done)}{of} {self._unit}")
        if rate is not None:
            parts.append(f"{_format_number(rate)} {self._unit}/s")
        if rate is not None and self.total is not None and self.done < self.total:
            parts.append(f"{duration((self.total - self.done) / rate)} left")
        else:
            parts.append(duration(self.seconds))
        return ", ".join([*parts, *_format_facts(self._facts)])

    def summary(self) -> str:
        """Return the final line, such as `400 steps in 2 min 10 s, loss 2.02`."""
        counted = "" if self._first is None else f"{_format_number(self.done)} {self._unit} in "
        return ", ".join([f"{counted}{duration(self.seconds)}", *_format_facts(self._facts)])


class Phases:
    """The phases of a command: `with phases.phase("train", total=400, unit="steps") as progress: ...`.

    Args:
        names: All phases, in order.
        console: Output; a PlainConsole on the standard output if None.
        clock: Monotonic time in seconds.
        every_seconds: Interval between two plain lines.

    Attributes:
        seconds: Duration of each phase that ended or failed; the sum if a phase ran twice.
    """

    def __init__(
        self,
        names: Sequence[str],
        *,
        console: PlainConsole | None = None,
        clock: Callable[[], float] = time.monotonic,
        every_seconds: float = 15.0,
    ) -> None:
        self.names = list(names)
        self.seconds: dict[str, float] = {}
        self._console = console or PlainConsole()
        self._clock = clock
        self._every = every_seconds

    @contextmanager
    def phase(self, name: str, *, total: float | None = None, unit: str = "steps") -> Iterator[PhaseProgress]:
        """Show the phase while the block runs, and record its seconds.

        Args:
            name: One of `names`.
            total: Number of units in the phase; None if unknown.
            unit: Name of the counted units, in the plural.
        """
        head = f"[{self.names.index(name) + 1}/{len(self.names)}] {name}"
        progress = PhaseProgress(total=total, unit=unit, clock=self._clock)
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
            with start_span(name):
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

    def note(self, text: str) -> None:
        """Show a line between the phases, or in one."""
        self._line(text, show=True)

    def _tick(self, head: str, progress: PhaseProgress, ended: threading.Event) -> None:
        while not ended.wait(self._every):
            self._line(f"{head} ... {progress.status()}", show=not self._console.is_terminal)

    def _line(self, text: str, *, show: bool) -> None:
        _log.info(text)
        if show:
            with suppress(OSError, ValueError):  # a closed or broken output; the log has the line
                self._console.print(text)

    def _bar(self, head: str, progress: PhaseProgress) -> Progress | None:
        if not self._console.is_terminal:
            return None
        columns = [SpinnerColumn("line"), TextColumn(Text(head).markup), _Bar(progress), _Status(progress)]
        bar = Progress(*columns, console=self._console, transient=True, refresh_per_second=4)
        bar.add_task(head, total=None)
        return bar


class _Bar(BarColumn):
    """Rich's bar, filled from a PhaseProgress."""

    def __init__(self, progress: PhaseProgress) -> None:
        super().__init__(bar_width=30)
        self._progress = progress

    def render(self, task: Task) -> ProgressBar:
        task.total, task.completed = self._progress.total, self._progress.done
        return super().render(task)


class _Status(ProgressColumn):
    """The text beside the bar."""

    def __init__(self, progress: PhaseProgress) -> None:
        super().__init__()
        self._progress = progress

    def render(self, task: Task) -> Text:
        return Text(escape_controls(self._progress.status()), overflow="ellipsis", no_wrap=True)


def _format_facts(facts: dict[str, object]) -> list[str]:
    pairs = list(facts.items())  # another thread may be adding one
    return [f"{name.replace('_', ' ')} {_format_number(v) if isinstance(v, int | float) else v}" for name, v in pairs]


def _format_number(value: float) -> str:
    """Format to three digits, without an exponent for large numbers."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
