"""Admission control of one engine: a pure policy over predicted work in tokens, and the controller that applies it.

The work of a request is its prompt tokens: the shared prefix once, and the tokens of each candidate. With O tokens
outstanding and R tokens per second, a request of W tokens waits O/R seconds and finishes after (O + W)/R seconds. It is
refused if O + W exceeds the limit, or if it would miss its deadline and a later attempt would not. A request that is
too large for its deadline even on an idle service can only be answered in part. Waiting may then take at most a fifth
of its time, so that the partial answer is worth its cost.

A request is admitted in two steps, because its exact work is known only once its prompts are compiled. Before that,
`reserve` decides by a lower bound, so it refuses only what the exact number would also exceed. Afterwards, `admit`
decides by the exact number.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from brew_platform.errors import UserError
from brew_platform.settings import PositiveFloat, PositiveInt, Seconds, Settings
from brew_serve.errors import Overloaded
from brew_serve.metrics import Meters

__all__ = [
    "AdmissionConfig",
    "AdmissionController",
    "Admit",
    "AdmittedWork",
    "Decision",
    "Load",
    "Refuse",
    "TokenRate",
    "TooLarge",
    "Work",
    "decide",
]

_LEAST_SHARE = 0.8  # of its time that a request too large for its deadline must still get
_WINDOW_SECONDS = 0.25  # busy time per rate sample: candidates finish in bursts, one burst per engine step


@dataclass(frozen=True, kw_only=True)
class AdmissionConfig(Settings):
    """How much work a replica accepts."""

    max_outstanding_tokens: PositiveInt = 400_000  # of all requests in it; 1,000 candidates of 64 tokens are 64,000
    tokens_per_second: PositiveFloat = 10_000.0  # initial estimate; the demo's model reaches about as many on two cores
    rate_memory_seconds: Seconds = 10.0  # of busy time after which a measurement has a weight of about a third
    saturating_tokens: PositiveInt = 4_096  # outstanding tokens from which a slow sample lowers the estimate


@dataclass(frozen=True, kw_only=True)
class Load:
    """The work that the replica has already accepted."""

    outstanding_tokens: int
    tokens_per_second: float


@dataclass(frozen=True, kw_only=True)
class Work:
    """The work of a request; `seconds_left` until its deadline, None without a deadline."""

    tokens: int
    seconds_left: float | None = None


@dataclass(frozen=True, kw_only=True)
class Admit:
    """Accept the request; `seconds` is the predicted time until it finishes."""

    seconds: float


@dataclass(frozen=True, kw_only=True)
class Refuse:
    """Refuse the request now; after `retry_after` seconds without further requests it would be admitted."""

    reason: str  # limit or deadline
    retry_after: float


@dataclass(frozen=True, kw_only=True)
class TooLarge:
    """Refuse the request permanently: it exceeds the limit by itself."""

    limit: int


Decision = Admit | Refuse | TooLarge


def decide(load: Load, work: Work, config: AdmissionConfig) -> Decision:
    """Decide about a request. An idle service admits every request within the limit."""
    if work.tokens > config.max_outstanding_tokens:
        return TooLarge(limit=config.max_outstanding_tokens)
    rate = load.tokens_per_second
    wait, own = load.outstanding_tokens / rate, work.tokens / rate
    excess = (load.outstanding_tokens + work.tokens - config.max_outstanding_tokens) / rate
    late = 0.0
    if work.seconds_left is not None:
        late = wait - (work.seconds_left - min(own, _LEAST_SHARE * work.seconds_left))
    if max(excess, late) > 0:
        return Refuse(reason="limit" if excess > 0 else "deadline", retry_after=max(excess, late))
    return Admit(seconds=wait + own)


class TokenRate:
    """A running estimate of the tokens of work per second that the saturated engine finishes.

    An engine with little work finishes few tokens a second. Such a sample does not show the engine's capacity, so it
    can only raise the estimate. A sample of a busy engine moves the estimate both ways.

    Args:
        config: The initial estimate, and how fast the estimate follows the samples.
    """

    def __init__(self, config: AdmissionConfig) -> None:
        self.per_second = config.tokens_per_second
        self._config = config

    def observe(self, *, tokens: int, seconds: float, outstanding: int) -> None:
        """Add a sample: `tokens` finished in `seconds` of busy time that began with `outstanding` tokens to do."""
        if tokens <= 0 or seconds <= 0:
            return
        sample = tokens / seconds
        if sample > self.per_second or outstanding >= self._config.saturating_tokens:
            weight = 1 - math.exp(-seconds / self._config.rate_memory_seconds)
            self.per_second += weight * (sample - self.per_second)


class AdmittedWork:
    """Work that was admitted and is not finished; its owner reports progress with `finish`."""

    def __init__(self, controller: "AdmissionController", tokens: int) -> None:
        self._controller, self._left = controller, tokens

    def finish(self, tokens: int) -> None:
        """Report that `tokens` of the work are finished."""
        tokens = min(tokens, self._left)
        self._left -= tokens
        self._controller._release(tokens, finished=True)

    def _cancel(self) -> None:
        self._controller._release(self._left, finished=False)
        self._left = 0


class AdmissionController:
    """Admits work to one engine, and counts the tokens that are outstanding.

    Args:
        config: Of the policy.
        meters: Record the queue and the refusals.
        clock: Seconds.
    """

    def __init__(self, config: AdmissionConfig, meters: Meters, clock: Callable[[], float] = time.perf_counter) -> None:
        self.outstanding_tokens = 0
        self._config, self._meters, self._clock = config, meters, clock
        self._rate = TokenRate(config)
        self._requests, self._reserved_tokens = 0, 0
        self._window_start, self._window_tokens, self._window_outstanding = 0.0, 0, 0
        self._report()

    @contextmanager
    def reserve(self, tokens: int, deadline: float | None = None) -> Iterator[None]:
        """Hold tokens for a request while its prompts are compiled in the block; `admit` follows the block.

        Args:
            tokens: A lower bound of its work.
            deadline: Seconds on the clock; None without a deadline.

        Raises:
            Overloaded: The service has no capacity now.
            UserError: The request exceeds the limit on its own.
        """
        self._require_capacity(tokens, deadline, "at least ")
        self._reserved_tokens += tokens
        try:
            yield
        finally:
            self._reserved_tokens -= tokens

    @contextmanager
    def admit(self, tokens: int, deadline: float | None = None) -> Iterator[AdmittedWork]:
        """Count the work as outstanding inside the block; at its end, release what is not finished.

        Args:
            tokens: Predicted work.
            deadline: Seconds on the clock; None without a deadline.

        Raises:
            Overloaded: The service has no capacity now.
            UserError: The request exceeds the limit on its own.
        """
        now = self._require_capacity(tokens, deadline)
        if not self.outstanding_tokens:
            self._open_window(now, tokens)
        self.outstanding_tokens += tokens
        self._requests += 1
        self._report()
        admitted = AdmittedWork(self, tokens)
        try:
            yield admitted
        finally:
            self._requests -= 1
            admitted._cancel()

    def _require_capacity(self, tokens: int, deadline: float | None, bound: str = "") -> float:
        """Raise an error if the work is refused; otherwise return the time. `bound` precedes the number of tokens."""
        now = self._clock()
        load = Load(
            outstanding_tokens=self.outstanding_tokens + self._reserved_tokens,
            tokens_per_second=self._rate.per_second,
        )
        work = Work(tokens=tokens, seconds_left=None if deadline is None else deadline - now)
        match decide(load, work, self._config):
            case TooLarge(limit=limit):
                raise UserError(
                    f"this request needs {bound}{tokens} tokens of work, but the service takes {limit} at a time; send "
                    f"fewer candidates or items per request."
                )
            case Refuse(reason=reason, retry_after=retry_after):
                self._meters.shed.labels(reason).inc()
                why = "has no capacity for it" if reason == "limit" else "could not answer it within its deadline"
                raise Overloaded(f"the service is busy and {why}; try again in {retry_after:.1f} s.", retry_after)
            case Admit():
                return now

    def _release(self, tokens: int, *, finished: bool) -> None:
        now = self._clock()
        self.outstanding_tokens -= tokens
        self._window_tokens += tokens if finished else 0
        seconds = now - self._window_start
        if seconds >= _WINDOW_SECONDS or not self.outstanding_tokens:
            self._rate.observe(tokens=self._window_tokens, seconds=seconds, outstanding=self._window_outstanding)
            self._open_window(now, self.outstanding_tokens)
        self._report()

    def _open_window(self, now: float, outstanding: int) -> None:
        self._window_start, self._window_tokens, self._window_outstanding = now, 0, outstanding

    def _report(self) -> None:
        self._meters.outstanding_tokens.set(self.outstanding_tokens)
        self._meters.outstanding_requests.set(self._requests)
        self._meters.tokens_per_second.set(self._rate.per_second)
