"""Reads the bins of coming steps in a background thread."""

import logging
import threading
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from brew_platform.errors import BrewError
from brew_train.inputs.batches import Bin
from brew_train.inputs.bin_reader import BinReader

__all__ = ["Prefetcher"]

logger = logging.getLogger(__name__)
CLOSE_SECONDS = 5.0  # that `close` waits for a read in progress


@dataclass(eq=False, kw_only=True)
class _Step:
    """The bins of one step of this worker."""

    unread: set[int] = field(default_factory=set)  # ids
    bins: dict[int, Bin] = field(default_factory=dict)
    bytes: int = 0  # of `bins`


class Prefetcher:
    """The bins of one step after another, which a thread reads before they are needed.

    The thread keeps at most `limit_bytes` of bins, but always reads those of the current and the next step. A bin that
    it cannot read is read again by `__getitem__`, which raises the error in the step that needs the bin.

    Args:
        bins: all bins; may be used by other threads.
        steps: ids of the bins of each coming step of this worker, in the order in which they are needed.
        limit_bytes: of the bins that are kept.
    """

    def __init__(self, bins: BinReader, steps: Iterable[Sequence[int]], *, limit_bytes: int) -> None:
        self._bins, self._limit = bins, limit_bytes
        self._changed = threading.Condition()  # guards the fields below
        self._steps: deque[_Step] = deque()  # the current step is the first
        self._bytes = 0
        self._closed = False
        self._ended = False  # the thread reads no more bins
        self._thread = threading.Thread(target=self._run, args=(steps,), name="bin-prefetcher", daemon=True)
        self._thread.start()

    def __getitem__(self, bin_id: int) -> Bin:
        """Returns a bin; waits for the thread if it is one of the current step.

        Raises:
            DataError, StorageError: as `BinReader.__getitem__`.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._steps or self._ended)
            step = self._steps[0] if self._steps else _Step()
            self._changed.wait_for(lambda: bin_id not in step.unread or self._ended)
            found = step.bins.get(bin_id)
        return self._bins[bin_id] if found is None else found

    def advance(self) -> None:
        """Makes the next step the current one, and forgets the bins of this one."""
        with self._changed:
            self._changed.wait_for(lambda: (self._steps and not self._steps[0].unread) or self._ended)
            if self._steps:
                self._bytes -= self._steps.popleft().bytes
            self._changed.notify_all()

    def close(self) -> None:
        """Stops the thread; a read from S3 that is in progress may outlive this call by seconds."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join(CLOSE_SECONDS)

    def _run(self, steps: Iterable[Sequence[int]]) -> None:
        try:
            for bin_ids in steps:
                step = _Step(unread=set(bin_ids))
                with self._changed:
                    self._steps.append(step)
                    self._changed.notify_all()
                if not self._wait_for_space():
                    return
                self._bins.fetch(bin_ids)
                for bin_id in dict.fromkeys(bin_ids):
                    if not self._wait_for_space():
                        return
                    self._read(bin_id, step)
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _wait_for_space(self) -> bool:
        """Waits until another bin may be read; returns False after `close`."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or len(self._steps) <= 2 or self._bytes < self._limit)
            return not self._closed

    def _read(self, bin_id: int, step: _Step) -> None:
        read: Bin | None = None
        try:
            read = self._bins[bin_id].copy()  # without its row group
        except BrewError as error:
            logger.warning("bin %d could not be read ahead, and is read again when it is needed: %s", bin_id, error)
        with self._changed:
            step.unread.discard(bin_id)
            if read is not None:
                step.bins[bin_id] = read
                step.bytes += read.nbytes
                self._bytes += read.nbytes
            self._changed.notify_all()
