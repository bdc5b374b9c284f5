"""A bounded queue of requests per team, from which requests start in weighted fair order.

The order is start-time fair queueing (Goyal, Vin and Cheng, SIGCOMM 1996) over predicted tokens. Each team has a
virtual time, which grows by tokens / weight for each of its requests. The next request comes from the team with the
smallest virtual time. A team that returns after a pause starts at the current virtual time, so a pause saves up
nothing. Over any period in which two teams wait, their tokens therefore differ from the ratio of their weights by at
most one request of each, whatever either of them sends.

Requests wait while the tokens of running requests would exceed a limit. The engines' own queue stays as short as that
limit: it is first come, first served, and would otherwise hold the requests of whichever team sends most.
"""

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from brew_platform.identity.keys import Team
from brew_serve.errors import Overloaded

__all__ = ["FairQueue", "Turn"]

_MEMORY_SECONDS = 10.0  # after which a measurement of the rate has a weight of about a third


@dataclass(eq=False)
class Turn:
    """The turn of one request, from `FairQueue.wait` to `FairQueue.end`."""

    team: str
    tokens: int  # predicted
    since: float
    starts: asyncio.Future[None]


@dataclass
class _Line:
    """The waiting requests of a team."""

    weight: float
    virtual: float = 0.0
    waiting: deque[Turn] = field(default_factory=deque)


class FairQueue:
    """Requests of all teams that wait, and the tokens of those that run.

    Args:
        running_tokens: Returns the predicted tokens that may run at a time. A larger request runs alone.
        max_waiting: Requests of one team that may wait.
        clock: Seconds.
    """

    def __init__(
        self, running_tokens: Callable[[], int], *, max_waiting: int, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._limit, self._max_waiting, self._clock = running_tokens, max_waiting, clock
        self._lines: dict[str, _Line] = {}
        self._virtual = 0.0  # of the request that started last
        self._running, self._tokens = 0, 0
        self._since, self._busy, self._done = 0.0, 0.0, 0.0  # time and finished tokens while requests waited

    @property
    def waiting_tokens(self) -> int:
        """The predicted tokens of all requests that wait."""
        return sum(turn.tokens for line in self._lines.values() for turn in line.waiting)

    def can_start(self, tokens: int) -> bool:
        """Return whether a request of `tokens` would start at once."""
        fits = not self._running or self._tokens + tokens <= self._limit()
        return fits and not any(line.waiting for line in self._lines.values())

    async def wait(self, team: Team, tokens: int, *, until: float | None = None) -> Turn:
        """Wait for the request's turn. The request counts as running until `end`.

        Args:
            team: Its weight is used.
            tokens: Predicted work, at least 1.
            until: Time of the event loop at which waiting ends; None waits without a limit.

        Raises:
            Overloaded: The team has too many waiting requests, or so many tokens that its turn cannot come in time.
            TimeoutError: Its turn did not come in time.
        """
        self._measure(0)
        line = self._lines.setdefault(team.name, _Line(team.weight))
        line.weight = team.weight
        if len(line.waiting) >= self._max_waiting:
            seconds = max(1.0, self._clock() - line.waiting[0].since)
            raise Overloaded(
                f"{len(line.waiting)} requests of team {team.name} wait already, which is the limit; try again in "
                f"{seconds:.1f} s, and send fewer requests at a time.",
                seconds,
            )
        if until is not None and line.waiting and self._done >= self._limit():  # less does not show the rate
            seconds = sum(turn.tokens for turn in line.waiting) * self._busy / self._done
            late = seconds - (until - asyncio.get_running_loop().time())
            if late > 0:
                raise Overloaded(
                    f"the service is busy and could not answer it within its deadline; try again in {late:.1f} s.", late
                )
        if not line.waiting:
            line.virtual = max(line.virtual, self._virtual)
        turn = Turn(team.name, tokens, self._clock(), asyncio.get_running_loop().create_future())
        line.waiting.append(turn)
        self._start()
        try:
            async with asyncio.timeout_at(until):
                await turn.starts
        except BaseException:  # the time is up, or the client disconnected
            if turn in line.waiting:
                line.waiting.remove(turn)
                self._start()
            else:  # it started at the same moment
                self.end(turn, 0)
            raise
        return turn

    def end(self, turn: Turn, tokens: int) -> None:
        """End a turn.

        Args:
            turn: Of `wait`.
            tokens: The work that was done, which replaces the prediction in the order of the teams.
        """
        self._measure(tokens)
        line = self._lines[turn.team]
        line.virtual += (tokens - turn.tokens) / line.weight
        self._running -= 1
        self._tokens -= turn.tokens
        self._start()

    def _measure(self, tokens: int) -> None:
        """Count finished tokens, and the time since the last call, if requests wait: the engines are then saturated."""
        now = self._clock()
        if any(line.waiting for line in self._lines.values()):
            decay = math.exp((self._since - now) / _MEMORY_SECONDS)
            self._busy, self._done = self._busy * decay + now - self._since, self._done * decay + tokens
        self._since = now

    def _start(self) -> None:
        """Start the requests that may run now, in fair order."""
        while lines := [line for line in self._lines.values() if line.waiting]:
            line = min(lines, key=lambda line: line.virtual)
            turn = line.waiting[0]
            if self._running and self._tokens + turn.tokens > self._limit():
                return
            line.waiting.popleft()
            self._virtual = max(self._virtual, line.virtual)
            line.virtual += turn.tokens / line.weight
            self._running += 1
            self._tokens += turn.tokens
            if not turn.starts.done():  # else its owner is being cancelled, and ends it
                turn.starts.set_result(None)
