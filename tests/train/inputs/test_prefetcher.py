"""Bins are read ahead in their order within the limit of memory, and errors surface in the step that needs the bin."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brew_platform.errors import DataError
from brew_train.inputs.batches import Bin
from brew_train.inputs.prefetcher import Prefetcher

TOKENS = 10
SIZE = TOKENS * (4 + 1) + 4  # bytes of a bin


class Bins:
    """Bins of ten tokens, each its id. Records the reads; those of a thread stop at a bin in `faults`."""

    def __init__(self, faults: dict[int, int] | None = None) -> None:
        self.faults = faults or {}  # id -> how many reads fail
        self.read: list[int] = []
        self.lock = threading.Lock()

    def fetch(self, bin_ids: list[int]) -> None:
        pass

    def __getitem__(self, bin_id: int) -> Bin:
        with self.lock:
            self.read.append(bin_id)
            if self.faults.get(bin_id, 0):
                self.faults[bin_id] -= 1
                raise DataError(f"bin {bin_id} is damaged")
        return Bin(
            input_ids=np.full(TOKENS, bin_id, np.int32),
            doc_lengths=np.array([TOKENS], np.int32),
            roles=np.zeros(TOKENS, np.uint8),
        )


@contextmanager
def prefetching(bins: Bins, steps: list[list[int]], limit_bytes: int = 10**6) -> Iterator[Prefetcher]:
    prefetcher = Prefetcher(bins, steps, limit_bytes=limit_bytes)  # type: ignore[arg-type]
    try:
        yield prefetcher
    finally:
        prefetcher.close()
        assert not prefetcher._thread.is_alive()


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "the condition was never met"
        time.sleep(0.001)


def take(prefetcher: Prefetcher, bin_ids: list[int]) -> None:
    for bin_id in bin_ids:
        assert prefetcher[bin_id].input_ids.tolist() == [bin_id] * TOKENS


def test_coming_steps_are_read_before_they_are_needed() -> None:
    bins, steps = Bins(), [[3, 1], [2, 0], [4, 5]]
    with prefetching(bins, steps) as prefetcher:
        wait_until(lambda: len(bins.read) == 6)
        for step in steps:
            take(prefetcher, step)
            take(prefetcher, step)  # a skipped step looks at its bins again
            prefetcher.advance()
    assert bins.read == [3, 1, 2, 0, 4, 5]


@pytest.mark.parametrize(("limit", "ahead"), [(0, 4), (4 * SIZE, 4), (4 * SIZE + 1, 5), (7 * SIZE, 7)])
def test_memory_is_limited_and_the_next_step_is_always_read(limit: int, ahead: int) -> None:
    bins, steps = Bins(), [[2 * i, 2 * i + 1] for i in range(8)]
    with prefetching(bins, steps, limit) as prefetcher:
        wait_until(lambda: len(bins.read) == ahead)
        time.sleep(0.02)
        assert len(bins.read) == ahead
        take(prefetcher, steps[0])
        prefetcher.advance()
        wait_until(lambda: len(bins.read) == ahead + 2)
        assert bins.read == list(range(ahead + 2))


def test_an_error_surfaces_in_the_step_that_needs_the_bin() -> None:
    bins = Bins({2: 9})
    with prefetching(bins, [[0, 1], [2, 3], [4]]) as prefetcher:
        wait_until(lambda: len(bins.read) == 5)
        take(prefetcher, [0, 1])
        prefetcher.advance()
        with pytest.raises(DataError, match="bin 2 is damaged"):
            prefetcher[2]
        take(prefetcher, [3])


def test_a_bin_is_read_again_after_a_passing_fault() -> None:
    bins = Bins({1: 1})
    with prefetching(bins, [[0], [1], [2]]) as prefetcher:
        for bin_id in range(3):
            take(prefetcher, [bin_id])
            prefetcher.advance()
    assert sorted(bins.read) == [0, 1, 1, 2]


def test_bins_of_no_step_and_those_after_the_last_step_are_read_at_once() -> None:
    bins = Bins()
    with prefetching(bins, [[0, 0, 1]]) as prefetcher:
        take(prefetcher, [7, 0, 1])
        prefetcher.advance()
        take(prefetcher, [0])
        prefetcher.advance()
    assert sorted(bins.read) == [0, 0, 1, 7]


def test_a_fault_of_the_program_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[type[BaseException]] = []
    monkeypatch.setattr(threading, "excepthook", lambda arguments: seen.append(arguments.exc_type))

    def copy(self: Bin) -> Bin:
        raise RuntimeError("a fault")

    monkeypatch.setattr(Bin, "copy", copy)
    with prefetching(Bins(), [[0], [1]]) as prefetcher:
        take(prefetcher, [0])  # without the thread
        prefetcher.advance()
    assert seen == [RuntimeError]


def test_closing_stops_a_thread_that_waits_for_room() -> None:
    bins = Bins()
    with prefetching(bins, [[i] for i in range(100)], limit_bytes=SIZE):
        wait_until(lambda: len(bins.read) == 2)
    assert bins.read == [0, 1]


@settings(max_examples=30)
@given(
    steps=st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=4), min_size=1, max_size=12),
    limit=st.integers(0, 12 * SIZE),
)
def test_every_step_gets_its_bins_within_the_limit(steps: list[list[int]], limit: int) -> None:
    with prefetching(Bins(), steps, limit) as prefetcher:
        for i, step in enumerate(steps):
            take(prefetcher, step)
            two_steps = sum(len(set(ids)) for ids in steps[i : i + 2]) * SIZE
            assert prefetcher._bytes <= max(limit - 1 + SIZE, two_steps)
            prefetcher.advance()
        assert prefetcher._bytes == 0
