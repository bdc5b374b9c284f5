"""The view of a training run: on terminals of any width, in a pipe, at the end; and the loss curve."""

import io
import logging
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brew_cluster.cli.views.loss_curve import HEIGHT, POINTS, loss_curve_svg
from brew_cluster.cli.views.svg import WIDTH
from brew_cluster.cli.views.training import TrainView, sparkline
from brew_platform.console.plain_console import PlainConsole
from brew_train.config import StageConfig
from brew_train.loop import TrainResult
from brew_train.telemetry.recorder import Recorder

STAGES = [StageConfig(name="cpt"), StageConfig(name="sft")]


class Run:
    """A run that a test writes, and its clock."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.now = 1_700_000_000.0
        self.recorder = Recorder(folder, attempt="a", clock=lambda: self.now)

    def event(self, kind: str, *, after: float = 1.0, **fields: Any) -> None:
        self.now += after
        self.recorder.event(kind, **fields)

    def step(self, step: int, *, stage: str = "cpt", **fields: Any) -> dict[str, Any]:
        self.now += 2
        row = {"stage": stage, "step": step, "steps": 400, "loss": 4 - step / 100, "learning_rate": 5e-3}
        row |= {"tokens": 9000, "tokens_per_second": 4500.4, "mfu": None, "memory_bytes": 3 * 2**29, "evaluation": None}
        row |= {"seconds": 2.0, "data_wait_seconds": 0.05, "checkpoint_blocked_seconds": 0.0, "seconds_left": 90}
        return self.recorder.step({**row, **fields})


def until(true: Callable[[], bool]) -> None:
    """The view reads new rows four times a second, less often on a busy machine."""
    deadline = time.monotonic() + 20
    while not true() and time.monotonic() < deadline:
        time.sleep(0.05)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    run = Run(tmp_path / "run")
    run.folder.mkdir()
    yield run
    run.recorder.close()


def test_the_line_shows_the_known_facts(run: Run) -> None:
    run.event("launch")
    view = TrainView(run.folder, PlainConsole(file=io.StringIO()), stages=STAGES, now=lambda: run.now)
    assert view.line() == "starting the workers"
    with view:
        run.event("attempt", workers=2)
        run.event("ready")
        view.update(run.step(1))
        view.update(run.step(2, evaluation={"loss": 3.5}, mfu=0.4123))
        run.event("checkpointed", step=2)
        view.update(run.step(3, loss=None, evaluation={"loss": 3.75}))
        run.now += 2
        until(lambda: "ago" in view.line())
        assert view.line() == (
            "[1/2] cpt: 3/400 steps, loss no number █▁, evaluation 3.7500 (lowest 3.5000 at step 2), 4,500 tokens/s, "
            "learning rate 0.005, memory 1.50 GiB, data wait 2.5%, checkpoint 4.0 s ago, goodput 65.0%, "
            "1 min 30 s left"
        )
        run.now += 20
        run.event("attempt", workers=1)
        run.event("restored", step=2)
        run.event("ready")
        view.update(run.step(3, mfu=0.4123))
        view.update(run.step(4, stage="sft"))
        until(lambda: "restart" in view.line())
        assert "[2/2] sft: 4/400 steps, loss 3.9600 ▁, 4,500 tokens/s" in view.line()  # a new loss, a new curve
        assert ", 1 restart, " in view.line()
        run.now += 40
        assert view.line().endswith(", no step for 40 s")


def test_a_pipe_gets_lines_news_and_no_characters_that_it_cannot_show(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    run.event("attempt", workers=2)  # of a driver that was lost
    raw = io.BytesIO()
    console = PlainConsole(file=io.TextIOWrapper(raw, encoding="ascii", write_through=True), width=30)
    run.event("launch")
    with TrainView(run.folder, console, stages=STAGES, every_seconds=0.3, now=lambda: run.now) as view:
        run.event("attempt", workers=2)
        run.event("restored", step=10)
        view.update(run.step(11, skipped=True))
        run.event("skipped", step=11, bins=[3, 7])
        run.event("noticed", step=11)
        until(lambda: raw.getvalue().count(b"11/400 steps") >= 2)
    lines = raw.getvalue().decode("ascii").splitlines()
    assert lines[0] == "starting the workers"
    news = [line for line in lines if "loss 3" not in line][1:]
    assert news == [
        "2 workers started; restart 1",
        "continuing after step 10",
        "step 11 was skipped because of a bad loss in bins [3, 7]",
        "checkpointed step 11 on request",
    ]
    assert lines[-1].startswith("[1/2] cpt: 11/400 steps, loss 3.8900, 4,500 tokens/s")
    assert set(lines) <= set(caplog.messages)


@pytest.mark.parametrize("width", [10, 40, 120])
def test_a_terminal_of_any_width_shows_the_run(run: Run, width: int) -> None:
    out = io.StringIO()
    console = PlainConsole(file=out, force_terminal=True, width=width)
    run.event("launch")
    with TrainView(run.folder, console, stages=STAGES, now=lambda: run.now) as view:
        run.event("attempt", workers=2)
        until(lambda: width < 120 or "building the model" in out.getvalue())
        for step in range(1, 30):
            view.update(run.step(step))
        until(lambda: width < 120 or "29/400" in out.getvalue())
    if width == 120:
        shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", out.getvalue())
        assert "building the model" in shown
        assert "[1/2] cpt: 29/400 steps ━" in shown
        assert "loss 3.7100 █" in shown


def test_a_failure_inside_leaves_the_terminal_usable_and_says_how_far_it_came(run: Run) -> None:
    out = io.StringIO()
    console = PlainConsole(file=out, force_terminal=True, width=100)
    with (  # noqa: PT012
        pytest.raises(KeyboardInterrupt),
        TrainView(run.folder, console, stages=STAGES, now=lambda: run.now) as view,
    ):
        run.event("attempt")
        view.update(run.step(7))
        raise KeyboardInterrupt
    assert "7/400 steps" in out.getvalue().splitlines()[-1]
    assert out.getvalue().count("\x1b[?25l") == out.getvalue().count("\x1b[?25h") == 1  # the cursor is back


def test_the_summary_counts_all_attempts_and_draws_the_loss(run: Run) -> None:
    run.event("launch")
    run.event("attempt", after=10, workers=2)
    run.event("ready", after=5)
    for step in (1, 2, 3):
        run.step(step, evaluation={"loss": 3.0 + abs(step - 2)})
    run.event("attempt", after=13, workers=2)
    run.event("ready", after=3)
    run.step(3)
    run.step(4, stage="sft", evaluation={"loss": 2.0})
    run.event("finished", after=1)
    out = io.StringIO()
    view = TrainView(run.folder, PlainConsole(file=out, width=100), stages=STAGES)
    (run.folder / "best" / "cpt").mkdir(parents=True)
    view.summary(
        TrainResult(export=run.folder / "export", steps=4, tokens=36_000, tokens_per_second=4500.0, seconds=40.0)
    )
    cells = [re.split(r"\s*│\s*", line.strip("│ ")) for line in out.getvalue().splitlines()]
    table = {row[0].strip(): [cell.strip() for cell in row[1:] if cell.strip()] for row in cells if len(row) > 1}
    assert table == {
        "steps": ["4, 1 repeated"],
        "tokens": ["36,000 at 4,500 tokens/s"],
        "evaluation": ["2.0000 at step 4 of stage sft, the lowest"],
        "time held": ["42 s, 1 restart"],
        "goodput": ["7.8 s", "18.6%"],
        "lost: down": ["13 s", "31.0%"],
        "lost: start": ["10 s", "23.8%"],
        "lost: build": ["8.0 s", "19.0%"],
        "lost: repeated": ["1.9 s", "4.6%"],
        "lost: export": ["1.0 s", "2.4%"],
        "lost: data": ["0.2 s", "0.6%"],
    }
    assert "3.0000 at step 2 of stage cpt, the lowest" in out.getvalue()
    assert f"exported to {run.folder / 'export'}" in out.getvalue()
    assert f"lowest evaluation loss of stage cpt: {run.folder / 'best' / 'cpt'}" in out.getvalue()
    assert (run.folder / "loss.svg").read_text().startswith("<svg ")


def test_sparkline() -> None:
    assert sparkline([]) == ""
    assert sparkline([2.0, 2.0]) == "▁▁"
    assert sparkline([7, 6, 5, 4, 3, 2, 1, 0]) == "█▇▆▅▄▃▂▁"
    assert sparkline([0.0, 5e-324]) == "▁█"
    assert sparkline([*[1.0] * 500, *[0.0] * 500]) == "█" * 12 + "▁" * 12


def drawn(svg: str) -> tuple[list[list[tuple[float, float]]], list[tuple[float, float]], list[str]]:
    """Points of the lines, the circles, and the texts of a picture."""
    root = ElementTree.fromstring(svg)
    name = "{http://www.w3.org/2000/svg}"
    lines = [
        [(float(x), float(y)) for x, y in (point.split(",") for point in line.get("points", "").split())]
        for line in root.iter(f"{name}polyline")
    ]
    circles = [(float(c.get("cx", "")), float(c.get("cy", ""))) for c in root.iter(f"{name}circle")]
    return lines, circles, [text.text or "" for text in root.iter(f"{name}text")]


def row(step: int, loss: float | None, *, stage: str = "cpt", evaluation: float | None = None) -> dict[str, Any]:
    return {"step": step, "loss": loss, "stage": stage, "evaluation": evaluation and {"loss": evaluation}}


def test_the_picture_is_of_the_last_time_of_each_step() -> None:
    rows = [
        row(1, 4.0),
        row(2, 3.0),
        row(3, 9.0),
        row(3, 2.0, evaluation=2.5),
        row(4, None),
        row(5, 1.0, stage="<s&t>"),
    ]
    (first, second, evaluated, _), circles, texts = drawn(loss_curve_svg(rows))  # a curve per stage
    training = [*first, *second]
    assert len(second) == 1
    assert [x for x, _ in training] == pytest.approx([60 + 680 * step / 5 for step in (1, 2, 3, 5)])
    heights = [y for _, y in training]
    assert heights == pytest.approx([heights[0] + i * (heights[-1] - heights[0]) / 3 for i in range(4)], abs=0.1)
    assert heights[0] < heights[-1]  # a lower loss is further down
    assert circles == evaluated == [(training[2][0], pytest.approx((heights[1] + heights[2]) / 2, abs=0.1))]
    assert {"cpt", "<s&t>", "training loss", "evaluation loss (averaged weights)"} <= set(texts)


@settings(deadline=None, max_examples=30)
@given(
    st.lists(
        st.tuples(
            st.integers(1, 10**7),
            st.none() | st.floats(-1e6, 1e6),
            st.none() | st.floats(1e-9, 1e6),
        ),
        max_size=30,
    ),
    st.integers(0, 2 * POINTS + 3),
)
def test_any_run_fits_into_the_picture(some: list[tuple[int, float | None, float | None]], more: int) -> None:
    rows = [row(step, loss, evaluation=evaluation) for step, loss, evaluation in some]
    rows += [row(step, 1 / step) for step in range(1, more)]
    lines, circles, _ = drawn(loss_curve_svg(rows))
    assert all(len(line) <= POINTS for line in lines[:1])
    for x, y in [*circles, *(point for line in lines for point in line)]:
        assert 0 <= x <= WIDTH
        assert 0 <= y <= HEIGHT
