"""The HTTP application of the job gateway.

Every request needs an API key (`Authorization: Bearer ...`) with the scope `jobs`, but for /health and /ready. Errors
are `{"error": "<what to do>", "code": "<for programs>"}`, as those of the ranking service.
"""

import logging
import re
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from brew_cluster.gateway.commands import forbid_environment
from brew_cluster.gateway.controller import JobController
from brew_cluster.gateway.events import JobEvent
from brew_cluster.gateway.metrics import render_metrics
from brew_cluster.gateway.request_log import RequestLog
from brew_cluster.gateway.service import Caller, JobService
from brew_cluster.gateway.spec import JobState, LogPart, Submission, TeamUsage
from brew_platform.errors import BrewError, UserError
from brew_platform.identity.keys import KeyFile, missing_scope
from brew_serve.errors import BodyTooLarge, Forbidden, Overloaded, Refusal, Unauthorized
from brew_serve.http.error_responses import (
    ErrorAnswer,
    describe_error_responses,
    describe_validation_error,
    render_error,
)

__all__ = ["create_app"]

_LOG = logging.getLogger("brew_cluster")
_MOST_BYTES = 262_144  # of a body
_RETRY_SECONDS = 5.0
_KEY_ID = re.compile(r"b360_([0-9a-f]{8})_")


def create_app(service: JobService, controller: JobController) -> FastAPI:
    """Build the application.

    Args:
        service: Answers the requests.
        controller: Its loop runs beside; /ready says whether it can follow the cluster.

    Raises:
        UserError: The key file is missing or malformed.
    """
    forbid_environment()
    keys = KeyFile(Path(service.config.keys_path))
    api = FastAPI(
        title="brew360 jobs",
        summary="Submits jobs to a shared cluster.",
        description='Every error is `{"error": "<what to do>", "code": "<for programs>"}`.',
        version="1",
        redoc_url=None,
        responses=describe_error_responses(ErrorAnswer),
        redirect_slashes=False,
    )
    _add_error_handlers(api)
    api.add_middleware(RequestLog)

    def require(*scopes: str) -> Any:
        def authenticate(request: Request) -> Caller:
            return _authenticate(request, keys, service, scopes)

        return Depends(authenticate)

    Submitter = Annotated[Caller, require("jobs")]
    AnyCaller = Annotated[Caller, require("jobs", "admin")]
    Admin = Annotated[Caller, require("admin")]
    body = {"required": True, "content": {"application/json": {"schema": Submission.model_json_schema()}}}

    @api.post("/v1/jobs", status_code=201, openapi_extra={"requestBody": body})
    async def submit(request: Request, caller: Submitter) -> JobState:
        """Submit a job. The same request_id again returns the same job."""
        return await run_in_threadpool(service.submit, caller, await _read_body(request))

    @api.get("/v1/jobs")
    def jobs(caller: AnyCaller, all_teams: bool = False, ended: bool = False) -> list[JobState]:
        """List the team's jobs, the newest first."""
        return service.jobs(caller, all_teams=all_teams, ended=ended)

    @api.get("/v1/jobs/{job}")
    def show(job: str, caller: AnyCaller) -> JobState:
        """Show a job."""
        return service.show(caller, job)

    @api.post("/v1/jobs/{job}/cancel")
    def cancel(job: str, caller: AnyCaller) -> JobState:
        """Cancel a job: it leaves the queue, or is stopped."""
        return service.cancel(caller, job)

    @api.get("/v1/jobs/{job}/logs")
    def logs(
        job: str,
        caller: AnyCaller,
        attempt: Annotated[int, Query(ge=1, le=1_000_000)] = 1,
        offset: Annotated[int, Query(ge=0, le=2**53)] = 0,
    ) -> LogPart:
        """Return the log of an attempt from a character on; a client that follows calls it again and again."""
        return service.log_part(caller, job, attempt=attempt, offset=offset)

    @api.get("/v1/usage")
    def usage(caller: AnyCaller) -> TeamUsage:
        """What the team uses, and its quotas."""
        return service.usage(caller)

    @api.get("/v1/audit")
    def audit(
        caller: Admin,
        after: Annotated[int, Query(ge=0, le=2**53)] = 0,
        limit: Annotated[int, Query(ge=1, le=1_000)] = 1_000,
    ) -> list[dict[str, Any]]:
        """The events of the ledger after a number, oldest first; for operators."""
        return [_describe_event(event) for event in service.ledger.events(after=after, limit=limit)]

    @api.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    def metrics(caller: Admin) -> Response:
        """Prometheus metrics; for operators."""
        text = render_metrics(service.ledger, service.gateway.teams(), follows_cluster=not controller.problem)
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    @api.get("/health")
    def health() -> dict[str, str]:
        """200 while the process works."""
        return {"status": "ok"}

    @api.get("/ready")
    def ready() -> dict[str, str]:
        """200 while the gateway can read its ledger and follow the cluster."""
        service.ledger.read(lambda state, now: None)
        if controller.problem:
            raise Overloaded(f"the gateway accepts jobs, but cannot start them: {controller.problem}", _RETRY_SECONDS)
        return {"status": "ok"}

    return api


