"""Admission and quotas: properties of the policies under any load, and the controller that applies them."""

import math

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from brew_platform.errors import UserError
from brew_serve.engines.base import EngineUsage
from brew_serve.errors import Overloaded
from brew_serve.http.quota import Bucket
from brew_serve.metrics import Meters
from brew_serve.ranking.admission import (
    AdmissionConfig,
    AdmissionController,
    Admit,
    Load,
    Refuse,
    TokenRate,
    TooLarge,
    Work,
    decide,
)

CONFIG = AdmissionConfig(max_outstanding_tokens=10_000, tokens_per_second=1_000, rate_memory_seconds=1)

loads = st.builds(
    Load, outstanding_tokens=st.integers(0, 10_000), tokens_per_second=st.floats(0.1, 1e6, allow_nan=False)
)
tokens = st.integers(1, 10_000)
seconds = st.none() | st.floats(1e-6, 1e4, allow_nan=False)


@given(loads, tokens, seconds)
def test_admitted_work_fits_the_limit_and_starts_before_its_deadline(
    load: Load, amount: int, left: float | None
) -> None:
    decision = decide(load, Work(tokens=amount, seconds_left=left), CONFIG)
    fits = load.outstanding_tokens + amount <= CONFIG.max_outstanding_tokens
    if isinstance(decision, Admit):
        assert fits
        wait, own = load.outstanding_tokens / load.tokens_per_second, amount / load.tokens_per_second
        assert decision.seconds == pytest.approx(wait + own)
        # in time, or else it is too large for its deadline on an idle service, and still gets most of its time
        assert left is None or wait + own <= left * 1.0001 or (own > 0.8 * left and wait <= 0.2001 * left)
    else:
        assert isinstance(decision, Refuse)
        assert decision.reason == ("deadline" if fits else "limit")


@given(tokens, seconds, st.floats(0.1, 1e6))
def test_an_idle_service_admits_every_request_within_its_limit(amount: int, left: float | None, rate: float) -> None:
    load = Load(outstanding_tokens=0, tokens_per_second=rate)
    assert isinstance(decide(load, Work(tokens=amount, seconds_left=left), CONFIG), Admit)


@settings(suppress_health_check=[HealthCheck.filter_too_much])
@given(st.integers(5_000, 10_000), st.floats(1, 1e4), st.integers(1_000, 10_000), seconds)
def test_a_retry_after_the_stated_time_is_admitted(
    outstanding: int, rate: float, amount: int, left: float | None
) -> None:
    load, work = Load(outstanding_tokens=outstanding, tokens_per_second=rate), Work(tokens=amount, seconds_left=left)
    decision = decide(load, work, CONFIG)
    assume(isinstance(decision, Refuse))
    assert isinstance(decision, Refuse)
    assert decision.retry_after > 0
    drained = math.ceil((decision.retry_after + 1e-6) * load.tokens_per_second)
    later = Load(outstanding_tokens=max(0, load.outstanding_tokens - drained), tokens_per_second=load.tokens_per_second)
    assert isinstance(decide(later, work, CONFIG), Admit)


@given(loads, tokens, st.floats(0.01, 100), st.integers(0, 5_000), st.floats(0, 50))
def test_admission_is_monotonic_in_work_and_time(load: Load, amount: int, left: float, less: int, more: float) -> None:
    assume(isinstance(decide(load, Work(tokens=amount, seconds_left=left), CONFIG), Admit))
    easier = Work(tokens=max(1, amount - less), seconds_left=left + more)
    assert isinstance(decide(load, easier, CONFIG), Admit)


def test_a_request_larger_than_the_limit_gets_no_retry_time() -> None:
    idle = Load(outstanding_tokens=0, tokens_per_second=1)
    assert decide(idle, Work(tokens=10_001), CONFIG) == TooLarge(limit=10_000)


def test_the_rate_follows_a_busy_engine_and_ignores_slow_samples_of_an_idle_engine() -> None:
    rate = TokenRate(CONFIG)
    for _ in range(100):
        rate.observe(tokens=10, seconds=1, outstanding=10)  # one small request does not show the capacity
    assert rate.per_second == 1_000
    for _ in range(20):
        rate.observe(tokens=400, seconds=1, outstanding=8_000)
    assert rate.per_second == pytest.approx(400, rel=0.01)
    for _ in range(20):
        rate.observe(tokens=3_000, seconds=1, outstanding=100)
    assert rate.per_second == pytest.approx(3_000, rel=0.01)


