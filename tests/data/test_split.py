"""Splits by time and by members: boundaries, ties, the validation split, and no leak across a cut."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from brew_data.split import EVERYONE, Split, SplitConfig, are_in_part, hash_ids, is_in_part, member_hash
from brew_platform.errors import UserError

DAY = 86_400_000_000  # microseconds


def cut(times: list[int], **config: object) -> Split:
    return Split.of(np.array(times, dtype=np.int64), SplitConfig(**config))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("share", "train_until"),
    [(0.5, 4), (0.8, 7), (0.9, 8), (0.01, 0)],  # a small share still trains on the first row
)
def test_train_share_is_a_share_of_the_rows(share: float, train_until: int) -> None:
    assert cut(list(range(10)), train_share=share) == Split(train_until=train_until, until=9)


def test_train_share_counts_rows_and_not_time() -> None:
    assert cut([0, 1, 2, 1_000_000], train_share=0.5).train_until == 1


def test_rows_at_the_moment_of_the_cut_are_all_in_training() -> None:
    times = np.array([0, 5, 5, 5, 5, 9])
    split = Split.of(times, SplitConfig(train_share=0.5))
    assert split == Split(train_until=5, until=9)
    assert (times <= split.train_until).sum() == 5


def test_last_days_is_measured_from_the_last_row() -> None:
    times = [0, 2 * DAY, 3 * DAY, 3 * DAY + 1, 4 * DAY]
    split = cut(times, last_days=1)
    assert split == Split(train_until=3 * DAY, until=4 * DAY)
    assert [time for time in times if time > split.train_until] == [3 * DAY + 1, 4 * DAY]


def test_last_days_may_be_a_fraction_of_a_day() -> None:
    assert cut([0, DAY], last_days=0.25).train_until == DAY * 3 // 4


def test_validation_cuts_the_training_part_again_in_the_same_way() -> None:
    times = [day * DAY for day in range(11)]
    assert cut(times, last_days=2) == Split(train_until=8 * DAY, until=10 * DAY)
    assert cut(times, last_days=2, validation=True) == Split(train_until=6 * DAY, until=8 * DAY)


@pytest.mark.parametrize("config", [{}, {"train_share": 0.8, "last_days": 3.0}])
def test_a_split_needs_exactly_one_kind_of_cut(config: dict[str, float]) -> None:
    with pytest.raises(UserError, match="exactly one of train_share and last_days"):
        cut([0, 1, 2], **config)


@pytest.mark.parametrize("share", [-0.1, 0.0, 1.0, 1.5, float("nan")])
def test_a_share_outside_0_to_1_is_refused(share: float) -> None:
    with pytest.raises(UserError, match=r"train_share is .*; give a finite number, more than 0 and less than 1"):
        cut([0, 1, 2], train_share=share)


@pytest.mark.parametrize(
    ("times", "config"),
    [
        ([0, DAY], {"last_days": 2.0}),  # the cut is before the first row
        ([7, 7, 7], {"train_share": 0.5}),  # all rows at one moment
        ([0, 1], {"train_share": 0.5, "validation": True}),  # one row is left to cut again
        ([0, DAY], {"last_days": 2.0, "validation": True}),  # no row is left to cut again
    ],
)
def test_a_cut_with_an_empty_side_is_refused(times: list[int], config: dict) -> None:
    with pytest.raises(UserError, match="leaves no rows on one side of the cut. Move the cut"):
        cut(times, **config)


times_ascending = st.lists(st.integers(0, 50 * DAY), min_size=2, max_size=60).map(sorted)
configs = st.one_of(
    st.builds(SplitConfig, train_share=st.floats(0.01, 0.99), validation=st.booleans()),
    st.builds(SplitConfig, last_days=st.floats(0.01, 40), validation=st.booleans()),
)


@given(times_ascending, configs)
def test_both_sides_have_rows_and_no_training_row_is_after_the_cut(times: list[int], config: SplitConfig) -> None:
    rows = np.array(times, dtype=np.int64)
    try:
        split = Split.of(rows, config)
    except UserError:
        assume(False)
    training = rows[rows <= split.train_until]
    benchmark = rows[(rows > split.train_until) & (rows <= split.until)]
    assert len(training) > 0
    assert len(benchmark) > 0
    assert training.max() < benchmark.min()


@settings(deadline=None, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow])
@given(times_ascending, configs)
def test_validation_reads_no_row_of_the_benchmark(times: list[int], config: SplitConfig) -> None:
    rows = np.array(times, dtype=np.int64)
    cut_of = {"train_share": config.train_share, "last_days": config.last_days}
    try:
        final = Split.of(rows, SplitConfig(**cut_of))
        tuning = Split.of(rows, SplitConfig(**cut_of, validation=True))
    except UserError:
        assume(False)
    assert tuning.train_until < tuning.until == final.train_until < final.until


def test_the_hash_of_a_member_never_changes() -> None:
    assert member_hash("m1") == 0xCA0DF2C95AA144C1D0FF2FF3C8F967FDC1DE9EF0C4120B3726416701B519D619


@given(st.text(max_size=20), st.lists(st.floats(0, 1, exclude_min=True, exclude_max=True), max_size=6, unique=True))
def test_consecutive_parts_are_disjoint_and_cover_every_member(member: str, bounds: list[float]) -> None:
    limits = [0.0, *sorted(bounds), 1.0]
    assert sum(is_in_part(member, part) for part in pairwise(limits)) == 1
    assert is_in_part(member, EVERYONE)


def test_the_bounds_of_a_part_are_half_open() -> None:
    place = (member_hash("m1") >> 203) / 2**53
    assert is_in_part("m1", (place, 1.0))
    assert not is_in_part("m1", (0.0, place))


def test_a_part_holds_about_its_share_of_the_members() -> None:
    share = sum(is_in_part(f"member-{i}", (0.0, 0.05)) for i in range(20_000)) / 20_000
    assert share == pytest.approx(0.05, abs=0.006)  # four standard deviations


def test_validation_cuts_inside_the_training_part() -> None:
    times = np.arange(100)
    assert Split.of(times, SplitConfig(train_share=0.8)) == Split(train_until=79, until=99)
    assert Split.of(times, SplitConfig(train_share=0.8, validation=True)) == Split(train_until=63, until=79)
    with pytest.raises(UserError, match="exactly one of train_share and last_days"):
        Split.of(times, SplitConfig())
    with pytest.raises(UserError, match="leaves no rows on one side"):
        Split.of(times, SplitConfig(last_days=400))


def test_the_gap_before_the_benchmark_is_in_neither_part() -> None:
    times = [day * DAY for day in range(11)]
    split = cut(times, last_days=2, gap_days=3)
    assert split == Split(train_until=5 * DAY, until=10 * DAY, gap=3 * DAY)
    assert split.benchmark_after == 8 * DAY
    tuning = cut(times, last_days=1, gap_days=2, validation=True)
    assert tuning == Split(train_until=4 * DAY, until=7 * DAY, gap=2 * DAY)
    assert cut(times, train_share=0.5, gap_days=1) == Split(train_until=4 * DAY, until=10 * DAY, gap=DAY)
    with pytest.raises(UserError, match="leaves no rows on one side"):
        cut(times, last_days=2, gap_days=8.5)


@given(times_ascending, st.floats(0, 60), st.floats(0.01, 0.99), st.booleans())
def test_a_gap_moves_the_end_of_training_only(
    times: list[int], gap_days: float, share: float, validation: bool
) -> None:
    rows = np.array(times, dtype=np.int64)
    try:
        split = Split.of(rows, SplitConfig(train_share=share, gap_days=gap_days, validation=validation))
    except UserError:
        assume(False)
    assert split.benchmark_after - split.train_until == split.gap >= 0
    assert (rows <= split.train_until).any()
    assert ((rows > split.benchmark_after) & (rows <= split.until)).any()


@given(st.lists(st.text(max_size=9), max_size=20), st.floats(0, 1), st.floats(0, 1))
def test_many_members_are_hashed_as_one_is(members: list[str], low: float, high: float) -> None:
    hashes = hash_ids(members)
    assert hashes.dtype == np.uint64
    assert hashes.tolist() == [member_hash(member) >> 192 for member in members]
    assert are_in_part(hashes, (low, high)).tolist() == [is_in_part(member, (low, high)) for member in members]
