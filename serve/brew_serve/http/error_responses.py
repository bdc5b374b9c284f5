"""Renders errors as HTTP responses: JSON with one sentence that says what to do, and a code for programs.

our routes    {"error": "<sentence>", "code": "<code>"}
OpenAI's      {"error": {"message": "<sentence>", "type": ..., "param": null, "code": "<code>"}}
"""

import logging
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from brew_platform.errors import BrewError, UserError
from brew_serve.context.base import UnknownId
from brew_serve.errors import Lost, Refusal, Unauthorized, UnknownModel
from brew_serve.schemas.openai import is_openai_path
from brew_serve.schemas.openai_answers import OpenAIErrorAnswer

__all__ = [
    "ErrorAnswer",
    "add_error_handlers",
    "describe_error_responses",
    "describe_validation_error",
    "log_error",
    "render_error",
]

_LOG = logging.getLogger("brew_serve")
_RESTART_SECONDS = 10.0  # Retry-After of a failed engine; Serve checks the health of its replicas every 5 seconds
_UNION_BRANCH = re.compile(r"(?:constrained-)?(?:str|int)|.*\[.*")  # how pydantic names the branches of a union

_STATUSES = {
    400: "The request is invalid",
    401: "The API key is missing or unknown",
    403: "The API key lacks the scope of this route",
    404: "An id or a model is unknown to this service",
    408: "The deadline passed before any work began, or the body did not arrive in time",
    409: "Calibrated probabilities of a version that has no calibration map of the task",
    413: "The body is too large",
    429: "The team's quota is used up; see Retry-After",
    500: "The service failed",
    503: "The service is busy (overloaded), or a component is down (lost, unavailable); see Retry-After",
    504: "No response in time; see Retry-After",
}


class ErrorAnswer(BaseModel):
    """Error response."""

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
        "uncalibrated",
        "body_too_large",
        "quota_exceeded",
        "overloaded",
        "lost",
        "unavailable",
        "late",
    ] = Field(description="stable, for programs")


def describe_error_responses(model: type[BaseModel]) -> dict[int | str, dict[str, Any]]:
    """Return the error responses of a route for the OpenAPI document; their bodies are instances of `model`."""
    return {status: {"description": description, "model": model} for status, description in _STATUSES.items()}


def render_error(error: Exception, path: str) -> JSONResponse:
    """Return the response to a request for `path` that ended in `error`.

    An error that is not a BrewError is a bug: its text may hold private data, so the response does not repeat it.
    """
    if isinstance(error, Refusal):
        headers = {"www-authenticate": "Bearer"} if isinstance(error, Unauthorized) else {}
        if error.retry_after is not None:
            headers["retry-after"] = str(max(1, math.ceil(error.retry_after)))
        return _render(path, error.status, error.code, str(error), headers)
    if isinstance(error, UserError):
        unknown = isinstance(error, UnknownId | UnknownModel)
        return _render(path, *((404, "not_found") if unknown else (400, "invalid_request")), str(error))
    if isinstance(error, BrewError):  # the engine failed, and Serve replaces its process
        return render_error(Lost(str(error), _RESTART_SECONDS), path)
    return _render(path, 500, "failed", "the service failed on this request; its log says why. Tell the operators.")


def log_error(error: Exception, route: str, request_id: str) -> None:
    """Log errors that the caller did not cause: failures of the service with their text, bugs with their traceback.

    Args:
        error: That ended the request.
        route: Template of the path, which contains no ids.
        request_id: Of the request.
    """
    fields = {"route": route, "request_id": request_id}
    if not isinstance(error, BrewError):
        _LOG.error("a request failed", exc_info=error, extra={"fields": fields})
    elif not isinstance(error, UserError | Refusal):
        _LOG.error("%s", error, extra={"fields": fields})


def add_error_handlers(api: FastAPI) -> None:
    """Render the errors of `api` with `render_error`. `RequestMiddleware` renders those that are not a BrewError."""

    @api.exception_handler(RequestValidationError)
    async def handle_validation_error(request: Request, error: RequestValidationError) -> JSONResponse:
        return _render(request.scope["path"], 400, "invalid_request", describe_validation_error(error.errors()))

    @api.exception_handler(BrewError)
    async def handle_error(request: Request, error: BrewError) -> JSONResponse:
        log_error(error, request.scope["route"].path, request.state.context.trace.request_id)
        return render_error(error, request.scope["path"])

    @api.exception_handler(HTTPException)
    async def handle_http_exception(request: Request, error: HTTPException) -> JSONResponse:
        path = request.scope["path"]
        sentence = f"{request.method} {path} is not served; GET /docs lists the routes."
        return _render(path, error.status_code, "not_served", sentence, error.headers)


def describe_validation_error(errors: Sequence[Mapping[str, Any]]) -> str:
    """Return one sentence about the first of pydantic's errors: where it is, and what is expected.

    Args:
        errors: As `RequestValidationError.errors()` returns them; each `loc` begins with "body" or "path".
    """
    first = errors[0]
    path = [str(part) for part in first["loc"][1:]]
    if path[:1] == ["candidates"]:
        del path[2:3]  # pydantic inserts the kind of the candidate there
    where = ".".join(part for part in path if not _UNION_BRANCH.fullmatch(part)) or "the body"
    if first["type"] == "value_error":  # raised by our own validators, with a complete sentence
        return f"{first['msg'].removeprefix('Value error, ')}."
    if first["type"] == "extra_forbidden":
        return f"{where} is not a key of this request; remove it, or correct its spelling (GET /docs lists them)."
    if first["type"] == "missing":
        return f"{where} is missing; give it (GET /docs describes the request)."
    return f"{where}: {first['msg']}."


def _render(path: str, status: int, code: str, sentence: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    printable = sentence.encode("utf-8", "replace").decode()
    body: dict[str, Any] = {"error": printable, "code": code}
    if is_openai_path(path):
        body = OpenAIErrorAnswer.of(status, code, printable).model_dump()
    return JSONResponse(body, status, dict(headers or {}))
