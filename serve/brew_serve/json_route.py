"""What every route of ours has: a body that is strict JSON, and the `Call` that the edge made of the request.

Owns: `StrictJsonRoute`, which refuses what Python's parser lets pass and JSON does not: other encodings than UTF-8, NaN
and Infinity, and halves of surrogate pairs, which no answer could repeat in UTF-8.
"""

import json
import re
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute

from brew_serve.call import Call

__all__ = ["StrictJsonRoute", "current_call"]

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
