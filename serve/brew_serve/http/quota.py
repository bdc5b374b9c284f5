"""What a team may use: token buckets for requests per second and for tokens per minute.

Owns: the buckets. Does not own: the teams and their limits (`keys`), or the answer to one that has none left (`edge`,
`gate`). Time comes in as an argument. Buckets live in a gateway: with N of them behind one address a team gets up to N
times its limits.

What a request needs is known only to the ranker that has compiled its prompts. A gateway therefore takes what the
team's requests needed lately, and settles the difference when the answer is there: in the long run exactly what was
used is counted.
"""

from brew_serve.http.auth import Team
from brew_serve.http.refusals import QuotaExceeded

__all__ = ["Bucket", "TeamQuota", "TokenCount"]

_MEMORY = 0.2  # weight of the newest request in what the next one is expected to need


class Bucket:
    """Fills at `per_second` up to `capacity`, and is full at the start.

    Args:
        per_second: what it gains, more than 0.
        capacity: what it holds at most.
        now: seconds.
    """

    def __init__(self, *, per_second: float, capacity: float, now: float) -> None:
        self.per_second, self.capacity = per_second, capacity
        self._level, self._since = capacity, now

    def take(self, amount: float, now: float) -> float:
        """Takes `amount` and returns 0, or takes nothing and returns the seconds until that much is there.

        More than the capacity is taken from a full bucket, which is then in debt: a large request is delayed like
        many small ones, not refused for ever.
        """
        self._level = min(self.capacity, self._level + max(0.0, now - self._since) * self.per_second)
        self._since = max(now, self._since)
        missing = min(amount, self.capacity) - self._level
        if missing > 1e-9 * self.capacity:  # of rounding: who waits as long as told must be let in
            return missing / self.per_second
        self._level -= amount
        return 0.0

    def give_back(self, amount: float) -> None:
        """Corrects an earlier `take`; a negative amount takes more, into debt if need be."""
        self._level = min(self.capacity, self._level + amount)


class TeamQuota:
    """The buckets of one team.

    Args:
        team: with its limits; a limit of None is none.
        now: seconds.
    """

    def __init__(self, team: Team, now: float) -> None:
        self.team = team
        rate, tokens = team.requests_per_second, team.tokens_per_minute
        self._requests = None if rate is None else Bucket(per_second=rate, capacity=max(1.0, rate), now=now)
        self._tokens = None if tokens is None else Bucket(per_second=tokens / 60, capacity=tokens, now=now)
        self._usual: float | None = None  # tokens of this team's requests

    def request(self, now: float) -> None:
        """Counts one request.

        Raises:
            QuotaExceeded: the team asks faster than it may.
        """
        if self._requests and (seconds := self._requests.take(1, now)):
            raise QuotaExceeded(
                f"team {self.team.name} may send {self.team.requests_per_second:g} requests a second; wait "
                f"{seconds:.1f} s, or ask the operators for more.",
                seconds,
            )

    def tokens(self, amount: int, now: float) -> None:
        """Counts the tokens of a request.

        Raises:
            QuotaExceeded: the team has used up its tokens.
        """
        if self._tokens and (seconds := self._tokens.take(amount, now)):
            raise QuotaExceeded(
                f"team {self.team.name} may use {self.team.tokens_per_minute} tokens a minute and has used them; wait "
                f"{seconds:.1f} s, send fewer candidates, or ask the operators for more.",
                seconds,
            )

    def expect(self, now: float) -> int:
        """Counts a request whose tokens are not known yet.

        Returns:
            What was counted; for `settle`, which must follow.

        Raises:
            QuotaExceeded: as `tokens`.
        """
        expected = round(self._usual or 0)
        self.tokens(expected, now)
        return expected

    def settle(self, expected: int, tokens: int) -> None:
        """Corrects what `expect` counted; tokens of 0 are of a request that was not let in."""
        if self._tokens:
            self._tokens.give_back(expected - tokens)
        if tokens:
            self._usual = tokens if self._usual is None else self._usual + _MEMORY * (tokens - self._usual)


class TokenCount:
    """Stands for a quota where none can be refused, and remembers what would have been counted."""

    def __init__(self) -> None:
        self.amount = 0

    def tokens(self, amount: int, now: float) -> None:
        """Counts the tokens of a request."""
        self.amount += amount
