"""Shows a training run: a live view on a terminal, a line every ten seconds elsewhere, and a summary at the end.

The summary includes the image `loss.svg` in the run folder.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from brew_cluster.cli.views.loss_curve import loss_curve_svg
from brew_platform.console.plain_console import PlainConsole, escape_controls
from brew_platform.console.progress import duration
from brew_train.config import StageConfig
from brew_train.loop import BEST, TrainResult
from brew_train.telemetry.goodput import goodput
from brew_train.telemetry.recorder import EVENTS, Tail, read_run

__all__ = ["TrainView", "sparkline"]

_log = logging.getLogger(__name__)
REFRESH_SECONDS = 0.25
RECENT, WIDTH = 240, 24  # number of losses and of characters of the sparkline
BLOCKS = "▁▂▃▄▅▆▇█"
_DOING = {  # event -> activity until the next event or step
    "launch": "starting the workers",
    "attempt": "building the model",
    "restored": "opening the stage",
    "ready": "in the first step",
    "finished": "done",
}


class TrainView:
    """Shows a run while the `with` block trains. `update` can be called from any thread.

    Args:
        run: The folder of the run; it need not exist yet.
        console: The output.
        stages: The stages of the run, in order.
        every_seconds: The time between two plain lines. On a terminal, these lines go only to the log.
        now: Returns the current time, in Unix seconds.
    """

    def __init__(
        self,
        run: Path,
        console: PlainConsole,
        *,
        stages: Sequence[StageConfig],
        every_seconds: float = 10.0,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._run, self._console, self._every, self._now = run, console, every_seconds, now
        self._stages = [stage.name for stage in stages]
        self._events = Tail(run / EVENTS)
        self._lock = threading.Lock()
        self._row: Mapping[str, Any] = {}
        self._losses: deque[tuple[int, float]] = deque(maxlen=RECENT)
        self._evaluations: dict[int, float] = {}  # losses of this stage, by step
        self._doing = _DOING["launch"]
        self._attempts = 0
        self._checkpointed: float | None = None  # unix seconds
        self._live: Live | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._show, name="train-view", daemon=True)

    def __enter__(self) -> Self:
        for event in self._events.read():  # events of earlier commands
            self._note(event)
        self._doing = _DOING["launch"]
        if self._console.is_terminal:
            self._live = Live(console=self._console, auto_refresh=False, transient=True)
            with suppress(OSError, ValueError):  # the output is closed or broken; training continues
                self._live.start()
        self._say(self.line(), show=not self._live)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._ended.set()
        self._thread.join()
        if self._live:
            with suppress(OSError, ValueError):
                self._live.stop()
        if self._row:
            self._say(self.line(), show=True)

    def update(self, row: Mapping[str, Any]) -> None:
        """Show a new row of metrics.jsonl."""
        with self._lock:
            if row["stage"] != self._row.get("stage"):
                self._losses.clear()
                self._evaluations.clear()
            while self._losses and self._losses[-1][0] >= row["step"]:  # the step is repeated after a restart
                self._losses.pop()
            if row["loss"] is not None:
                self._losses.append((row["step"], row["loss"]))
            evaluated = (row.get("evaluation") or {}).get("loss")
            if evaluated is not None:
                self._evaluations[row["step"]] = evaluated
            self._row = row
            self._doing = ""

    def line(self) -> str:
        """Return the state of the run in one line."""
        with self._lock:
            return ", ".join([self._head(), *(f"{name} {text}".strip() for name, text in self._facts())])

    def summary(self, result: TrainResult) -> None:
        """Print the run summary over all attempts, and write `loss.svg`."""
        rows, events = read_run(self._run)
        total = goodput(rows, events)
        table = Table(title="Training", title_justify="left", show_header=False)
        table.add_column(style="bold")
        table.add_column()
        table.add_column(justify="right")
        repeated = f", {total.repeated_steps:,} repeated" if total.repeated_steps else ""
        skipped = f", {total.skipped_steps:,} skipped" if total.skipped_steps else ""
        table.add_row("steps", f"{result.steps:,}{repeated}{skipped}")
        table.add_row("tokens", f"{result.tokens:,} at {result.tokens_per_second:,.0f} tokens/s")
        for stage, (step, loss) in _best(rows).items():
            table.add_row("evaluation", f"{loss:.4f} at step {step:,} of stage {stage}, the lowest")
        restarts = f", {_plural(total.restarts, 'restart')}" if total.restarts else ""
        table.add_row("time held", f"{duration(total.held_seconds)}{restarts}", end_section=True)
        table.add_row("goodput", duration(total.productive_seconds), f"{total.goodput:.1%}")
        for cause, seconds in sorted(total.lost.items(), key=lambda item: -item[1]):
            if seconds >= 0.05:
                share = f"{seconds / total.held_seconds:.1%}"
                table.add_row(f"  lost: {cause}", duration(seconds), share)
        self._print(table)
        self._say(f"exported to {result.export}", show=True)
        for folder in sorted((self._run / BEST).glob("[!.]*")):
            self._say(f"lowest evaluation loss of stage {folder.name}: {folder}", show=True)
        with suppress(OSError):  # a full disk; the image can be drawn from metrics.jsonl at any time
            (self._run / "loss.svg").write_text(loss_curve_svg(rows))
            self._say(f"loss curve: {self._run / 'loss.svg'}", show=True)

    def _head(self) -> str:
        if not self._row:
            return self._doing
        place = self._stages.index(self._row["stage"]) + 1 if self._row["stage"] in self._stages else 1
        steps = f"{self._row['step']:,}/{self._row['steps']:,} steps"
        return f"[{place}/{len(self._stages)}] {self._row['stage']}: {steps}" + (self._doing and f", {self._doing}")

    def _facts(self) -> list[tuple[str, str]]:
        """Return the known facts as pairs of name and text, in the order of display."""
        row, facts = self._row, []
        if not row:
            return []
        drawable = self._console.encoding.lower().startswith("utf")
        spark = f" {sparkline([loss for _, loss in self._losses])}" if drawable else ""
        facts.append(("loss", ("no number" if row["loss"] is None else f"{row['loss']:.4f}") + spark))
        if self._evaluations:
            step, loss = list(self._evaluations.items())[-1]
            best = min(self._evaluations, key=lambda at: self._evaluations[at])
            lowest = "the lowest" if best == step else f"lowest {self._evaluations[best]:.4f} at step {best:,}"
            facts.append(("evaluation", f"{loss:.4f} ({lowest})"))
        facts.append(("", f"{row['tokens_per_second']:,.0f} tokens/s"))
        if row["mfu"] is not None:
            facts.append(("MFU", f"{row['mfu']:.1%}"))
        facts.append(("learning rate", f"{row['learning_rate']:.3g}"))
        facts.append(("memory", f"{row['memory_bytes'] / 2**30:.2f} GiB"))
        facts.append(("data wait", f"{row['data_wait_seconds'] / max(row['seconds'], 1e-9):.1%}"))
        if self._checkpointed is not None:
            facts.append(("checkpoint", f"{duration(max(0.0, self._now() - self._checkpointed))} ago"))
        if self._attempts > 1:
            facts.append(("", _plural(self._attempts - 1, "restart")))
        facts.append(("goodput", f"{row['goodput']:.1%}"))
        quiet = self._now() - row["time"]
        if quiet > max(15.0, 3 * row["seconds"]):
            facts.append(("", f"no step for {duration(quiet)}"))
        elif row["seconds_left"]:
            facts.append(("", f"{duration(row['seconds_left'])} left"))
        return facts

    def _render(self) -> RenderableType:
        with self._lock:
            head, facts = self._head(), self._facts()
            done, steps = self._row.get("step", 0), self._row.get("steps")
        top = Table.grid(padding=(0, 1))
        top.add_row(
            Text(escape_controls(head), style="bold", overflow="ellipsis", no_wrap=True),
            ProgressBar(steps, done, width=30),
        )
        lines = [Text()]
        for name, text in facts:  # a fact stays on one line
            fact = Text.assemble((f"{name} " if name else "", "dim"), f"{text}   ")
            if lines[-1] and len(lines[-1]) + len(fact) > self._console.width:
                lines.append(Text())
            lines[-1].append(fact)
        return Group(top, *lines) if facts else top

    def _note(self, event: Mapping[str, Any]) -> str:
        """Process an event and return a message about it; most events have none."""
        kind = event["kind"]
        with self._lock:
            if event["time"] >= self._row.get("time", 0.0):  # rows and events arrive independently
                self._doing = _DOING.get(kind, self._doing)
            self._attempts += kind == "attempt"
            if kind == "checkpointed":
                self._checkpointed = event["time"]
        if kind == "attempt" and self._attempts > 1:
            return f"{_plural(event['workers'], 'worker')} started; restart {self._attempts - 1}"
        if kind == "restored":
            return f"continuing after step {event['step']:,}"
        if kind == "skipped":
            return f"step {event['step']:,} was skipped because of a bad loss in bins {event['bins']}"
        if kind == "noticed":
            return f"checkpointed step {event['step']:,} on request"
        return ""

    def _show(self) -> None:
        said = time.monotonic()
        while True:
            ended = self._ended.wait(REFRESH_SECONDS)
            for line in filter(None, map(self._note, self._events.read())):
                self._say(line, show=True)
            if ended:
                return
            if self._live:
                with suppress(OSError, ValueError):
                    self._live.update(self._render(), refresh=True)
            if time.monotonic() - said >= self._every:
                said = time.monotonic()
                self._say(self.line(), show=not self._live)

    def _say(self, text: str, *, show: bool) -> None:
        _log.info(text)
        if show:
            self._print(text)

    def _print(self, content: str | Table) -> None:
        with suppress(OSError, ValueError):
            self._console.print(content)


def sparkline(values: Sequence[float]) -> str:
    """Return values as at most WIDTH block characters, each the mean of consecutive values."""
    count = min(WIDTH, len(values))
    cuts = [len(values) * i // count for i in range(count + 1)] if count else []
    means = [sum(values[a:b]) / (b - a) for a, b in pairwise(cuts)]
    low, high = min(means, default=0.0), max(means, default=0.0)
    span = (high - low) or 1.0
    return "".join(BLOCKS[round((len(BLOCKS) - 1) * ((mean - low) / span))] for mean in means)


def _best(rows: Sequence[Mapping[str, Any]]) -> dict[str, tuple[int, float]]:
    """Return step and loss of the lowest evaluation of each stage."""
    best: dict[str, tuple[int, float]] = {}
    for row in rows:
        loss = (row.get("evaluation") or {}).get("loss")
        if loss is not None and loss < best.get(row["stage"], (0, float("inf")))[1]:
            best[row["stage"]] = (row["step"], loss)
    return best


def _plural(count: int, what: str) -> str:
    return f"{count:,} {what}" + ("" if count == 1 else "s")
