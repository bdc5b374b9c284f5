"""The HTTP application: the ranking route, health and metrics, other servers' protocols, and the edge around them.

Owns: putting it together, and its OpenAPI document. Does not own: answers (`service`, `openai_api`, `score_api`), who
may ask (`edge`), or how errors read (`error_answers`).
"""

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Response
from fastapi.routing import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from brew_platform.errors import BrewError
from brew_serve.call import Call
from brew_serve.edge import Edge, EdgeConfig
from brew_serve.error_answers import add_error_answers
from brew_serve.json_route import StrictJsonRoute, current_call
from brew_serve.openai_api import openai_router
from brew_serve.protocol import RankRequest, RankResponse
from brew_serve.score_api import score_router
from brew_serve.service import RankService

__all__ = ["create_api"]


class ErrorAnswer(BaseModel):
    """Why a request is not answered."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"error": "task is missing; give it (GET /docs describes the request)."}]}
    )
    error: str = Field(description="one sentence that says what to do")


class Health(BaseModel):
    """The service is well."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"status": "ok", "version": 3}]})
    status: str
    version: int = Field(description="the model version that answers")


_ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"description": "The request cannot be answered as it is"},
    401: {"description": "The API key is missing or unknown"},
    403: {"description": "The team may not do this"},
    404: {"description": "An id or a model that is not known here"},
    408: {"description": "The deadline passed before any work was begun"},
    413: {"description": "The body is too large"},
    429: {"description": "The team's quota is used up; see Retry-After"},
    500: {"description": "A fault of the service"},
    503: {"description": "The service is busy, or its engine failed; see Retry-After"},
}


def create_api(
    service: Callable[[], RankService], config: EdgeConfig | None = None, *, routers: tuple[APIRouter, ...] = ()
) -> FastAPI:
    """The application.

    Args:
        service: gives the service that answers; called for each request, so that the routes exist before it does.
        config: of the edge.
        routers: further routes, behind the same edge.

    Raises:
        UserError: the key file is missing or malformed.
    """
    api = FastAPI(
        title="brew360",
        summary="One language model ranks for every surface.",
        description='Every error is `{"error": "<what to do>"}`. Every answer has `x-request-id` and `traceparent`.',
        version="1",
        redoc_url=None,
        responses={status: {**told, "model": ErrorAnswer} for status, told in _ERRORS.items()},
        strict_content_type=True,
    )
    ranking = APIRouter(route_class=StrictJsonRoute, tags=["ranking"])
    operators = APIRouter(tags=["operation"])

    @ranking.post("/v1/rank")
    async def rank(request: RankRequest, call: Annotated[Call, Depends(current_call)]) -> RankResponse:
        """Ranks candidates for a member; the best first."""
        return await service().rank(request, call)

    @operators.get("/health")
    async def health() -> Health:
        """200 while the service lives; otherwise it should be started anew."""
        service().engine.check()
        return Health(status="ok", version=service().number)

    @operators.get("/ready")
    @operators.get("/healthz", include_in_schema=False)
    async def ready() -> Health:
        """200 when requests can be answered."""
        if service().closing:
            raise BrewError("the service is shutting down; send requests to another replica.")
        return await health()

    @operators.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def metrics() -> Response:
        """Prometheus metrics of the replica that answers; for operators."""
        return Response(service().meters.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    for router in (ranking, openai_router(service), score_router(service), operators, *routers):
        api.include_router(router)
    add_error_answers(api)
    api.add_middleware(Edge, config=config or EdgeConfig(), service=service)
    api.openapi = lambda: _document(FastAPI.openapi(api))  # type: ignore[method-assign]
    return api


def _document(document: dict[str, Any]) -> dict[str, Any]:
    """FastAPI's document without the 422 that it always adds and that no route answers, and with the key."""
    for path in document["paths"].values():
        for operation in path.values():
            operation.get("responses", {}).pop("422", None)
            operation["security"] = [{"key": []}, {}]
    for name in ("HTTPValidationError", "ValidationError"):
        document.get("components", {}).get("schemas", {}).pop(name, None)
    document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    return document
