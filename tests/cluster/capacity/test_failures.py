"""Failures, checkpoint intervals and goodput agree with published measurements and estimates."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brew_cluster.capacity.assumptions import FAILURES, RECOVERY
from brew_cluster.capacity.failures import best_checkpoint_interval, expected_goodput, mean_time_between_failures

HOUR = 3_600


def test_llama_3_405b_failed_every_three_hours() -> None:
    """arXiv:2407.21783, section 3.3.4: 419 unexpected of 466 interruptions in 54 days on 16,384 GPUs."""
    nodes = 16_384 / 8
    rate = 419 / (nodes * 54) * 1_000
    assert FAILURES.low < rate < FAILURES.high
    assert mean_time_between_failures(nodes, rate) == pytest.approx(54 * 24 / 419 * HOUR)


def test_goodput_of_llama_3_405b_is_in_the_range() -> None:
    """The same section: more than 90% effective training time, with 466 interruptions in all."""
    mtbf = 54 * 24 / 466 * HOUR
    low, high = (
        expected_goodput(300, blocked=1, recovery=seconds, mtbf=mtbf) for seconds in (RECOVERY.high, RECOVERY.low)
    )
    assert low < 0.90 < high


@pytest.mark.parametrize(
    ("gpus", "hours"),
    [(16_384, 1.8), (131_072, 0.23)],
)
def test_mean_time_between_failures_of_a_published_cluster(gpus: int, hours: float) -> None:
    """arXiv:2410.21680, section III: estimates for 6.50 failures per 1,000 node-days."""
    assert mean_time_between_failures(gpus / 8, 6.50) / HOUR == pytest.approx(hours, rel=0.03)


@pytest.mark.parametrize(("minutes", "share"), [(60, 0.70), (5, 0.93)])
def test_goodput_of_a_published_cluster(minutes: float, share: float) -> None:
    """arXiv:2410.21680, section III: a run on 16,000 GPUs, 5 minutes to start, checkpoints that do not block."""
    mtbf = mean_time_between_failures(2_000, 6.50)
    assert expected_goodput(60 * minutes, blocked=0, recovery=300, mtbf=mtbf) == pytest.approx(share, abs=0.025)


@given(blocked=st.floats(0.01, 1_000), mtbf=st.floats(3_000, 1e7))
def test_no_other_interval_is_better_than_the_best(blocked: float, mtbf: float) -> None:
    best = best_checkpoint_interval(blocked, mtbf)
    found = expected_goodput(best, blocked=blocked, recovery=0, mtbf=mtbf)
    others = (expected_goodput(best * 1.1**step, blocked=blocked, recovery=0, mtbf=mtbf) for step in range(-40, 41))
    assert found >= max(others) - 1e-3


@given(
    interval=st.floats(1, 1e6), blocked=st.floats(0, 1_000), recovery=st.floats(0, 1e5), mtbf=st.floats(1, 1e9),
    more=st.floats(1, 1e4),
)  # fmt: skip
def test_goodput_is_a_share_that_falls_with_the_recovery(
    interval: float, blocked: float, recovery: float, mtbf: float, more: float
) -> None:
    goodput = expected_goodput(interval, blocked=blocked, recovery=recovery, mtbf=mtbf)
    assert 0 <= goodput <= 1 + 1e-9
    assert expected_goodput(interval, blocked=blocked, recovery=recovery + more, mtbf=mtbf) <= goodput


def test_limits() -> None:
    assert expected_goodput(1e6, blocked=1, recovery=1, mtbf=1) == 0
    assert best_checkpoint_interval(10, 5) == 5
    young = math.sqrt(2 * 10 * 1e6)
    assert best_checkpoint_interval(10, 1e6) == pytest.approx(young, rel=0.01)
