"""The HTTP application: middleware, the routes that a backend answers, and the operators' routes."""

from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.routing import APIRoute, APIRouter

from brew_serve.errors import QuotaExceeded
from brew_serve.http.backend import RankingBackend
from brew_serve.http.error_responses import ErrorAnswer, add_error_handlers, describe_error_responses
from brew_serve.http.middleware import MiddlewareConfig, RequestMiddleware
from brew_serve.http.quota import TeamQuota
from brew_serve.http.route import BackendResponse, Route
from brew_serve.http.routes import ROUTES
from brew_serve.schemas.status import FleetStatus, Health

__all__ = ["create_app"]


def create_app(
    backend: RankingBackend,
    config: MiddlewareConfig | None = None,
    *,
    routes: Sequence[Route] = ROUTES,
    routers: Sequence[APIRouter] = (),
) -> FastAPI:
    """Build the application.

    Args:
        backend: Answers `routes`.
        config: Of the middleware.
        routes: The routes that the backend answers.
        routers: FastAPI routers that need no backend, such as the nearline routes.

    Raises:
        UserError: The key file is missing or malformed.
    """
    api = FastAPI(
        title="brew360",
        summary="One language model ranks for every surface.",
        description='Every error is `{"error": "<what to do>", "code": "<for programs>"}`; on OpenAI\'s routes it is '
        '`{"error": {"message", "type", "param", "code"}}`. Every answer has `x-request-id` and `traceparent`.',
        version="1",
        redoc_url=None,
        responses=describe_error_responses(ErrorAnswer),
        strict_content_type=True,
    )
    for route in routes:
        _add_route(api, route, backend)
    for router in (_operator_router(backend), *routers):
        api.include_router(router)
    add_error_handlers(api)
    api.add_middleware(RequestMiddleware, config=config or MiddlewareConfig(), backend=backend)
    api.openapi = lambda: _adapt_document(FastAPI.openapi(api))  # type: ignore[method-assign]
    return api


def _add_route(api: FastAPI, route: Route, backend: RankingBackend) -> None:
    """Add an endpoint that passes the unparsed body to the backend; FastAPI only documents its models."""

    async def respond(request: Request) -> Response:
        context, quota = request.state.context, request.state.quota
        body = await request.body()
        expected = 0 if quota is None or route.method != "POST" else _charge(quota, backend)
        tokens = 0
        try:
            response: BackendResponse = await backend.respond(
                route, body, request.headers.get("content-type", ""), context
            )
            tokens = response.tokens
        finally:
            if quota is not None and route.method == "POST":
                quota.settle(expected, tokens)
        return Response(response.body, response.status, response.headers)

    class BackendRoute(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            return respond

    async def document() -> None: ...

    async def document_body(body: Any) -> None: ...

    if route.request is not None:
        document_body.__annotations__["body"] = route.request
    api.router.add_api_route(
        route.path,
        document if route.request is None else document_body,
        methods=[route.method],
        name=route.handler.__name__,
        description=route.handler.__doc__,
        tags=[route.tag],
        response_model=route.response,
        responses=describe_error_responses(route.error),
        route_class_override=BackendRoute,
    )


def _charge(quota: TeamQuota, backend: RankingBackend) -> int:
    try:
        return quota.expect(backend.clock())
    except QuotaExceeded:
        backend.meters.shed.labels("quota").inc()
        raise


def _operator_router(backend: RankingBackend) -> APIRouter:
    router = APIRouter(tags=["operation"])

    @router.get("/health")
    async def health() -> Health:
        """200 while the service works; otherwise it should be restarted."""
        return Health(status="ok", version=backend.check_health())

    @router.get("/ready")
    @router.get("/healthz", include_in_schema=False)
    async def ready() -> Health:
        """200 when requests can be answered."""
        return Health(status="ok", version=backend.check_ready())

    @router.get("/v1/status")
    async def status() -> FleetStatus:
        """Which versions serve, which members they serve, and on how many replicas."""
        return await backend.status()

    @router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def metrics() -> Response:
        """Prometheus metrics; for operators."""
        return Response(await backend.metrics(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return router


def _adapt_document(document: dict[str, Any]) -> dict[str, Any]:
    """Remove the 422 that FastAPI adds and that no route returns, and add the API key."""
    for path in document["paths"].values():
        for operation in path.values():
            operation.get("responses", {}).pop("422", None)
            operation["security"] = [{"key": []}, {}]
    for name in ("HTTPValidationError", "ValidationError"):
        document.get("components", {}).get("schemas", {}).pop(name, None)
    document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    return document
