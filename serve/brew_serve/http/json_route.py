"""What every route of ours has: a body that is strict JSON, and the `Call` that the edge made of the request.

Owns: `StrictJsonRoute`, which refuses what Python's parser lets pass and JSON does not: other encodings than UTF-8, NaN
and Infinity, and halves of surrogate pairs, which no answer could repeat in UTF-8; and `RankerRoute`, one that needs an
engine, and is therefore handed on where there is none.
"""

import json
import re
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute

from brew_serve.http.request_context import Call

__all__ = ["Forward", "RankerRoute", "StrictJsonRoute", "current_call"]

Forward = Callable[[Request], Awaitable[Response]]

_MAYBE_HALF = re.compile(rb"\\u[dD][89a-fA-F]")


def current_call(request: Request) -> Call:
    """The call that this request is."""
    call: Call = request.state.call
    return call


class StrictJsonRoute(APIRoute):
    """A route whose JSON body is parsed strictly; what is wrong with it is a validation error."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def strict(request: Request) -> Response:
            return await handler(_StrictRequest(request.scope, request.receive))

        return strict


class RankerRoute(StrictJsonRoute):
    """A route that needs an engine: an application whose state has a `forward` hands the request on, unread."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        here = super().get_route_handler()

        async def answer(request: Request) -> Response:
            forward: Forward | None = getattr(request.app.state, "forward", None)
            return await (here(request) if forward is None else forward(request))

        return answer


class _StrictRequest(Request):
    async def json(self) -> Any:
        body = await self.body()
        text = body.decode("utf-8")
        value = json.loads(text, parse_constant=_refuse)
        if _MAYBE_HALF.search(body):
            try:
                json.dumps(value, ensure_ascii=False).encode()
            except UnicodeEncodeError as error:
                raise json.JSONDecodeError("half of a surrogate pair is no text", text, 0) from error
        return value


def _refuse(name: str) -> None:
    raise json.JSONDecodeError(f"{name} is not JSON", name, 0)
