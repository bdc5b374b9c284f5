"""Finds the requests of a part that end their engine, so that the others are scored.

The requests of a part are scored in passes. A pass whose engine or process ended is repeated as two halves, until one
request is alone. A request that is alone and has failed often enough is abandoned: it gets an error in place of scores.

The passes of a part are recorded in a file before they begin. They survive the process that scores the part, so a
request that kills it is found, too.
"""

import json
from collections.abc import Iterator
from dataclasses import astuple, dataclass
from pathlib import Path

from brew_platform.errors import BrewError
from brew_platform.files import replace_atomically

__all__ = ["ABANDONED", "Attempts", "Segment"]

ABANDONED = "the engine ended in each of the"  # begins the error of an abandoned request
_PATIENCE = 8  # further failures in a row than one request can cause: they have another cause


@dataclass(frozen=True)
class Segment:
    """Consecutive requests of a part that are scored in one pass.

    Args:
        start: Index of the first request.
        stop: Index after the last one.
        failures: Passes with these requests that ended the engine.
        alone: Whether the last of these passes had one request only.
    """

    start: int
    stop: int
    failures: int = 0
    alone: bool = False

    def after_failure(self) -> "list[Segment]":
        """Return the segments to score in its place, after its pass ended the engine."""
        failures = self.failures + 1
        if self.stop - self.start == 1:
            return [Segment(self.start, self.stop, failures, alone=True)]
        middle = (self.start + self.stop) // 2
        return [Segment(self.start, middle, failures), Segment(middle, self.stop, failures)]


class Attempts:
    """The passes of one part. Iterate over it to get the segments to score, and call `fail` if a pass fails.

    Args:
        path: File that records the passes; `finish` removes it.
        requests: Number of requests of the part.
        most_attempts: Failures after which a request that is alone in its pass is abandoned.

    Raises:
        BrewError: So many passes failed in a row that the requests are not the cause.
    """

    def __init__(self, path: Path, requests: int, most_attempts: int) -> None:
        self._path, self._requests, self._most = path, requests, most_attempts
        self._segments = [Segment(0, requests)] if requests else []
        self._current: int | None = None  # index of the segment whose pass runs
        self._row = 0  # failures without a successful pass between them
        self._read()

    def __iter__(self) -> Iterator[Segment]:
        """Yield the segments that are not abandoned. A pass that is not followed by `fail` has succeeded."""
        at = 0
        while at < len(self._segments):
            if self._is_abandoned(self._segments[at]):
                at += 1
                continue
            self._current = at
            self._write()
            yield self._segments[at]
            if self._current is not None:
                at, self._current, self._row = at + 1, None, 0

    def fail(self, reason: str) -> None:
        """Record that the pass of the last segment ended the engine.

        Args:
            reason: Its last error.

        Raises:
            BrewError: So many passes failed in a row that the requests are not the cause.
        """
        assert self._current is not None
        self._segments[self._current : self._current + 1] = self._segments[self._current].after_failure()
        self._current, self._row = None, self._row + 1
        if self._row > self._requests.bit_length() + self._most + _PATIENCE:
            self.finish()
            raise BrewError(
                f"the engine ended {self._row} times in a row, whatever it was given. The last reason: {reason} Fix "
                f"it, for example with more memory or a smaller batch.in_flight, and run the same command again."
            )
        self._write()

    def abandoned(self) -> dict[int, str]:
        """Return the errors of the abandoned requests, by their index."""
        return {
            segment.start: f"{ABANDONED} {segment.failures} passes that had this request, in the last one alone. "
            f"Shorten it, or use a machine with more memory; delete this file, and run again to score it."
            for segment in self._segments
            if self._is_abandoned(segment)
        }

    def finish(self) -> None:
        """Remove the file: the part is written."""
        self._path.unlink(missing_ok=True)

    def _is_abandoned(self, segment: Segment) -> bool:
        return segment.alone and segment.failures >= self._most

    def _read(self) -> None:
        try:
            record = json.loads(self._path.read_text())
            segments = [Segment(*values) for values in record["segments"]]
            current, row = record["current"], record["row"]
        except FileNotFoundError:
            return
        except (ValueError, TypeError, KeyError):  # damaged: the part is begun again
            return
        if not segments or segments[-1].stop != self._requests:  # of other requests
            return
        self._segments, self._current, self._row = segments, current, row
        if current is not None:
            self.fail("the process that ran it was killed.")

    def _write(self) -> None:
        record = {"segments": [astuple(segment) for segment in self._segments], "current": self._current}
        self._path.parent.mkdir(exist_ok=True)
        replace_atomically(self._path, json.dumps(record | {"row": self._row}))