# --- Quotas ---


@given(st.lists(st.tuples(st.floats(0, 10), st.floats(0.1, 30)), max_size=40))
def test_a_bucket_never_exceeds_its_rate_and_capacity(requests: list[tuple[float, float]]) -> None:
    bucket, now, granted = Bucket(per_second=2, capacity=20, now=0), 0.0, 0.0
    for pause, amount in requests:
        now += pause
        wait = bucket.take(amount, now)
        if wait:
            assert bucket.take(amount, now + 0.9 * wait) > 0
            now += 1.0001 * wait
            assert bucket.take(amount, now) == 0
        granted += amount
        assert granted <= 20 + 2 * now + max(0, amount - 20) + 0.01


def test_a_large_request_is_delayed_like_many_small_ones() -> None:
    bucket = Bucket(per_second=10, capacity=100, now=0)
    assert bucket.take(500, 0) == 0  # in debt by 400
    assert bucket.take(1, 0) == pytest.approx(40.1)
    assert bucket.take(1, 41) == 0


# --- The controller ---


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@given(
    st.lists(st.tuples(st.integers(1, 4_000), st.booleans(), st.lists(st.integers(0, 2_000), max_size=5)), max_size=20)
)
def test_the_controller_always_returns_to_zero_outstanding_tokens(requests: list[tuple[int, bool, list[int]]]) -> None:
    clock = Clock()
    controller = AdmissionController(CONFIG, Meters(EngineUsage), clock)
    open_ = []
    for amount, fails, parts in requests:
        clock.now += 0.1
        block = controller.admit(amount)
        try:
            admitted = block.__enter__()
        except Overloaded:
            assert controller.outstanding_tokens + amount > CONFIG.max_outstanding_tokens
            continue
        for part in parts:
            admitted.finish(part)
        assert 0 <= controller.outstanding_tokens <= CONFIG.max_outstanding_tokens
        open_.append((block, fails))
    for block, fails in open_:
        error = RuntimeError("engine") if fails else None
        assert not block.__exit__(type(error) if error else None, error, None)
    assert controller.outstanding_tokens == 0


def test_the_controller_measures_its_rate_and_refuses_by_it() -> None:
    clock, meters = Clock(), Meters(EngineUsage)
    controller = AdmissionController(CONFIG, meters, clock)
    for _ in range(50):  # 8,000 tokens in 2 seconds of busy time, in bursts; idle time between them does not count
        with controller.admit(8_000) as admitted:
            for _ in range(8):
                clock.now += 0.25
                admitted.finish(500)
                admitted.finish(500)
        clock.now += 100
    assert b"brew_tokens_per_second 39" in meters.text() or b"brew_tokens_per_second 40" in meters.text()
    with controller.admit(8_000):
        with pytest.raises(Overloaded, match="could not answer it within its deadline; try again in 1.") as refused:
            controller.admit(100, deadline=clock.now + 1).__enter__()
        assert refused.value.retry_after == pytest.approx(1.025, abs=0.05)  # 2 s of work before it, 0.025 s its own
        with controller.admit(100, deadline=clock.now + 3):
            pass
        with pytest.raises(Overloaded, match="has no capacity for it"):
            controller.admit(3_000).__enter__()
        with pytest.raises(UserError, match="needs 20000 tokens of work, but the service takes 10000 at a time"):
            controller.admit(20_000).__enter__()
    assert b'brew_shed_total{reason="deadline"} 1.0' in meters.text()


def test_tokens_are_reserved_by_a_lower_bound_until_the_exact_work_is_known() -> None:
    controller = AdmissionController(CONFIG, meters := Meters())
    with controller.reserve(6_000):
        assert controller.outstanding_tokens == 0, "autoscaling counts admitted work only"
        with pytest.raises(Overloaded, match="has no capacity for it"):
            controller.reserve(5_000).__enter__()
        with pytest.raises(UserError, match="needs at least 20000 tokens of work, but the service takes 10000"):
            controller.reserve(20_000).__enter__()
    with controller.admit(10_000):
        assert controller.outstanding_tokens == 10_000
    assert b'brew_shed_total{reason="limit"} 1.0' in meters.text()
