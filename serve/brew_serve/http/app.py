"""The HTTP application: the ranking route, health and metrics, other servers' protocols, and the edge around them.

It is put together in three ways: `create_api` is all of it around one service, `create_routes` what needs an engine,
for a ranker, and `create_gateway` all of it, where requests that need an engine are handed on to a ranker.

Owns: that, and its OpenAPI document. Does not own: answers (`service`, `openai_api`, `score_api`), who may ask
(`edge`), where requests are handed on to (`forwarding`), or how errors read (`error_answers`).
"""

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Response
from fastapi.routing import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from brew_serve.http.errors import ErrorAnswer, add_error_answers, error_responses
from brew_serve.http.json_route import Forward, RankerRoute, current_call
from brew_serve.http.middleware import Edge, EdgeConfig
from brew_serve.http.request_context import Call
from brew_serve.http.routes.openai import openai_router
from brew_serve.http.routes.score import score_router
from brew_serve.http.service_status import FleetStatus, Front
from brew_serve.ranking.service import RankService
from brew_serve.schemas.rank import RankRequest, RankResponse

__all__ = ["create_api", "create_gateway", "create_routes"]


class Health(BaseModel):
    """The service is well."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"status": "ok", "version": 3}]})
    status: str
    version: int = Field(description="the model version that answers")


def create_api(
    service: Callable[[], RankService], config: EdgeConfig | None = None, *, routers: tuple[APIRouter, ...] = ()
) -> FastAPI:
    """The application around one service.

    Args:
        service: gives the service that answers; called for each request, so that the routes exist before it does.
        config: of the edge.
        routers: further routes, behind the same edge.

    Raises:
        UserError: the key file is missing or malformed.
    """
    return _behind_edge(create_routes(service), service, config or EdgeConfig(), routers)


def create_gateway(
    front: Front, forward: Forward, config: EdgeConfig, *, routers: tuple[APIRouter, ...] = ()
) -> FastAPI:
    """The application of a gateway.

    Args:
        front: the gateway.
        forward: hands a request on that needs an engine.
        config, routers: as `create_api`.

    Raises:
        UserError: as `create_api`.
    """

    def nowhere() -> RankService:
        raise AssertionError("a gateway hands these requests on")

    api = create_routes(nowhere)
    api.state.forward = forward
    return _behind_edge(api, lambda: front, config, routers)


def create_routes(service: Callable[[], RankService]) -> FastAPI:
    """The routes that need an engine, without an edge: whoever calls them gives a `Call` in the scope's state."""
    api = FastAPI(
        title="brew360",
        summary="One language model ranks for every surface.",
        description='Every error is `{"error": "<what to do>", "code": "<for programs>"}`; on OpenAI\'s routes it is '
        '`{"error": {"message", "type", "param", "code"}}`. Every answer has `x-request-id` and `traceparent`.',
        version="1",
        redoc_url=None,
        responses=error_responses(ErrorAnswer),
        strict_content_type=True,
    )
    ranking = APIRouter(route_class=RankerRoute, tags=["ranking"])

    @ranking.post("/v1/rank")
    async def rank(request: RankRequest, call: Annotated[Call, Depends(current_call)]) -> RankResponse:
        """Ranks candidates for a member; the best first."""
        return await service().rank(request, call)

    for router in (ranking, openai_router(service), score_router(service)):
        api.include_router(router)
    add_error_answers(api)
    return api


def _behind_edge(
    api: FastAPI, front: Callable[[], Front], config: EdgeConfig, routers: tuple[APIRouter, ...]
) -> FastAPI:
    operators = APIRouter(tags=["operation"])

    @operators.get("/health")
    async def health() -> Health:
        """200 while the service lives; otherwise it should be started anew."""
        return Health(status="ok", version=front().health())

    @operators.get("/ready")
    @operators.get("/healthz", include_in_schema=False)
    async def ready() -> Health:
        """200 when requests can be answered."""
        return Health(status="ok", version=front().ready())

    @operators.get("/v1/status")
    async def status() -> FleetStatus:
        """Which versions serve, to whom, and on how many replicas."""
        return await front().status()

    @operators.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def metrics() -> Response:
        """Prometheus metrics; for operators."""
        return Response(await front().metrics(), media_type="text/plain; version=0.0.4; charset=utf-8")

    for router in (operators, *routers):
        api.include_router(router)
    api.add_middleware(Edge, config=config, front=front)
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