def _authenticate(request: Request, keys: KeyFile, service: JobService, scopes: Sequence[str]) -> Caller:
    """Return who calls.

    Raises:
        Unauthorized: There is no key, or it is unknown.
        Forbidden: The key has none of the scopes.
    """
    kind, _, key = request.headers.get("authorization", "").partition(" ")
    key = key.strip()
    team = keys.team(key) if kind.lower() == "bearer" else None
    parts = _KEY_ID.match(key)
    key_id = parts[1] if parts else ""
    if team is None:
        why = "the API key is unknown or was revoked" if key else "the request has no API key"
        sentence = (
            f"{why}; send `Authorization: Bearer <key>` (BREW360_API_KEY or --key-file of the commands), and ask the "
            f"operators for a key with the scope {scopes[0]}."
        )
        service.refuse_key("", key_id, sentence)
        raise Unauthorized(sentence)
    missing = [missing_scope(team, scope, f"{request.method} {request.url.path[:100]}") for scope in scopes]
    if None not in missing:
        service.refuse_key(team.name, key_id, str(missing[0]))
        raise Forbidden(str(missing[0]))
    return Caller(team=team, key_id=key_id)


async def _read_body(request: Request) -> bytes:
    """Read a body of limited size.

    Raises:
        BodyTooLarge: It is larger.
    """
    chunks, size = [], 0
    async for chunk in request.stream():
        chunks.append(chunk)
        size += len(chunk)
        if size > _MOST_BYTES:
            raise BodyTooLarge(f"the body has more than {_MOST_BYTES:,} bytes; shorten the recipe or the overrides.")
    return b"".join(chunks)


def _describe_event(event: JobEvent) -> dict[str, Any]:
    return {"number": event.number, **event.document()}


def _add_error_handlers(api: FastAPI) -> None:
    def render(error: Exception, request: Request) -> JSONResponse:
        if not isinstance(error, UserError | Refusal):
            _LOG.error("%s %s failed: %s", request.method, request.url.path, error, exc_info=error)
        if isinstance(error, BrewError) and not isinstance(error, UserError | Refusal):
            error = Overloaded(str(error), _RETRY_SECONDS)  # the store or the cluster does not answer
        return render_error(error, request.url.path)

    @api.exception_handler(BrewError)
    async def handle_error(request: Request, error: BrewError) -> JSONResponse:
        return render(error, request)

    @api.middleware("http")
    async def handle_bugs(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        try:
            return await call_next(request)
        except Exception as error:
            return render(error, request)

    @api.exception_handler(RequestValidationError)
    async def handle_validation_error(request: Request, error: RequestValidationError) -> JSONResponse:
        return render_error(UserError(describe_validation_error(error.errors())), request.url.path)

    @api.exception_handler(HTTPException)
    async def handle_http_exception(request: Request, error: HTTPException) -> JSONResponse:
        sentence = f"{request.method} {request.url.path} is not served; GET /docs lists the routes."
        return JSONResponse({"error": sentence, "code": "not_served"}, error.status_code, error.headers)
