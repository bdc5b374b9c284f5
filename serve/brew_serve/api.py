"""The HTTP routes and how errors read: every refusal is JSON {"error": "<one sentence that says what to do>"}."""

import logging
from collections.abc import Callable

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from brew_platform.errors import BrewError, UserError
from brew_serve.context import UnknownId
from brew_serve.protocol import RankRequest, RankResponse
from brew_serve.service import RankService

__all__ = ["create_api"]

_LOG = logging.getLogger("brew_serve")


def create_api(service: Callable[[], RankService]) -> FastAPI:
    """The application.

    Args:
        service: gives the service that answers; called for each request, so that the routes exist before it does.
    """
    api = FastAPI(title="brew360", summary="One language model ranks for every surface.", version="1")

    @api.post("/v1/rank", response_model=RankResponse)
    async def rank(request: RankRequest) -> RankResponse:
        """Ranks candidates for a member; the best first."""
        return await service().rank(request)

    @api.get("/healthz")
    async def healthz() -> dict[str, int | str]:
        """200 when requests can be answered."""
        service().engine.check()
        return {"status": "ok", "version": service().number}

    @api.exception_handler(RequestValidationError)
    async def malformed(_: Request, error: RequestValidationError) -> JSONResponse:
        return _refusal(400, _sentence(error))

    @api.exception_handler(UserError)
    async def refused(_: Request, error: UserError) -> JSONResponse:
        return _refusal(404 if isinstance(error, UnknownId) else 400, str(error))

    @api.exception_handler(BrewError)
    async def failed(_: Request, error: BrewError) -> JSONResponse:
        _LOG.error("%s", error)
        return _refusal(503, str(error))

    @api.exception_handler(HTTPException)
    async def unserved(request: Request, error: HTTPException) -> JSONResponse:
        known = "POST /v1/rank and GET /healthz are what this service answers; GET /docs describes them."
        if error.status_code == 400:  # FastAPI's word for a body that it could not decode
            return _refusal(400, "the body is not JSON in UTF-8; send it so, with content-type application/json.")
        return _refusal(error.status_code, f"{request.method} {request.url.path} is not served. {known}")

    @api.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> JSONResponse:
        _LOG.error("%s %s failed", request.method, request.url.path, exc_info=error)
        return _refusal(500, "the service failed on this request; its log says why. Tell the operators.")

    return api


def _refusal(status: int, sentence: str) -> JSONResponse:
    return JSONResponse({"error": sentence}, status)


def _sentence(error: RequestValidationError) -> str:
    """The first thing that is wrong, where it is, and what is wanted instead."""
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return f"the body is not valid JSON ({first['ctx']['error']} at character {first['loc'][-1]}); send one object."
    path = first["loc"][1:]
    if path[:1] == ("candidates",):
        path = path[:2] + path[3:]  # pydantic names the kind of candidate in between
    where = ".".join(map(str, path)) or "the body"
    if first["type"] == "value_error":  # a sentence of our own, which names what it is about
        return f"{first['msg'].removeprefix('Value error, ')}."
    if first["type"] == "extra_forbidden":
        return f"{where} is not a key of this request; remove it, or correct its spelling (GET /docs lists them)."
    if first["type"] == "missing":
        return f"{where} is missing; give it (GET /docs describes the request)."
    return f"{where}: {first['msg']}."
