"""Quotas of teams: requests per second and tokens per minute, counted in token buckets.

`Quotas` is what a gateway uses. `LocalQuotas` counts in the process, for a service with one gateway;
`shared_quota.RedisQuotas` counts in a Redis, for all gateways together.

The tokens of a request are known only once its prompts are compiled. `TokenPredictor` therefore predicts them from the
size of its body, `Quotas.charge` charges the prediction, and the function that it returns corrects the charge when the
response is there. In the long run exactly the tokens used are charged.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from brew_platform.identity.keys import Team
from brew_serve.errors import QuotaExceeded

__all__ = ["Bucket", "LocalQuotas", "Quotas", "Settle", "TokenPredictor", "quota_exceeded"]

_BYTES_PER_TOKEN = 4.0  # of a body, until a request of the route was answered
_OLDER_WEIGHT = 0.8  # of all earlier requests beside the newest one in a prediction

Settle = Callable[[int], None]  # replaces the charge of a request by the tokens it used; 0 if it was not admitted


class Quotas(Protocol):
    """The quotas of all teams, as one gateway uses them."""

    @property
    def problem(self) -> str:
        """Why the quotas are not counted together with other gateways now; empty if nothing is wrong."""

    def check(self, team: Team) -> None:
        """Refuse a request whose team exceeds its rate, before the body is read; `charge` follows for the others.

        Raises:
            QuotaExceeded: The team exceeds its request rate.
        """

    async def charge(self, team: Team, tokens: int) -> Settle:
        """Count a request, and charge its predicted tokens.

        Args:
            team: Its limits are used.
            tokens: Predicted; 0 for a request that needs no engine.

        Returns:
            A function to call with the tokens used. It neither waits nor fails.

        Raises:
            QuotaExceeded: The team exceeds its request rate, or has used up its tokens.
        """

    async def open(self) -> None:
        """Begin to connect; called before the first request, and not by tests that need no connection."""

    async def close(self) -> None:
        """Release connections."""


class Bucket:
    """A token bucket that fills at `per_second` up to `capacity`, and starts full.

    Args:
        per_second: Fill rate, more than 0.
        capacity: Largest level.
        now: Seconds.
    """

    def __init__(self, *, per_second: float, capacity: float, now: float) -> None:
        self.per_second, self.capacity = per_second, capacity
        self._level, self._since = capacity, now

    def take(self, amount: float, now: float) -> float:
        """Take `amount` and return 0, or take nothing and return the seconds until that much is available.

        An amount above the capacity is taken from a full bucket, whose level is then negative. A large request is thus
        delayed like many small ones, and is not refused for ever.
        """
        self._level = min(self.capacity, self._level + max(0.0, now - self._since) * self.per_second)
        self._since = max(now, self._since)
        missing = min(amount, self.capacity) - self._level
        if missing > 1e-9 * self.capacity:  # tolerates rounding: a retry after the returned seconds must succeed
            return missing / self.per_second
        self._level -= amount
        return 0.0

    def give_back(self, amount: float) -> None:
        """Correct an earlier `take`; a negative amount takes more, and the level may become negative."""
        self._level = min(self.capacity, self._level + amount)


@dataclass
class _Sums:
    tokens: float = 0.0
    size: float = 0.0


class TokenPredictor:
    """Predicts the tokens of one team's requests from their bytes: a running ratio for each route."""

    def __init__(self) -> None:
        self._sums: dict[str, _Sums] = {}

    def predict(self, route: str, size: int) -> int:
        """Return the predicted tokens, at least 1, of a request with a body of `size` bytes."""
        sums = self._sums.get(route)
        ratio = sums.tokens / sums.size if sums else 1 / _BYTES_PER_TOKEN
        return max(1, round(ratio * size))

    def observe(self, route: str, size: int, tokens: int) -> None:
        """Add a request that was answered and took `tokens`."""
        if size > 0 and tokens > 0:
            sums = self._sums.setdefault(route, _Sums())
            sums.tokens = _OLDER_WEIGHT * sums.tokens + tokens
            sums.size = _OLDER_WEIGHT * sums.size + size


class LocalQuotas:
    """Quotas that are counted in this process.

    Args:
        clock: Seconds.
        share: The part of each limit that this process grants, above 0 and at most 1.
    """

    problem = ""

    def __init__(self, clock: Callable[[], float], *, share: float = 1.0) -> None:
        self._clock, self._share = clock, share
        self._teams: dict[str, _TeamBuckets] = {}

    def check(self, team: Team) -> None:
        bucket = self._buckets(team).requests
        if bucket and (seconds := bucket.take(1, self._clock())):
            raise quota_exceeded(team, "rate", seconds)

    async def charge(self, team: Team, tokens: int) -> Settle:
        bucket = self._buckets(team).tokens
        if bucket is None or tokens == 0:
            return lambda used: None
        if seconds := bucket.take(tokens, self._clock()):
            raise quota_exceeded(team, "quota", seconds)
        return lambda used: bucket.give_back(tokens - used)

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    def _buckets(self, team: Team) -> "_TeamBuckets":
        limits = (team.requests_per_second, team.tokens_per_minute)
        known = self._teams.get(team.name)
        if known is not None and known.limits == limits:
            return known
        now = self._clock()
        buckets = _TeamBuckets(limits=limits)  # of a new team, or of one whose limits have changed
        if team.requests_per_second is not None:
            rate = team.requests_per_second * self._share
            buckets.requests = Bucket(per_second=rate, capacity=max(1.0, rate), now=now)
        if team.tokens_per_minute is not None:
            tokens = team.tokens_per_minute * self._share
            buckets.tokens = Bucket(per_second=tokens / 60, capacity=tokens, now=now)
        self._teams[team.name] = buckets
        return buckets


@dataclass(kw_only=True)
class _TeamBuckets:
    limits: tuple[float | None, int | None]
    requests: Bucket | None = None
    tokens: Bucket | None = None


def quota_exceeded(team: Team, limit: Literal["rate", "quota"], seconds: float) -> QuotaExceeded:
    """Return the error of a team that must wait `seconds` because of its request rate or its token quota."""
    if limit == "rate":
        sentence = f"team {team.name} may send {team.requests_per_second:g} requests a second; wait {seconds:.1f} s, "
        return QuotaExceeded(f"{sentence}or ask the operators for more.", seconds, limit=limit)
    return QuotaExceeded(
        f"team {team.name} may use {team.tokens_per_minute} tokens a minute and has used them; wait {seconds:.1f} s, "
        f"send fewer candidates, or ask the operators for more.",
        seconds,
        limit=limit,
    )
