"""A function is called at once, at intervals, and a last time after the end of the block."""

import threading

import pytest

from brew_platform.polling import polled


def test_the_last_call_follows_the_end_of_the_block() -> None:
    seen: list[str] = []
    state, called = "running", threading.Event()

    def call() -> None:
        seen.append(state)
        if len(seen) == 3:
            called.set()

    with polled(call, seconds=0.001, name="test"):
        assert called.wait(10)
        state = "ended"
    assert seen[:3] == ["running"] * 3
    assert seen[-1] == "ended"
    assert "test" not in [thread.name for thread in threading.enumerate()]


def test_the_last_call_follows_a_failure() -> None:
    calls: list[int] = []
    with pytest.raises(ValueError, match="failed"), polled(lambda: calls.append(1), seconds=60, name="test"):
        raise ValueError("failed")
    assert 1 <= len(calls) <= 2
