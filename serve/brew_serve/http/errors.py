"""How errors read over HTTP: JSON with one sentence that says what to do and a code for programs, and the right status.

    our routes    {"error": "<sentence>", "code": "<code>"}
    OpenAI's      {"error": {"message": "<sentence>", "type": ..., "param": null, "code": "<code>"}}

Owns: which form, the exception handlers, and `refused`, which makes an answer of an error. Does not own: when
errors are raised, or the codes of refusals (`refusals`).
"""

import logging
import math
import re
from collections.abc import Mapping
from typing import Any, Literal

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from brew_platform.errors import BrewError, UserError
from brew_serve.context.base import UnknownId
from brew_serve.http.refusals import Lost, Refusal, Unauthorized
from brew_serve.ranking.text_service import UnknownModel
from brew_serve.schemas.openai import PATHS, OpenAIErrorAnswer

__all__ = ["ErrorAnswer", "add_error_answers", "error_responses", "refused"]

_LOG = logging.getLogger("brew_serve")
_RESTART_SECONDS = 10.0  # after which a service that failed is asked again; Serve checks its replicas every 5
_BRANCH = re.compile(r"(?:constrained-)?(?:str|int)|.*\[.*")  # how pydantic names the branches of a union

_STATUSES = {
    400: "The request cannot be answered as it is",
    401: "The API key is missing or unknown",
    403: "The team may not do this",
    404: "An id or a model that is not known here",
    408: "The deadline passed before any work was begun",
    413: "The body is too large",
    429: "The team's quota is used up; see Retry-After",
    500: "A fault of the service",
    503: "The service is busy (overloaded), or what would have answered is gone (lost, unavailable); see Retry-After",
    504: "No answer came in time; see Retry-After",
}


class ErrorAnswer(BaseModel):
    """Why a request is not answered."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"error": "task is missing; give it (GET /docs describes the request).", "code": "invalid_request"}
            ]
        }
    )
    error: str = Field(description="one sentence that says what to do")
    code: Literal[
        "invalid_request",
        "not_found",
        "not_served",
        "failed",
        "unauthorized",
        "forbidden",
        "expired",
        "body_too_large",
        "quota_exceeded",
        "overloaded",
        "lost",
        "unavailable",
        "late",
    ] = Field(description="the same for ever, for programs")


def error_responses(form: type[BaseModel]) -> dict[int | str, dict[str, Any]]:
    """What routes say of their errors in the OpenAPI document, whose bodies are of `form`."""
    return {status: {"description": told, "model": form} for status, told in _STATUSES.items()}


def refused(error: BrewError, path: str) -> JSONResponse:
    """The answer to a request for `path` that ends in `error`."""
    if isinstance(error, Refusal):
        headers = {"www-authenticate": "Bearer"} if isinstance(error, Unauthorized) else {}
        if error.retry_after is not None:
            headers["retry-after"] = str(max(1, math.ceil(error.retry_after)))
        return _answer(path, error.status, error.code, str(error), headers)
    if isinstance(error, UserError):
        unknown = isinstance(error, UnknownId | UnknownModel)
        return _answer(path, *((404, "not_found") if unknown else (400, "invalid_request")), str(error))
    return refused(Lost(str(error), _RESTART_SECONDS), path)  # the engine failed, and its process is replaced


def add_error_answers(api: FastAPI) -> None:
    """Makes every error of `api` such an answer."""

    @api.exception_handler(RequestValidationError)
    async def malformed(request: Request, error: RequestValidationError) -> JSONResponse:
        return _answer(request.url.path, 400, "invalid_request", _sentence(error))

    @api.exception_handler(BrewError)
    async def failed(request: Request, error: BrewError) -> JSONResponse:
        if not isinstance(error, UserError | Refusal):
            _LOG.error("%s", error)
        return refused(error, request.url.path)

    @api.exception_handler(HTTPException)
    async def unserved(request: Request, error: HTTPException) -> JSONResponse:
        path = request.url.path
        if error.status_code == 400:  # FastAPI's word for a body that it could not decode
            sentence = "the body is not JSON in UTF-8; send it so, with content-type application/json."
            return _answer(path, 400, "invalid_request", sentence)
        sentence = f"{request.method} {path} is not served; GET /docs lists what is."
        return _answer(path, error.status_code, "not_served", sentence, error.headers)

    @api.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> JSONResponse:
        _LOG.error("%s %s failed", request.method, request.url.path, exc_info=error)
        sentence = "the service failed on this request; its log says why. Tell the operators."
        return _answer(request.url.path, 500, "failed", sentence)


def _answer(path: str, status: int, code: str, sentence: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    printable = sentence.encode("utf-8", "replace").decode()
    body: dict[str, Any] = {"error": printable, "code": code}
    if path in PATHS:
        body = OpenAIErrorAnswer.of(status, code, printable).model_dump()
    return JSONResponse(body, status, dict(headers or {}))


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
