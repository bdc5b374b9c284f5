"""How errors read over HTTP: always JSON {"error": "<one sentence that says what to do>"}, and the right status.

Owns: the exception handlers, and `refused`, which makes an answer of an error. Does not own: when they are raised.
"""

import logging
import math
import re
from collections.abc import Mapping

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from brew_platform.errors import BrewError, UserError
from brew_serve.context import UnknownId
from brew_serve.refusals import Refusal, Unauthorized
from brew_serve.text import UnknownModel

__all__ = ["add_error_answers", "refused"]

_LOG = logging.getLogger("brew_serve")
_RESTART_SECONDS = 10.0  # after which a service that failed is asked again; Serve checks its replicas every 5
_BRANCH = re.compile(r"(?:constrained-)?(?:str|int)|.*\[.*")  # how pydantic names the branches of a union


def refused(error: BrewError) -> JSONResponse:
    """The answer to a request that ends in `error`."""
    if isinstance(error, Refusal):
        headers = {"www-authenticate": "Bearer"} if isinstance(error, Unauthorized) else {}
        if error.retry_after is not None:
            headers["retry-after"] = str(max(1, math.ceil(error.retry_after)))
        return _answer(error.status, str(error), headers)
    if isinstance(error, UserError):
        return _answer(404 if isinstance(error, UnknownId | UnknownModel) else 400, str(error))
    return _answer(503, str(error), {"retry-after": str(math.ceil(_RESTART_SECONDS))})


def add_error_answers(api: FastAPI) -> None:
    """Makes every error of `api` such an answer."""

    @api.exception_handler(RequestValidationError)
    async def malformed(_: Request, error: RequestValidationError) -> JSONResponse:
        return _answer(400, _sentence(error))

    @api.exception_handler(BrewError)
    async def failed(_: Request, error: BrewError) -> JSONResponse:
        if not isinstance(error, UserError | Refusal):
            _LOG.error("%s", error)
        return refused(error)

    @api.exception_handler(HTTPException)
    async def unserved(request: Request, error: HTTPException) -> JSONResponse:
        if error.status_code == 400:  # FastAPI's word for a body that it could not decode
            return _answer(400, "the body is not JSON in UTF-8; send it so, with content-type application/json.")
        sentence = f"{request.method} {request.url.path} is not served; GET /docs lists what is."
        return _answer(error.status_code, sentence, error.headers)

    @api.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> JSONResponse:
        _LOG.error("%s %s failed", request.method, request.url.path, exc_info=error)
        return _answer(500, "the service failed on this request; its log says why. Tell the operators.")


def _answer(status: int, sentence: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    printable = sentence.encode("utf-8", "replace").decode()
    return JSONResponse({"error": printable}, status, dict(headers or {}))


def _sentence(error: RequestValidationError) -> str:
    """The first thing that is wrong, where it is, and what is wanted instead."""
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return f"the body is not valid JSON ({first['ctx']['error']} at character {first['loc'][-1]}); send one object."
    path = [str(part) for part in first["loc"][1:]]
    if path[:1] == ["candidates"]:
        del path[2:3]  # pydantic names the kind of candidate in between
    where = ".".join(part for part in path if not _BRANCH.fullmatch(part)) or "the body"
    if first["type"] == "value_error":  # a sentence of our own, which names what it is about
        return f"{first['msg'].removeprefix('Value error, ')}."
    if first["type"] == "extra_forbidden":
        return f"{where} is not a key of this request; remove it, or correct its spelling (GET /docs lists them)."
    if first["type"] == "missing":
        return f"{where} is missing; give it (GET /docs describes the request)."
    return f"{where}: {first['msg']}."
