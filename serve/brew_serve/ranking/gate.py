"""Lets work into the engine: applies the admission policy and the teams' token quotas, and keeps count.

Owns: how many tokens are outstanding, and feeding the measured rate. Does not own: the policy (`admission`), the
buckets (`quota`), or the work itself.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from brew_platform.errors import UserError
from brew_serve.http.refusals import Overloaded, QuotaExceeded
from brew_serve.http.request_context import Call
from brew_serve.metrics import Meters
from brew_serve.ranking.admission import AdmissionConfig, Admit, Load, Refuse, TokenRate, TooLarge, Work, decide

__all__ = ["Gate", "Ticket"]

_WINDOW_SECONDS = 0.25  # of busy time that makes a sample: candidates are finished in bursts, one per engine step


class Ticket:
    """Work that was let in; whoever holds it says how much of it is done."""

    def __init__(self, gate: "Gate", tokens: int) -> None:
        self._gate, self._left = gate, tokens

    def done(self, tokens: int) -> None:
        """So many of its tokens are finished."""
        tokens = min(tokens, self._left)
        self._left -= tokens
        self._gate._finish(tokens, worked=True)

    def _close(self) -> None:
        self._gate._finish(self._left, worked=False)
        self._left = 0


class Gate:
    """The way into one engine.

    Args:
        config: of the policy.
        meters: told of the queue and of what was refused.
        clock: seconds.
    """

    def __init__(self, config: AdmissionConfig, meters: Meters, clock: Callable[[], float] = time.perf_counter) -> None:
        self.outstanding_tokens = 0
        self._config, self._meters, self._clock = config, meters, clock
        self._rate = TokenRate(config)
        self._requests = 0
        self._window_start, self._window_tokens, self._window_outstanding = 0.0, 0, 0
        self._report()

    @contextmanager
    def admitted(self, tokens: int, call: Call, deadline: float | None = None) -> Iterator[Ticket]:
        """Counts the work as outstanding inside the block; what is not done by its end is taken back.

        Args:
            tokens: predicted.
            deadline: seconds, of the clock; None for none.

        Raises:
            Overloaded, QuotaExceeded: not now.
            UserError: the request is larger than the service ever takes.
        """
        now = self._clock()
        load = Load(outstanding_tokens=self.outstanding_tokens, tokens_per_second=self._rate.per_second)
        work = Work(tokens=tokens, seconds_left=None if deadline is None else deadline - now)
        match decide(load, work, self._config):
            case TooLarge(limit=limit):
                raise UserError(
                    f"this request needs {tokens} tokens of work, but the service takes {limit} at a time; send fewer "
                    f"candidates or items per request."
                )
            case Refuse(reason=reason, retry_after=retry_after):
                self._meters.shed.labels(reason).inc()
                why = "has no room for it" if reason == "limit" else "could not answer it within its deadline"
                raise Overloaded(f"the service is busy and {why}; try again in {retry_after:.1f} s.", retry_after)
            case Admit():
                pass
        if call.quota is not None:
            try:
                call.quota.tokens(tokens, now)
            except QuotaExceeded:
                self._meters.shed.labels("quota").inc()
                raise
        if not self.outstanding_tokens:
            self._open_window(now, tokens)
        self.outstanding_tokens += tokens
        self._requests += 1
        self._report()
        ticket = Ticket(self, tokens)
        try:
            yield ticket
        finally:
            self._requests -= 1
            ticket._close()

    def _finish(self, tokens: int, *, worked: bool) -> None:
        now = self._clock()
        self.outstanding_tokens -= tokens
        self._window_tokens += tokens if worked else 0
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
