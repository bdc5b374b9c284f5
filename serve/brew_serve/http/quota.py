"""Quotas of a team: token buckets for requests per second and for tokens per minute, and the prediction of tokens.

Time is an argument. The buckets live in one gateway: with N gateways behind one address a team gets up to N times its
limits.

The tokens of a request are known only once its prompts are compiled. `TokenPredictor` therefore predicts them from the
size of its body, `TeamQuota.charge` charges the prediction, and `settle` corrects the charge when the response is
there. In the long run exactly the tokens used are charged.
"""

from dataclasses import dataclass

from brew_platform.identity.keys import Team
from brew_serve.errors import QuotaExceeded

__all__ = ["Bucket", "TeamQuota", "TokenPredictor"]

_BYTES_PER_TOKEN = 4.0  # of a body, until a request of the route was answered
_OLDER_WEIGHT = 0.8  # of all earlier requests beside the newest one in a prediction


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


class TeamQuota:
    """The buckets of one team.

    Args:
        team: With its limits; None is unlimited.
        now: Seconds.
    """

    def __init__(self, team: Team, now: float) -> None:
        self.team = team
        rate, tokens = team.requests_per_second, team.tokens_per_minute
        self._requests = None if rate is None else Bucket(per_second=rate, capacity=max(1.0, rate), now=now)
        self._tokens = None if tokens is None else Bucket(per_second=tokens / 60, capacity=tokens, now=now)

    def count_request(self, now: float) -> None:
        """Count one request.

        Raises:
            QuotaExceeded: The team exceeds its request rate.
        """
        if self._requests and (seconds := self._requests.take(1, now)):
            raise QuotaExceeded(
                f"team {self.team.name} may send {self.team.requests_per_second:g} requests a second; wait "
                f"{seconds:.1f} s, or ask the operators for more.",
                seconds,
            )

    def charge(self, predicted: int, now: float) -> None:
        """Charge the predicted tokens of a request; `settle` must follow.

        Raises:
            QuotaExceeded: The team has used up its tokens.
        """
        if self._tokens and (seconds := self._tokens.take(predicted, now)):
            raise QuotaExceeded(
                f"team {self.team.name} may use {self.team.tokens_per_minute} tokens a minute and has used them; wait "
                f"{seconds:.1f} s, send fewer candidates, or ask the operators for more.",
                seconds,
            )

    def settle(self, predicted: int, tokens: int) -> None:
        """Replace the charge of `charge` by the tokens used; 0 tokens stand for a request that was not admitted."""
        if self._tokens:
            self._tokens.give_back(predicted - tokens)
