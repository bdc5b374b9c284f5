"""Passes requests to the backend in fair order over the teams, and charges what they use to the team's quota."""

import asyncio
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, aclosing
from dataclasses import replace

from brew_platform.identity.keys import Team
from brew_platform.tracing import start_span
from brew_serve.errors import Expired, Lost, Overloaded, QuotaExceeded
from brew_serve.http.backend import RankingBackend
from brew_serve.http.fair_queue import FairQueue, Turn
from brew_serve.http.quota import Quotas, Settle, TokenPredictor
from brew_serve.http.request_context import RequestContext
from brew_serve.http.route import BackendResponse, Route
from brew_serve.http.routing_hints import read_routing_hints_in_thread

__all__ = ["RequestScheduler"]

_RETRY_SECONDS = 10.0  # after a wait of a whole time limit


class RequestScheduler:
    """The queue of one gateway.

    Args:
        backend: Answers the requests; it says how many tokens may run at a time.
        quotas: Of all teams.
        max_waiting: Requests of one team that may wait.
    """

    def __init__(self, backend: RankingBackend, quotas: Quotas, *, max_waiting: int) -> None:
        self._quotas = quotas
        self._backend, self._meters, self._clock = backend, backend.meters, backend.clock
        self._queue = FairQueue(backend.running_tokens, max_waiting=max_waiting, clock=backend.clock)
        self._parsing = ThreadPoolExecutor(1, "hints")  # of large bodies; more threads would slow the event loop
        self._predictors: dict[str, TokenPredictor] = {}  # by team

    async def respond(self, route: Route, body: bytes, content_type: str, context: RequestContext) -> BackendResponse:
        """Answer one request when it is its turn.

        The quota is charged the tokens of the response. A request that is cancelled or late while a replica works on it
        is charged its prediction, since nothing reports the work that was done.

        Raises:
            QuotaExceeded: The team exceeds its request rate, or has used up its tokens.
            Overloaded: Too many requests of the team wait, or its turn did not come in time.
            Expired: The deadline passed before its turn.
            Lost: No replica answered.
            Late: The replica that has the request did not answer in time.
        """
        if route.method != "POST":  # needs no engine
            await self._charge(context.team, 0)
            return await self._backend.respond(route, body, content_type, context)
        predictor = self._predictors.setdefault(context.team.name, TokenPredictor())
        predicted = predictor.predict(route.path, len(body))
        settle = await self._charge(context.team, predicted)
        turn, used = None, 0

        def end() -> None:
            if turn is not None:
                self._queue.end(turn, used)
            settle(used)

        with ExitStack() as stack:
            stack.callback(end)
            if not self._queue.can_start(predicted):  # only a request that has to wait needs its deadline here
                context = replace(context, hints=await read_routing_hints_in_thread(body, self._parsing))
            turn = await self._wait(context, predicted)
            used = predicted
            context = replace(context, waiting_tokens=self._queue.waiting_tokens)
            try:
                response = await self._backend.respond(route, body, content_type, context)
            except Lost:  # no replica worked on it
                used = 0
                raise
            used = response.tokens
            predictor.observe(route.path, len(body), used)
            if response.events is not None:
                events = _end_after(response.events, stack.pop_all())
                await anext(events)  # a generator that has not started would not end its turn
                response = replace(response, events=events)
            return response

    async def _wait(self, context: RequestContext, predicted: int) -> Turn:
        """Wait for the request's turn, until its deadline."""
        deadline_ms = None if context.hints is None else context.hints.deadline_ms
        limit = context.time_limit if deadline_ms is None else deadline_ms / 1000
        start = self._clock()
        until = None if limit is None else asyncio.get_running_loop().time() + limit - (start - context.arrival)
        waiting = self._meters.waiting.labels(context.team.name)
        waiting.inc()
        try:
            with start_span("queue", {"brew360.tokens": predicted}):
                return await self._queue.wait(context.team, predicted, until=until)
        except Overloaded:
            self._meters.shed.labels("queue").inc()
            raise
        except TimeoutError:
            self._meters.shed.labels("queue").inc()
            if deadline_ms is None:
                sentence = f"the request waited {limit:g} s for others; try again in {_RETRY_SECONDS:g} s."
                raise Overloaded(sentence, _RETRY_SECONDS) from None
            raise Expired(
                f"the deadline of {deadline_ms} ms passed while the request waited for others; try again with a longer "
                f"deadline_ms, or later."
            ) from None
        finally:
            waiting.dec()
            self._meters.stage_seconds.labels("queue").observe(self._clock() - start)

    async def _charge(self, team: Team, predicted: int) -> Settle:
        try:
            return await self._quotas.charge(team, predicted)
        except QuotaExceeded as error:
            self._meters.shed.labels(error.limit).inc()
            raise


async def _end_after(events: AsyncGenerator[bytes, None], stack: ExitStack) -> AsyncGenerator[bytes, None]:
    """Yield nothing (b""), and then the events; close the stack at the end."""
    with stack:
        async with aclosing(events):
            yield b""
            async for event in events:
                yield event
