"""The HTTP application: middleware, the routes that a backend answers, and the operators' routes."""

import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from inspect import Parameter, Signature
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse
from fastapi.routing import APIRoute, APIRouter
from starlette.types import Receive, Scope, Send

from brew_serve.http.backend import RankingBackend
from brew_serve.http.config import MiddlewareConfig
from brew_serve.http.error_responses import ErrorAnswer, add_error_handlers, describe_error_responses
from brew_serve.http.middleware import RequestMiddleware
from brew_serve.http.route import EVENT_STREAM, Route
from brew_serve.http.routes import ROUTES
from brew_serve.http.scheduler import RequestScheduler
from brew_serve.http.scopes import move_scopes, needs, scope_of
from brew_serve.http.shared_quota import open_quotas
from brew_serve.schemas.status import FleetStatus, Health

__all__ = ["create_app"]


def create_app(
    backend: RankingBackend,
    config: MiddlewareConfig | None = None,
    *,
    routes: Sequence[Route] = ROUTES,
    routers: Sequence[APIRouter] = (),
    degraded: Callable[[], list[str]] = list,
    gateways: int = 1,
) -> FastAPI:
    """Build the application.

    Args:
        backend: Answers `routes`.
        config: Of the middleware.
        routes: The routes that the backend answers.
        routers: FastAPI routers that need no backend, such as the nearline routes.
        degraded: Returns the parts of the service that wait for something outside it, for the health routes.
        gateways: Number of processes that serve the application, for quotas while their Redis is down.

    Raises:
        UserError: The key file is missing or malformed, or the settings of the quotas cannot be used.
    """
    config = config or MiddlewareConfig()
    quotas = open_quotas(config.quotas, backend.clock, backend.meters, gateways=gateways)

    @asynccontextmanager
    async def lifespan(api: FastAPI) -> AsyncIterator[None]:
        await quotas.open()
        yield
        await quotas.close()

    api = FastAPI(
        title="brew360",
        summary="One language model ranks for every surface.",
        description='Every error is `{"error": "<what to do>", "code": "<for programs>"}`; on OpenAI\'s routes it is '
        '`{"error": {"message", "type", "param", "code"}}`. Every answer has `x-request-id` and `traceparent`.',
        version="1",
        lifespan=lifespan,
        redoc_url=None,
        responses=describe_error_responses(ErrorAnswer),
        strict_content_type=True,
        redirect_slashes=False,  # the address of one id must not lead to that of another
    )
    scheduler = RequestScheduler(backend, quotas, max_waiting=config.max_waiting_requests)
    for route in routes:
        _add_route(api, route, scheduler)

    def list_degraded() -> list[str]:
        return [*degraded(), *(["quotas"] if quotas.problem else [])]

    for router in (_operator_router(backend, list_degraded), *routers):
        api.include_router(router)
    add_error_handlers(api)
    for added in api.routes:
        scope_of(added)  # raises if a route declares none
    api.add_middleware(
        RequestMiddleware,
        config=config,
        backend=backend,
        routes=tuple(api.routes),
        quotas=quotas,
        scheduled=frozenset(route.path for route in routes),
    )
    api.openapi = lambda: _adapt_document(FastAPI.openapi(api))  # type: ignore[method-assign]
    return api


_STREAMED: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The whole response, or with stream: true, server-sent events",
        "content": {EVENT_STREAM: {"schema": {"type": "string"}}},
    }
}


def _add_route(api: FastAPI, route: Route, scheduler: RequestScheduler) -> None:
    """Add an endpoint that passes the unparsed body to the backend; FastAPI only documents its models."""

    async def respond(request: Request) -> Response:
        body, content_type = await request.body(), request.headers.get("content-type", "")
        if request.path_params:
            body, content_type = json.dumps(request.path_params).encode(), "application/json"
        response = await scheduler.respond(route, body, content_type, request.state.context)
        if response.events is not None:
            return _EventStream(response.events, response.status, response.headers)
        return Response(response.body, response.status, response.headers)

    class BackendRoute(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            return respond

    async def document(**parameters: Any) -> None: ...

    document.__signature__ = Signature(_describe_parameters(route))  # type: ignore[attr-defined]
    api.router.add_api_route(
        route.path,
        document,
        methods=[route.method],
        name=route.handler.__name__,
        description=route.handler.__doc__,
        tags=[route.tag],
        openapi_extra=needs(route.scope),
        response_model=route.response,
        responses={**describe_error_responses(route.error), **(_STREAMED if route.streams else {})},
        route_class_override=BackendRoute,
    )


def _describe_parameters(route: Route) -> list[Parameter]:
    """Return the parameters of a function that FastAPI documents as the route."""
    if route.request is None:
        return []
    if route.method == "POST":
        return [Parameter("body", Parameter.KEYWORD_ONLY, annotation=route.request)]
    fields = route.request.model_fields.items()
    return [Parameter(name, Parameter.KEYWORD_ONLY, annotation=field.annotation) for name, field in fields]


class _EventStream(StreamingResponse):
    """A stream of events. A client that disconnects closes it, which stops the work."""

    def __init__(self, events: AsyncGenerator[bytes, None], status: int, headers: Mapping[str, str]) -> None:
        super().__init__(events, status, headers)
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._events):
            await super().__call__(scope, receive, send)


def _operator_router(backend: RankingBackend, degraded: Callable[[], list[str]]) -> APIRouter:
    router = APIRouter(tags=["operation"])

    @router.get("/health", response_model_exclude_defaults=True)
    @router.head("/health", include_in_schema=False)
    async def health() -> Health:
        """200 while the service works; otherwise it should be restarted."""
        return Health(status="ok", version=backend.check_health(), degraded=degraded())

    @router.get("/ready", response_model_exclude_defaults=True)
    @router.head("/ready", include_in_schema=False)
    @router.get("/healthz", include_in_schema=False, response_model_exclude_defaults=True)
    @router.head("/healthz", include_in_schema=False)
    async def ready() -> Health:
        """200 when requests can be answered."""
        return Health(status="ok", version=backend.check_ready(), degraded=degraded())

    @router.get("/v1/status", openapi_extra=needs("rank"))
    async def status() -> FleetStatus:
        """Which versions serve, which members they serve, and on how many replicas."""
        return await backend.status()

    @router.get(
        "/metrics",
        response_class=Response,
        responses={200: {"content": {"text/plain": {}}}},
        openapi_extra=needs("admin"),
    )
    async def metrics() -> Response:
        """Prometheus metrics; for operators."""
        return Response(await backend.metrics(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return router


def _adapt_document(document: dict[str, Any]) -> dict[str, Any]:
    """Remove the 422 that FastAPI adds and that no route returns, and add the API key and its scopes."""
    for path in document["paths"].values():
        for operation in path.values():
            operation.get("responses", {}).pop("422", None)
    move_scopes(document)
    for name in ("HTTPValidationError", "ValidationError"):
        document.get("components", {}).get("schemas", {}).pop(name, None)
    document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    return document
