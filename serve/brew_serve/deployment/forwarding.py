"""Forwards requests to the model versions that serve: selects the version of a member, and copies to a shadow.

`Forwarder` is independent of Ray: a function argument sends the request to a replica.
"""

import asyncio
import contextvars
import json
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass, replace

from brew_platform.identity.keys import Team
from brew_platform.tracing import start_span
from brew_serve.deployment.version_reconciler import Role, Target
from brew_serve.errors import Late, Lost, Uncalibrated
from brew_serve.http.request_context import RequestContext, Trace
from brew_serve.http.route import BackendResponse, end_with_error_event
from brew_serve.http.routing_hints import RoutingHints, is_in_share, read_routing_hints_in_thread
from brew_serve.metrics import Meters

__all__ = ["ForwardedRequest", "Forwarder", "Send"]

_LOG = logging.getLogger("brew_serve")
_GRACE_SECONDS = 0.5  # after the deadline, for the replica's response with what is scored, or with the reason
_MAX_SHADOW_COPIES = 32  # in flight; further copies are dropped, so that a slow shadow cannot fill the memory
_CANARY_RETRY_SECONDS = 5.0  # a canary that failed gets one request in this time, until it answers one


@dataclass(frozen=True, kw_only=True)
class ForwardedRequest:
    """A request that the middleware of a gateway accepted, as it is sent to a replica.

    Args:
        path: Of the route.
        streams: Whether the response can be a stream.
        arrived: Seconds since 1970; deadlines count from it. The replica may be on another node, so the clocks of the
            nodes must agree within the tolerance of a deadline.
        role: Of the version that gets the request.
        received: Of a copy for a shadow: `arrived` of the original. None: as `arrived`.
    """

    path: str
    streams: bool
    content_type: str
    body: bytes
    arrived: float
    trace: Trace
    team: Team
    time_limit: float | None = None  # seconds from `arrived`: the deadline of a request that names none
    waiting_tokens: int = 0  # of requests that wait in the gateways for each replica of the version
    role: Role = "production"
    received: float | None = None

    def context(self, now: float) -> RequestContext:
        """Return the request's context on another clock, whose time is `now` (seconds)."""
        arrival = now - max(0.0, time.time() - self.arrived)
        return RequestContext(
            arrival=arrival,
            trace=self.trace,
            team=self.team,
            time_limit=self.time_limit,
            role=self.role,
            received=self.arrived if self.received is None else self.received,
        )


Send = Callable[[int, ForwardedRequest, str], Awaitable[BackendResponse]]  # version, request, member key; raises Lost


