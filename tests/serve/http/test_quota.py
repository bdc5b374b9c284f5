"""Token buckets: burst, refill, the exact boundary, and never more than rate * time + burst."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brew_serve.http.quota import Bucket, TokenPredictor


def test_a_bucket_starts_full_and_allows_a_burst_of_its_capacity() -> None:
    bucket = Bucket(per_second=2, capacity=5, now=0)
    assert [bucket.take(1, 0) for _ in range(5)] == [0] * 5
    assert bucket.take(1, 0) == pytest.approx(0.5)


def test_a_bucket_refills_at_its_rate_and_not_above_its_capacity() -> None:
    bucket = Bucket(per_second=2, capacity=5, now=0)
    bucket.take(5, 0)
    assert bucket.take(3, 1.5) == 0
    assert bucket.take(5.5, 1_000) == 0  # more than the capacity is taken from a full bucket
    assert bucket.take(1, 1_000) == pytest.approx(0.75)  # half a token of debt and one token


def test_a_take_succeeds_exactly_if_the_amount_is_available() -> None:
    bucket = Bucket(per_second=1, capacity=4, now=0)
    bucket.take(4, 0)
    assert bucket.take(2, 1.999) == pytest.approx(0.001)
    assert bucket.take(2, 2) == 0
    assert bucket.take(1, 2) == 1


def test_a_refused_take_costs_nothing() -> None:
    bucket = Bucket(per_second=1, capacity=2, now=0)
    bucket.take(2, 0)
    assert [bucket.take(1, 0.5) for _ in range(3)] == [0.5, 0.5, 0.5]
    assert bucket.take(1, 1) == 0


def test_time_that_runs_backwards_fills_nothing() -> None:
    bucket = Bucket(per_second=1, capacity=2, now=10)
    bucket.take(2, 10)
    assert bucket.take(1, 3) == 1
    assert bucket.take(1, 10.5) == pytest.approx(0.5)  # the time from 3 to 10 is not counted


def test_a_correction_returns_tokens_up_to_the_capacity_or_takes_more() -> None:
    bucket = Bucket(per_second=1, capacity=4, now=0)
    bucket.take(1, 0)
    bucket.give_back(100)
    assert bucket.take(4, 0) == 0
    bucket.give_back(-3)
    assert bucket.take(1, 0) == 4


steps = st.lists(st.tuples(st.floats(0, 10), st.floats(0, 1)), max_size=50)


@given(st.floats(0.1, 100), st.floats(1, 100), steps)
def test_no_more_than_rate_times_time_plus_burst_is_ever_taken(
    rate: float, capacity: float, steps: list[tuple[float, float]]
) -> None:
    bucket, now, taken = Bucket(per_second=rate, capacity=capacity, now=0), 0.0, 0.0
    for wait, share in steps:
        now += wait
        amount = share * capacity
        if bucket.take(amount, now) == 0:
            taken += amount
        assert taken <= rate * now + capacity * (1 + 1e-6)


@given(st.floats(0.1, 100), st.floats(1, 100), steps)
def test_a_retry_after_the_returned_time_succeeds(
    rate: float, capacity: float, steps: list[tuple[float, float]]
) -> None:
    bucket, now = Bucket(per_second=rate, capacity=capacity, now=0), 0.0
    for wait, share in steps:
        now += wait
        amount = 3 * share * capacity  # also above the capacity
        if seconds := bucket.take(amount, now):
            assert seconds > 0
            now += seconds
            assert bucket.take(amount, now) == 0


def test_tokens_are_predicted_from_bytes_by_route() -> None:
    predictor = TokenPredictor()
    assert predictor.predict("/v1/rank", 4_000) == 1_000  # four bytes a token
    assert predictor.predict("/v1/rank", 0) == 1
    predictor.observe("/v1/rank", 1_000, 5_000)
    assert predictor.predict("/v1/rank", 400) == 2_000
    assert predictor.predict("/v1/score", 400) == 100
    predictor.observe("/v1/rank", 1_000, 0)  # a request that was refused teaches nothing
    predictor.observe("/v1/rank", 0, 7)
    assert predictor.predict("/v1/rank", 400) == 2_000
    for _ in range(50):
        predictor.observe("/v1/rank", 1_000, 1_000)
    assert predictor.predict("/v1/rank", 400) == 400
