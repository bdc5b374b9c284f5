"""Strict JSON bodies: refuses what Python's parser accepts and JSON, or the next parser, does not.

Refused are encodings other than UTF-8, NaN and Infinity, numbers that a double cannot hold, integers of more than
`MAX_DIGITS` digits, lone surrogates (no response could repeat them in UTF-8), nesting that is too deep, and an object
with the same key twice, of which every parser keeps another one. The message names the path of the value.

The parser holds the interpreter's lock, so other threads wait for it. Bodies with more than `MAX_VALUES` values are
therefore refused before they are parsed.
"""

import asyncio
import json
import math
import re
import sys
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, TypeVar

from fastapi import Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from starlette.types import Receive, Scope

from brew_platform.errors import UserError
from brew_serve.http.error_responses import describe_validation_error

__all__ = [
    "MAX_DIGITS",
    "MAX_VALUES",
    "StrictJsonRoute",
    "has_few_values",
    "parse_body",
    "parse_body_in_thread",
    "parse_json",
    "run_by_size",
]

T = TypeVar("T", bound=BaseModel)
R = TypeVar("R")

MAX_DIGITS = sys.int_info.default_max_str_digits  # 4,300; converting an integer takes quadratic time
MAX_VALUES = 500_000  # of a body; token ids are most of those that are useful, and admission limits them
_VALUES_OF_CONTAINER = 5  # an object or a list takes as long as so many numbers
_MAX_KEYS = 1_000  # of an object; pydantic reports every unknown one
_LARGE_BODY = 100_000  # bytes that take about a millisecond to parse

