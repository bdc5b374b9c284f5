"""Which requests are taken in: a pure policy over predicted work in tokens, and the measured token rate it needs.

A request's work is its prompt tokens: what its candidates share, once, and what each has for itself. With O tokens
outstanding and R tokens per second, a request of W tokens waits O/R before it is begun and is finished after
(O + W)/R. It is refused where O + W would exceed the limit, or where it would miss its deadline and coming back later
would mend that. A request too large for its deadline even on an idle service can only be answered in part; waiting
may then take at most a fifth of its time, so that the part is worth its price.

Owns: `decide` and `TokenRate`. Does not own: the counters, and what is done about a decision (`gate`). Time comes in
as an argument.
"""

import math
from dataclasses import dataclass

from brew_platform.errors import ConfigError

__all__ = ["AdmissionConfig", "Admit", "Decision", "Load", "Refuse", "TokenRate", "TooLarge", "Work", "decide"]

_LEAST_SHARE = 0.8  # of its time that a request too large for its deadline must still get


@dataclass(frozen=True, kw_only=True)
class AdmissionConfig:
    """How much work a replica takes in."""

    max_outstanding_tokens: int = 400_000  # of all requests in it; 1,000 candidates of 64 tokens are 64,000
    tokens_per_second: float = 10_000.0  # believed at the start; the demo's model on two cores does about as many
    rate_memory_seconds: float = 10.0  # of busy time after which a measurement counts a third
    saturating_tokens: int = 4_096  # outstanding from which on the engine is busy enough for a slow sample to count

    def __post_init__(self) -> None:
        for name in ("max_outstanding_tokens", "tokens_per_second", "rate_memory_seconds", "saturating_tokens"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"admission.{name} is {getattr(self, name)}; give a number greater than 0.")


@dataclass(frozen=True, kw_only=True)
class Load:
    """What the replica has to do already."""

    outstanding_tokens: int
    tokens_per_second: float


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a request asks for; `seconds_left` until its deadline, None where it has none."""

    tokens: int
    seconds_left: float | None = None


@dataclass(frozen=True, kw_only=True)
class Admit:
    """Take it; `seconds` is when it is predicted to be finished."""

    seconds: float


@dataclass(frozen=True, kw_only=True)
class Refuse:
    """Not now; after `retry_after` seconds without further requests it would be admitted."""

    reason: str  # limit or deadline
    retry_after: float


@dataclass(frozen=True, kw_only=True)
class TooLarge:
    """Never: the request alone exceeds the limit."""

    limit: int


Decision = Admit | Refuse | TooLarge


def decide(load: Load, work: Work, config: AdmissionConfig) -> Decision:
    """What to do with a request; an idle service refuses none that is within the limit."""
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
    """Tokens of work per second that the engine gets done when it has enough to do: a running estimate.

    An engine with little to do finishes few tokens a second for want of more. Such a sample says nothing about what
    the engine could do, so it only ever raises the estimate; a sample of a busy engine moves it both ways.

    Args:
        config: the first estimate, and how fast it follows.
    """

    def __init__(self, config: AdmissionConfig) -> None:
        self.per_second = config.tokens_per_second
        self._config = config

    def observe(self, *, tokens: int, seconds: float, outstanding: int) -> None:
        """One sample: `tokens` finished in `seconds` of busy time that began with `outstanding` tokens to do."""
        if tokens <= 0 or seconds <= 0:
            return
        sample = tokens / seconds
        if sample > self.per_second or outstanding >= self._config.saturating_tokens:
            weight = 1 - math.exp(-seconds / self._config.rate_memory_seconds)
            self.per_second += weight * (sample - self.per_second)
