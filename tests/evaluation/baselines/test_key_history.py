"""Sums over past events, against a plain loop."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from brew_eval.baselines.key_history import KeyHistory

EVENTS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9), st.floats(-4, 4)), max_size=30)


@given(EVENTS, st.integers(0, 4), st.integers(0, 10), st.integers(0, 10), st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_sums_are_those_of_a_loop(
    events: list[tuple[int, int, float]], key: int, before: int, since: int, last: int
) -> None:
    key_N, time_N = (np.array([event[index] for event in events], dtype=np.int64) for index in (0, 1))
    value_NF = np.array([[event[2]] for event in events]).reshape(-1, 1)
    history = KeyHistory(key_N, time_N, value_NF)
    key_Q, before_Q, since_Q = (np.array([number]) for number in (key, before, since))
    past = sorted((time, index) for index, (own, time, _) in enumerate(events) if own == key and time < before)
    for arguments, visible in [
        ({}, past),
        ({"since_Q": since_Q}, [event for event in past if event[0] >= since]),
        ({"last": last}, past[-last:]),
    ]:
        count_Q, sum_QF = history.sums(key_Q, before_Q, **arguments)
        assert count_Q.tolist() == [len(visible)]
        assert abs(sum_QF[0, 0] - sum(events[index][2] for _, index in visible)) < 1e-4
    first_Q, last_Q = history.first_and_last(key_Q, before_Q)
    if past:
        assert (first_Q[0], last_Q[0]) == (past[0][0], past[-1][0])
    else:
        assert np.isnan([first_Q[0], last_Q[0]]).all()


def test_later_events_do_not_change_a_sum_by_one_bit() -> None:
    rng = np.random.default_rng(0)
    key_N, time_N, value_NF = rng.integers(0, 5, 500), rng.integers(0, 90, 500), rng.normal(size=(500, 2))
    before_Q, key_Q = np.full(5, 40), np.arange(5)
    late_N = time_N >= 40
    changed_NF = np.where(late_N[:, None], rng.normal(size=(500, 2)), value_NF)
    plain, changed = (KeyHistory(key_N, time_N, v).sums(key_Q, before_Q)[1] for v in (value_NF, changed_NF))
    assert (plain == changed).all()