_LONE_SURROGATE = re.compile(r"[\ud800-\udfff]")
_MAYBE_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
# A string as a whole, or the start of a value.
_STRING_OR_START = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|[,\[{]', re.DOTALL)


@dataclass(frozen=True)
class _Refused:
    """Stands in a parsed text for a value that is refused.

    Args:
        why: Follows the path of the value in the message.
        key: Of an object, the key that is refused.
    """

    why: str
    key: str | None = None


def has_few_values(body: bytes) -> bool:
    """Return whether a JSON text has at most `MAX_VALUES` values; the text may also be something else."""
    containers = body.count(b"[") + body.count(b"{")  # also those inside of strings
    if body.count(b",") + _VALUES_OF_CONTAINER * containers <= MAX_VALUES:
        return True
    left = MAX_VALUES
    for match in _STRING_OR_START.finditer(body):
        first = match[0][:1]
        if first != b'"':
            left -= 1 if first == b"," else _VALUES_OF_CONTAINER
            if left < 0:
                return False
    return True


def parse_json(body: bytes) -> Any:
    """Parse a JSON text in UTF-8.

    Raises:
        UserError: It is not JSON in UTF-8, or it contains a value that is refused. The message names its path.
    """
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"the body is not UTF-8 (byte {error.start} is {body[error.start]:#04x}); send JSON in UTF-8."
        ) from error
    if not has_few_values(body):
        raise UserError(
            f"the body has more than {MAX_VALUES:,} values (a list or object counts as {_VALUES_OF_CONTAINER}); send "
            f"fewer candidates, items or token ids."
        )
    refused: list[_Refused] = []

    def refuse(why: str, key: str | None = None) -> _Refused:
        refused.append(_Refused(why, key))
        return refused[-1]

    def make_object(pairs: list[tuple[str, Any]]) -> Any:
        if len(pairs) > _MAX_KEYS:
            return refuse(f"has {len(pairs):,} keys; send at most {_MAX_KEYS:,}")
        parsed = dict(pairs)
        if len(parsed) == len(pairs):
            return parsed
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                break
            seen.add(key)
        return refuse("occurs twice; send every key once", key)

    def make_int(digits: str) -> Any:
        count = len(digits.removeprefix("-"))
        if count > MAX_DIGITS:
            return refuse(f"is a number of {count:,} digits; send at most {MAX_DIGITS:,}, or a string")
        return int(digits)

    def make_float(digits: str) -> Any:
        number = float(digits)
        if math.isinf(number):
            return refuse("is a number that a 64-bit float cannot hold; send a smaller one")
        return number

    try:
        value = json.loads(
            text,
            object_pairs_hook=make_object,
            parse_constant=lambda name: refuse(f"is {name}, which is not JSON; send null or leave it out"),
            parse_int=make_int,
            parse_float=make_float,
        )
    except json.JSONDecodeError as error:
        where = f"{error.msg} at character {error.pos}"
        raise UserError(f"the body is not valid JSON ({where}); send one object.") from error
    except RecursionError as error:
        raise UserError("the body is nested too deeply; send fewer objects and lists inside each other.") from error
    surrogates = _MAYBE_SURROGATE.search(body) is not None
    if refused or surrogates:
        _require_none_refused(value, surrogates=surrogates)
    return value


def parse_body(model: type[T], body: bytes, content_type: str) -> T:
    """Parse and validate a request body as FastAPI does for a route whose only parameter is `model`.

    Raises:
        UserError: The body is invalid; the message describes the first error.
    """
    if body:
        _require_json(content_type)
    value = parse_json(body) if body else None
    if value is None:
        raise UserError(describe_validation_error([{"type": "missing", "loc": ("body",)}]))
    try:
        return model.model_validate(value, from_attributes=True)
    except ValidationError as error:
        errors = [{**details, "loc": ("body", *details["loc"])} for details in error.errors(include_url=False)]
        raise UserError(describe_validation_error(errors)) from error


async def parse_body_in_thread(model: type[T], body: bytes, content_type: str, threads: Executor | None = None) -> T:
    """Same as `parse_body`, in a thread if the body is large: the event loop answers other requests meanwhile.

    Args:
        threads: One or two: the event loop waits for its turn among all that run. None uses those of the event loop.

    Raises:
        UserError: The body is invalid; the message describes the first error.
    """
    return await run_by_size(body, threads, parse_body, model, body, content_type)


async def run_by_size(body: bytes, threads: Executor | None, parse: Callable[..., R], *arguments: Any) -> R:
    """Return `parse(*arguments)`; it runs in a thread if the body is large.

    Args:
        threads: As in `parse_body_in_thread`.
    """
    if len(body) < _LARGE_BODY:
        return parse(*arguments)
    return await asyncio.get_running_loop().run_in_executor(threads, parse, *arguments)


class StrictJsonRoute(APIRoute):
    """A FastAPI route whose JSON body is parsed and validated as by `parse_body_in_thread`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            if self.body_field is not None:
                model: Any = self.body_field.field_info.annotation
                content_type = request.headers.get("content-type", "")
                parsed = await parse_body_in_thread(model, await request.body(), content_type)
                request = _ParsedRequest(request.scope, request.receive, parsed)
            return await handler(request)

        return handle


class _ParsedRequest(Request):
    """A request whose body is an instance of the route's model, which FastAPI does not validate again."""

    def __init__(self, scope: Scope, receive: Receive, parsed: BaseModel) -> None:
        super().__init__(scope, receive)
        self._parsed = parsed

    async def body(self) -> bytes:
        return b"{}"  # FastAPI calls `json` if there is a body

    async def json(self) -> Any:
        return self._parsed


def _require_json(content_type: str) -> None:
    """Raise a UserError that names the header if the body is not declared to be JSON."""
    kind = content_type.partition(";")[0].strip().lower()
    if kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json")):
        return
    problem = f"is {content_type[:100]!r}" if content_type else "is missing"
    raise UserError(f"the header content-type {problem}; send `content-type: application/json` with a JSON body.")


def _require_none_refused(value: Any, *, surrogates: bool) -> None:
    """Raise a UserError with the path of the first value that is refused.

    Args:
        value: Parsed JSON.
        surrogates: Whether texts are searched for lone surrogates.
    """
    stack: list[tuple[str, Any]] = [("", value)]
    while stack:
        path, found = stack.pop()
        if isinstance(found, _Refused):
            where = path if found.key is None else _join(path, found.key)
            raise UserError(f"{where or 'the body'} {found.why}.")
        if isinstance(found, dict):
            if surrogates and any(map(_LONE_SURROGATE.search, found)):
                raise UserError(f"a key of {path or 'the body'} has half of a surrogate pair, which is not text.")
            stack += [(_join(path, key), below) for key, below in reversed(found.items())]
        elif isinstance(found, list):
            stack += [(_join(path, str(index)), found[index]) for index in reversed(range(len(found)))]
        elif surrogates and isinstance(found, str) and _LONE_SURROGATE.search(found):
            raise UserError(f"{path or 'the body'} has half of a surrogate pair, which is not text.")


def _join(path: str, key: str) -> str:
    printable = key[:100].encode("utf-8", "replace").decode() or '""'
    return f"{path}.{printable}" if path else printable
