"""Hands requests on to the versions that serve: which one answers a member, and which one only gets a copy.

Owns: that choice, how long it waits, the team's token quota around it, and what becomes of a shadow's answer. Does not
own: how a request reaches a replica (`Send`), or which versions there are (`follower`). Runs without Ray.
"""

import asyncio
import contextvars
import json
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import replace

from fastapi import Request, Response

from brew_serve.deployment.asked import Asked, Reply
from brew_serve.deployment.split import Wanted, falls_in, wanted
from brew_serve.deployment.version_reconciler import Target
from brew_serve.http.json_route import current_call
from brew_serve.http.quota import TeamQuota
from brew_serve.http.refusals import Late, Lost, QuotaExceeded
from brew_serve.http.request_context import Call
from brew_serve.metrics import Meters

__all__ = ["Forwarder", "Send"]

Send = Callable[[int, Asked, str], Awaitable[Reply]]  # version, request, member's key; raises Lost

_GRACE_SECONDS = 0.5  # after its deadline, in which a ranker's answer still arrives: what it has scored, or why not
_MOST_SHADOWS = 32  # copies under way at a time; what a slow shadow cannot take is not kept waiting for it


class Forwarder:
    """Answers requests with a fleet.

    Args:
        send: to a replica of a version.
        meters: told of what was lost, and of shadows.
        request_seconds: in which a request without a deadline must be answered.
        clock: seconds; `Call.arrival` is on it.
    """

    def __init__(
        self,
        send: Send,
        meters: Meters,
        *,
        request_seconds: float,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.targets: Sequence[Target] = ()  # who serves now, production first
        self._send, self._meters, self._request_seconds, self._clock = send, meters, request_seconds, clock
        self._shadows: set[asyncio.Task] = set()

    async def __call__(self, request: Request) -> Response:
        """Answers one request.

        Raises:
            Lost: no replica answered.
            Late: the one that was asked did not answer in time.
            QuotaExceeded: the team's tokens are used up.
        """
        call = current_call(request)
        asked = Asked(
            method=request.method,
            path=request.scope["path"],
            content_type=request.headers.get("content-type", ""),
            body=await request.body(),
            arrived=time.time() - (self._clock() - call.arrival),
            trace=call.trace,
            team=call.team,
        )
        about = wanted(asked.body)
        reply = await self._within_quota(asked, about, call)
        self._copy_to_shadow(asked, about, reply)
        return Response(reply.body, reply.status, reply.headers)

    async def _within_quota(self, asked: Asked, about: Wanted, call: Call) -> Reply:
        spent = self._clock() - call.arrival
        if asked.method != "POST" or not isinstance(call.quota, TeamQuota):
            return await self._answered(asked, about, spent)
        try:
            expected = call.quota.expect(self._clock())
        except QuotaExceeded:
            self._meters.shed.labels("quota").inc()
            raise
        tokens = 0
        try:
            reply = await self._answered(asked, about, spent)
            tokens = reply.tokens
            return reply
        finally:
            call.quota.settle(expected, tokens)

    async def _answered(self, asked: Asked, about: Wanted, spent: float) -> Reply:
        """`spent` is how many seconds ago the request arrived."""
        error = Lost("no version of the model is up yet; one is being started. Try again.")
        until = asyncio.get_running_loop().time() + self._seconds(about, spent)
        for target in self._asked_of(about.key):
            try:
                async with asyncio.timeout_at(until):
                    return await self._send(target.version, asked, about.key)
            except Lost as lost:
                self._meters.lost.labels(str(target.version)).inc()
                error = lost
            except TimeoutError:
                self._meters.lost.labels(str(target.version)).inc()
                raise self._late(about) from None
        raise error

    def _seconds(self, about: Wanted, spent: float = 0.0) -> float:
        """How long a replica is waited for: one that hangs must not hold its callers for ever."""
        if about.deadline_ms is None:
            return self._request_seconds
        return about.deadline_ms / 1000 + _GRACE_SECONDS - spent

    def _late(self, about: Wanted) -> Late:
        why = "the replica that has this request hangs or is far behind"
        if about.deadline_ms is None:
            return Late(
                f"no answer came within {self._request_seconds:g} s: {why}. Try again, with fewer candidates, or with "
                f"a deadline_ms, at which what is scored is answered."
            )
        return Late(
            f"no answer came by the deadline of {about.deadline_ms} ms: {why}. Try again, or with a longer deadline_ms."
        )

    def _asked_of(self, key: str) -> Iterator[Target]:
        """The versions to ask, one after the other: production also answers for a canary that is lost."""
        yield from (one for one in self.targets if one.role == "canary" and falls_in(key, "canary", one.share))
        yield from (one for one in self.targets if one.role == "production")

    def _copy_to_shadow(self, asked: Asked, about: Wanted, reply: Reply) -> None:
        """The caller's answer does not wait for it. Only rankings are copied: there is nothing else to compare."""
        if reply.status != 200 or asked.path != "/v1/rank":
            return
        for target in self.targets:
            if target.role == "shadow" and falls_in(about.key, "shadow", target.share):
                if len(self._shadows) >= _MOST_SHADOWS:
                    self._meters.shadow.labels(str(target.version), "dropped").inc()
                    continue
                copy = replace(asked, arrived=time.time())  # it has as long as the original had
                # In a context of its own: it is no part of the caller's request, which may be over or cancelled.
                task = asyncio.create_task(
                    self._compare(target.version, copy, about, reply), context=contextvars.Context()
                )
                self._shadows.add(task)
                task.add_done_callback(self._shadows.discard)

    async def _compare(self, version: int, asked: Asked, about: Wanted, answered: Reply) -> None:
        outcome = "lost"
        try:
            async with asyncio.timeout(self._seconds(about)):
                reply = await self._send(version, asked, about.key)
            outcome = "compared" if reply.status == 200 else "refused"
            if reply.status == 200:
                here, there = _scores(answered), _scores(reply)
                for id_ in here.keys() & there.keys():
                    self._meters.shadow_difference.labels(str(version)).observe(abs(here[id_] - there[id_]))
        except (Lost, TimeoutError):
            pass
        finally:
            self._meters.shadow.labels(str(version), outcome).inc()


def _scores(reply: Reply) -> dict[str, float]:
    return {item["id"]: item["score"] for item in json.loads(reply.body)["ranking"]}