class Forwarder:
    """Answers requests with the versions in `targets`.

    Args:
        send: Sends a request to a replica of a version.
        meters: Record lost requests and shadow comparisons.
        request_seconds: Time limit of a request without a deadline.
        clock: Seconds; `RequestContext.arrival` is on it.
    """

    def __init__(
        self,
        send: Send,
        meters: Meters,
        *,
        request_seconds: float,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.targets: Sequence[Target] = ()  # the versions that serve now, production first
        self._retry_at: dict[int, float] = {}  # canaries that failed, and when the next request may try them
        self._send, self._meters, self._request_seconds, self._clock = send, meters, request_seconds, clock
        self._shadow_copies: set[asyncio.Task] = set()
        self._parsing = ThreadPoolExecutor(1, "parsing")  # of large bodies; more threads would slow the event loop

    async def forward(
        self, path: str, body: bytes, content_type: str, context: RequestContext, *, streams: bool = False
    ) -> BackendResponse:
        """Answer one request.

        Args:
            streams: Whether the response can be a stream. What ends a stream early, such as a replica that ends or the
                time limit of the request, is its last event.

        Raises:
            Lost: No replica answered.
            Late: The replica that has the request did not answer in time.
        """
        elapsed = self._clock() - context.arrival
        request = ForwardedRequest(
            path=path,
            streams=streams,
            content_type=content_type,
            body=body,
            arrived=time.time() - elapsed,
            trace=context.trace,
            team=context.team,
            time_limit=context.time_limit,
            waiting_tokens=context.waiting_tokens,
        )
        hints = context.hints or await read_routing_hints_in_thread(body, self._parsing)
        response = await self._respond(request, hints, elapsed)
        if response.events is not None:
            events = self._end_in_time(response.events, context.arrival, hints)
            return replace(response, events=end_with_error_event(events, path, context.trace.request_id))
        self._copy_to_shadow(request, hints, response)
        return response

    async def _respond(self, request: ForwardedRequest, hints: RoutingHints, elapsed: float) -> BackendResponse:
        """`elapsed` is the time in seconds since the request arrived."""
        now = asyncio.get_running_loop().time()
        limit = self._time_limit(hints, elapsed)
        for target in self.targets:
            if target.role == "canary" and is_in_share(hints.key, "canary", target.share):
                response = await self._try_canary(target, request, hints, now + (limit - _GRACE_SECONDS) / 2)
                if response is not None:
                    return response
        production = next((target for target in self.targets if target.role == "production"), None)
        if production is None:
            raise Lost("no version of the model is up yet; one is being started. Try again.")
        try:
            async with asyncio.timeout_at(now + limit):
                return await self._send_to(production, request, hints.key)
        except Lost:
            self._meters.lost.labels(str(production.version)).inc()
            raise
        except TimeoutError:
            self._meters.lost.labels(str(production.version)).inc()
            raise self._late(hints) from None

    async def _try_canary(
        self, target: Target, request: ForwardedRequest, hints: RoutingHints, until: float
    ) -> BackendResponse | None:
        """Return a canary's response, or None if production must answer.

        That is if it is down, fails, does not answer in time, or has no calibration map for a request that needs one.
        """
        version, now = target.version, asyncio.get_running_loop().time()
        if target.up and now >= self._retry_at.get(version, now):
            if version in self._retry_at:
                self._retry_at[version] = now + _CANARY_RETRY_SECONDS  # this request tries for all others
            try:
                async with asyncio.timeout_at(until):
                    response = await self._send_to(target, request, hints.key)
                if response.status < 500:
                    self._retry_at.pop(version, None)
                    return None if response.status == Uncalibrated.status else response
            except (Lost, TimeoutError):
                pass
            except Exception:
                _LOG.exception("canary version %d failed; production answers", version)
            self._retry_at[version] = asyncio.get_running_loop().time() + _CANARY_RETRY_SECONDS
        self._meters.lost.labels(str(version)).inc()
        return None

    async def _send_to(self, target: Target, request: ForwardedRequest, key: str) -> BackendResponse:
        attributes = {"brew360.version": target.version, "brew360.role": target.role}
        with start_span("forward", attributes, parent=request.trace.traceparent, kind="client") as span:
            sent = replace(request, trace=request.trace.within(span), role=target.role)
            return await self._send(target.version, sent, key)

    async def _end_in_time(
        self, events: AsyncGenerator[bytes, None], arrival: float, hints: RoutingHints
    ) -> AsyncGenerator[bytes, None]:
        """Yield the events of a stream. Raises a Late when the time is up."""
        async with aclosing(events):
            while True:
                try:
                    async with asyncio.timeout(self._time_limit(hints, self._clock() - arrival)):
                        event = await anext(events)
                except StopAsyncIteration:
                    return
                except TimeoutError:
                    raise self._late(hints) from None
                yield event

    def _time_limit(self, hints: RoutingHints, elapsed: float = 0.0) -> float:
        """Return the seconds to wait for a replica, so that one that hangs does not hold its callers for ever."""
        seconds = self._request_seconds if hints.deadline_ms is None else hints.deadline_ms / 1000
        return seconds + _GRACE_SECONDS - elapsed

    def _late(self, hints: RoutingHints) -> Late:
        why = "the replica that has this request hangs or is far behind"
        if hints.deadline_ms is None:
            return Late(
                f"no answer came within {self._request_seconds:g} s: {why}. Try again, with fewer candidates, or with "
                f"deadline_ms, which returns the candidates that are scored by then."
            )
        return Late(
            f"no answer came by the deadline of {hints.deadline_ms} ms: {why}. Try again, or with a longer deadline_ms."
        )

    def _copy_to_shadow(self, request: ForwardedRequest, hints: RoutingHints, response: BackendResponse) -> None:
        """Start a copy without delaying the caller. Only rankings are copied: other responses are not compared."""
        if response.status != 200 or request.path != "/v1/rank":
            return
        for target in self.targets:
            if target.role == "shadow" and is_in_share(hints.key, "shadow", target.share):
                if not target.up:
                    self._meters.shadow.labels(str(target.version), "lost").inc()
                    continue
                if len(self._shadow_copies) >= _MAX_SHADOW_COPIES:
                    self._meters.shadow.labels(str(target.version), "dropped").inc()
                    continue
                copy = replace(request, arrived=time.time(), received=request.arrived)  # with as much time
                # A context of its own: the copy outlives the caller's request, which may be cancelled.
                task = asyncio.create_task(self._compare(target, copy, hints, response), context=contextvars.Context())
                self._shadow_copies.add(task)
                task.add_done_callback(self._shadow_copies.discard)

    async def _compare(
        self, target: Target, request: ForwardedRequest, hints: RoutingHints, answered: BackendResponse
    ) -> None:
        outcome, version = "lost", target.version
        try:
            async with asyncio.timeout(self._time_limit(hints)):
                response = await self._send_to(target, request, hints.key)
            outcome = "compared" if response.status == 200 else "refused"
            if response.status == 200:
                served, shadow = _scores(answered), _scores(response)
                for id_ in served.keys() & shadow.keys():
                    self._meters.shadow_difference.labels(str(version)).observe(abs(served[id_] - shadow[id_]))
        except (Lost, TimeoutError):
            pass
        except Exception:
            _LOG.exception("shadow version %d failed", version)
        finally:
            self._meters.shadow.labels(str(version), outcome).inc()


def _scores(response: BackendResponse) -> dict[str, float]:
    return {item["id"]: item["score"] for item in json.loads(response.body)["ranking"]}
