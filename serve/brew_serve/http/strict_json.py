"""Strict JSON bodies: refuses what Python's parser accepts and JSON does not.

Refused are encodings other than UTF-8, NaN and Infinity, and lone surrogates, which no response could repeat in UTF-8.
"""

import json
import re
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from fastapi import Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError

from brew_platform.errors import UserError
from brew_serve.http.error_responses import NOT_JSON, describe_validation_error

__all__ = ["StrictJsonRoute", "parse_body", "parse_json"]

T = TypeVar("T", bound=BaseModel)

_MAYBE_LONE_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


def parse_json(body: bytes) -> Any:
    """Parse a JSON text in UTF-8.

    Raises:
        json.JSONDecodeError: It is not JSON.
        UnicodeDecodeError: It is not UTF-8.
        RecursionError: It is nested too deeply.
    """
    text = body.decode("utf-8")
    value = json.loads(text, parse_constant=_refuse_constant)
    if _MAYBE_LONE_SURROGATE.search(body):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise json.JSONDecodeError("half of a surrogate pair is not text", text, 0) from error
    return value


def parse_body(model: type[T], body: bytes, content_type: str) -> T:
    """Parse and validate a request body as FastAPI does for a route whose only parameter is `model`.

    Raises:
        UserError: The body is invalid; the message describes the first error.
    """
    try:
        value = parse_json(body) if body and _is_json(content_type) else body or None
        if value is None:
            raise UserError(describe_validation_error([{"type": "missing", "loc": ("body",)}]))
        return model.model_validate(value, from_attributes=True)
    except ValidationError as error:
        errors = [{**details, "loc": ("body", *details["loc"])} for details in error.errors(include_url=False)]
        raise UserError(describe_validation_error(errors)) from error
    except json.JSONDecodeError as error:
        details = {"type": "json_invalid", "loc": ("body", error.pos), "ctx": {"error": error.msg}}
        raise UserError(describe_validation_error([details])) from error
    except (ValueError, RecursionError) as error:
        raise UserError(NOT_JSON) from error


class StrictJsonRoute(APIRoute):
    """A FastAPI route whose JSON body is parsed by `parse_json`; FastAPI reports its errors as validation errors."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            return await handler(_StrictRequest(request.scope, request.receive))

        return handle


class _StrictRequest(Request):
    async def json(self) -> Any:
        return parse_json(await self.body())


def _is_json(content_type: str) -> bool:
    kind = content_type.partition(";")[0].strip().lower()
    return kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))


def _refuse_constant(name: str) -> None:
    raise json.JSONDecodeError(f"{name} is not JSON", name, 0)
