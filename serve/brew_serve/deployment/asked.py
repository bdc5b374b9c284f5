"""A request on its way from a gateway to a ranker, and the answer on its way back: bytes, and what HTTP says of them.

Owns: the two messages, and calling the routes of a ranker with the one to get the other. Errors need no form of their
own: what comes back is the HTTP answer that they became where they arose.
"""

import asyncio
import time
from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import Any

from brew_serve.http.auth import Team
from brew_serve.http.quota import TokenCount
from brew_serve.http.request_context import Call, Trace

__all__ = ["Asked", "Reply", "ask"]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A request that passed the edge.

    Args:
        arrived: seconds since 1970; deadlines count from it. A ranker's node may be another, so that its clock must
            agree with the gateway's within what a deadline tolerates.
    """

    method: str
    path: str
    content_type: str
    body: bytes
    arrived: float
    trace: Trace
    team: Team


@dataclass(frozen=True, kw_only=True)
class Reply:
    """An HTTP answer.

    Args:
        tokens: predicted work that was let in for it; 0 where it was refused.
    """

    status: int
    headers: dict[str, str]
    body: bytes
    tokens: int


async def ask(routes: Any, asked: Asked, now: float) -> Reply:
    """The answer of an ASGI application.

    Args:
        routes: of `api.create_routes`.
        now: seconds, on the clock of the service behind the routes.
    """
    spent = TokenCount()
    arrival = now - max(0.0, time.time() - asked.arrived)
    call = Call(arrival=arrival, trace=asked.trace, team=asked.team, quota=spent)
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "scheme": "http",
        "method": asked.method,
        "path": asked.path,
        "raw_path": asked.path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [(b"content-type", asked.content_type.encode("latin-1"))] if asked.content_type else [],
        "state": {"call": call},
    }
    given = False
    head: MutableMapping[str, Any] = {}
    parts: list[bytes] = []

    async def receive() -> MutableMapping[str, Any]:
        nonlocal given
        if given:
            await asyncio.Event().wait()  # a caller who leaves cancels this whole call instead
        given = True
        return {"type": "http.request", "body": asked.body, "more_body": False}

    async def send(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            head.update(message)
        else:
            parts.append(message.get("body", b""))

    try:
        await routes(scope, receive, send)
    except Exception:
        if not head:  # otherwise it was logged and answered, and raised once more for servers that want it
            raise
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in head["headers"]}
    return Reply(status=head["status"], headers=headers, body=b"".join(parts), tokens=spent.amount)
