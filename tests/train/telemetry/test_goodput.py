"""Goodput: every second of a run is assigned to exactly one cause, also after losses and repeated steps."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brew_train.telemetry.goodput import CAUSES, GoodputMeter, goodput

Record = dict[str, Any]
seconds = st.floats(0.001, 1e4)  # no two records at the same moment


def row(time: float, step: int, *, took: float = 0.0, **fields: Any) -> Record:
    return {"time": time, "step": step, "seconds": took, **fields}


def event(time: float, kind: str, **fields: Any) -> Record:
    return {"time": time, "kind": kind, **fields}


def test_a_killed_worker_and_a_lost_driver() -> None:
    events = [
        event(100, "launch"),
        event(110, "attempt"),
        event(113, "ready"),
        event(119.5, "checkpointed", step=2, blocked_seconds=0.5),  # inside step 3; its row reports it
        event(140, "attempt"),
        event(143, "restored", step=2),
        event(145, "ready"),
        event(200, "launch"),
        event(205, "attempt"),
        event(206, "ready"),
        event(214, "finished", checkpoint_blocked_seconds=1),
    ]
    rows = [
        row(115, 1, took=2, data_wait_seconds=0.5),
        row(119, 2, took=2, evaluation_seconds=1.5),  # and half a second between the steps
        row(122, 3, took=2, checkpoint_blocked_seconds=1),  # then a worker is killed
        row(147, 3, took=2),
        row(149, 4, took=2, skipped=True),  # then the driver
        row(208, 4, took=2),
        row(210, 5, took=2),
    ]
    lost = {
        "start": 10 + 5,
        "build": 3 + 5 + 1,
        "down": (140 - 122) + (200 - 149),
        "repeated": 2 + 2,
        "skipped": 2,
        "data": 0.5,
        "checkpoint": 1 + 1,
        "evaluation": 1.5,
        "export": 3,
        "other": 0.5,
        "unknown": 0,
    }
    found = goodput(rows, events, now=10_000)  # finished, so time does not change it
    assert found.lost == pytest.approx(lost)
    assert found.productive_seconds == 1.5 + 2 + 2 + 2
    assert found.held_seconds == 214 - 100
    assert found.goodput == pytest.approx(7.5 / 114)
    assert (found.restarts, found.repeated_steps, found.skipped_steps) == (2, 2, 1)


def test_time_since_the_last_record_is_unknown_and_an_interruption_ends_the_held_time() -> None:
    meter = GoodputMeter()
    for record in [event(0, "launch"), event(4, "attempt"), event(5, "ready"), row(8, 1, took=3)]:
        meter.add(record)
    assert meter.at(20).lost["unknown"] == 12
    assert meter.at(8).goodput == 3 / 8  # reading does not change it
    meter.add(event(9, "stopped"))
    for record in [event(1000, "launch"), event(1001, "attempt"), event(1002, "ready"), row(1003, 2, took=1)]:
        meter.add(record)
    found = meter.at(1003)
    assert (found.held_seconds, found.productive_seconds, found.lost["down"]) == (12, 4, 0)
    assert (found.lost["start"], found.lost["other"]) == (5, 1)


def test_a_run_without_a_launcher_is_held_from_its_first_record() -> None:
    found = goodput([row(4, 1, took=3)], [event(0, "attempt"), event(1, "ready")])
    assert (found.held_seconds, found.goodput, found.lost["start"]) == (4, 3 / 4, 0)
    assert goodput([], []).goodput == 0


def test_elastic_restarts_and_the_next_stage_lose_time_to_down_and_build() -> None:
    events = [event(0, "attempt", workers=4), event(1, "ready"), event(6, "attempt", workers=2), event(7, "ready")]
    events += [event(12, "ready", stage="sft", checkpoint_blocked_seconds=2)]
    found = goodput([row(3, 1, took=2), row(9, 2, took=2), row(14, 3, took=2)], events)
    assert found.lost["down"] == 3
    assert found.lost["build"] == 1 + 1 + 1
    assert found.lost["checkpoint"] == 2
    assert found.productive_seconds == 6


@st.composite
def runs(draw: st.DrawFn) -> tuple[list[Record], list[Record], dict[str, float]]:
    """A run that is lost several times, and the true causes of its time."""
    true = dict.fromkeys([*CAUSES, "productive"], 0.0)
    time, step, done = draw(seconds), 0, 0
    rows: list[Record] = []
    events: list[Record] = []

    def spend(cause: str, duration: float | None = None) -> float:
        nonlocal time
        spent = draw(seconds) if duration is None else duration
        true[cause] += spent
        time += spent
        return spent

    attempts = draw(st.integers(1, 4))
    for attempt in range(attempts):
        if attempt:
            spend("down")
        if attempt == 0 or draw(st.booleans()):
            events.append(event(time, "launch"))
            spend("start")
        events.append(event(time, "attempt"))
        spend("build")
        events.append(event(time, "ready"))
        step = draw(st.integers(0, step))  # of the checkpoint that is restored
        for _ in range(draw(st.integers(0, 4))):
            step += 1
            blocked, wait = spend("checkpoint"), spend("data")
            skipped = draw(st.booleans())
            own = spend("repeated" if step <= done else "skipped" if skipped else "productive")
            evaluation = spend("evaluation")
            spend("other")
            done = max(done, step)
            fields = {
                "data_wait_seconds": wait,
                "checkpoint_blocked_seconds": blocked,
                "evaluation_seconds": evaluation,
            }
            rows.append(row(time, step, took=own + wait, skipped=skipped, **fields))
            if draw(st.booleans()):
                events.append(event(time, "checkpointed", step=step))
    spend("export")
    events.append(event(time, "finished"))
    return rows, events, true


@settings(deadline=None)
@given(runs())
def test_every_second_is_assigned_to_its_cause(run: tuple[list[Record], list[Record], dict[str, float]]) -> None:
    rows, events, true = run
    found = goodput(rows, events)
    assert found.lost | {"productive": found.productive_seconds} == pytest.approx(true, rel=1e-6, abs=1e-4)
    assert found.held_seconds == pytest.approx(sum(true.values()))


records = st.one_of(
    st.builds(
        row,
        st.floats(0, 1e6),
        st.integers(1, 9),
        took=st.floats(-10, 1e6),
        skipped=st.booleans(),
        data_wait_seconds=st.none() | st.floats(-10, 1e6),
        checkpoint_blocked_seconds=st.floats(-10, 1e6),
    ),
    st.builds(
        event,
        st.floats(0, 1e6),
        st.sampled_from(["launch", "attempt", "ready", "restored", "finished", "failed", "stopped", "unheard of"]),
    ),
)


@settings(deadline=None)
@given(st.lists(records, max_size=30), st.floats(0, 2e6))
def test_the_causes_add_up_to_the_held_time_for_any_records(events: list[Record], now: float) -> None:
    """Also for clocks that differ, impossible durations, and an impossible order."""
    meter = GoodputMeter()
    for record in events:
        before = meter.at(0)
        meter.add(record)
        found = meter.at(now)
        assert found.productive_seconds + sum(found.lost.values()) == pytest.approx(found.held_seconds, abs=1e-3)
        assert min(found.productive_seconds, *found.lost.values()) >= -1e-6
        assert 0 <= found.goodput <= 1 + 1e-9
        assert meter.at(0).held_seconds >= before.held_seconds  # held time never decreases
    times = [record["time"] for record in events]
    assert meter.at(0).held_seconds <= max(times, default=0) - min(times, default=0) + 1e-6  # nothing counts twice
