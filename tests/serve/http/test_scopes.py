"""Every route needs a scope of the caller's key, and no spelling of a path avoids it."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute, APIRouter

from brew_platform.identity.keys import SCOPES, create_key
from brew_serve.http.app import create_app
from brew_serve.http.backend import LocalBackend
from brew_serve.http.config import MiddlewareConfig
from brew_serve.http.routes.nearline import nearline_router
from brew_serve.http.scopes import OPEN, needs, scope_of
from brew_serve.ranking.service import RankingService

from ..http_client import client_of_app

EXPECTED = {
    "/v1/rank": "rank",
    "/v1/score": "rank",
    "/generative_scoring": "rank",
    "/v1/completions": "rank",
    "/v1/chat/completions": "rank",
    "/v1/models": "rank",
    "/v1/models/{model:path}": "rank",
    "/v1/status": "rank",
    "/v1/nearline/rank": "rank",
    "/v1/nearline/rankings": "nearline",
    "/v1/nearline/rankings/{ids:path}": "nearline",
    "/v1/events": "events",
    "/metrics": "admin",
}


@pytest.fixture
def keys(tmp_path: Path) -> dict[str, str]:
    """A key for each scope, and one without any."""
    path = tmp_path / "keys.yaml"
    keys = {scope: create_key(path, scope, scopes={scope}) for scope in SCOPES}
    create_key(path, "nothing", scopes={"rank"})
    return {**keys, "nothing": create_key(path, "nothing", key_scopes=set())}


@pytest.fixture
def api(service: RankingService, keys: dict[str, str], tmp_path: Path) -> FastAPI:
    config = MiddlewareConfig(keys_path=str(tmp_path / "keys.yaml"))
    return create_app(LocalBackend(service), config, routers=[nearline_router(lambda: None)])


@pytest.fixture
async def http(api: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of_app(api) as client:
        yield client


def test_every_route_declares_a_scope(api: FastAPI) -> None:
    routes = [route for route in api.routes if isinstance(route, APIRoute) and route.path not in OPEN]
    assert {route.path: scope_of(route) for route in routes} == EXPECTED
    assert {route.path for route in api.routes if isinstance(route, APIRoute)} - EXPECTED.keys() <= OPEN


async def test_a_key_reaches_the_routes_of_its_scopes_only(
    api: FastAPI, http: httpx.AsyncClient, keys: dict[str, str]
) -> None:
    for route in (route for route in api.routes if isinstance(route, APIRoute) and route.path in EXPECTED):
        path = route.path.replace("{model:path}", "brew360").replace("{ids:path}", "job_apply/m1")
        for method in (*route.methods, "DELETE"):
            for scope, key in keys.items():
                answer = await http.request(method, path, headers={"authorization": f"Bearer {key}"})
                if scope == EXPECTED[route.path]:
                    assert answer.status_code not in (401, 403), (method, path, scope)
                    continue
                assert answer.status_code == 403, (method, path, scope)
                error = answer.json()["error"]
                sentence = error["message"] if isinstance(error, dict) else error
                assert sentence.startswith(
                    f"{method} {route.path} needs a key with the scope {EXPECTED[route.path]}, and this key of team "
                )
                assert "ask the operators" in sentence


@pytest.mark.parametrize("path", ["/metrics%0a", "/metrics%0A", "//metrics", "/metrics/", "/./metrics", "/%6detrics"])
async def test_another_spelling_of_a_path_needs_the_same_scope(
    http: httpx.AsyncClient, keys: dict[str, str], path: str
) -> None:
    answer = await http.get(path, headers={"authorization": f"Bearer {keys['rank']}"})
    assert answer.status_code in (403, 404)


async def test_open_routes_need_no_scope(http: httpx.AsyncClient, keys: dict[str, str]) -> None:
    for path in OPEN:
        assert (await http.get(path)).status_code == 200
        assert (await http.get(path, headers={"authorization": f"Bearer {keys['nothing']}"})).status_code == 200


async def test_the_openapi_document_has_the_scopes(http: httpx.AsyncClient) -> None:
    for _ in range(2):  # FastAPI keeps the document
        document: dict[str, Any] = (await http.get("/openapi.json")).json()
        assert document["paths"]["/v1/events"]["post"]["security"] == [{"key": ["events"]}, {}]
        assert document["paths"]["/health"]["get"]["security"] == [{"key": []}, {}]
        assert "x-scope" not in str(document)


@pytest.mark.parametrize("extra", [None, needs("root")])
def test_a_route_without_a_scope_is_refused(service: RankingService, extra: dict[str, Any] | None) -> None:
    router = APIRouter()

    @router.get("/v1/new", openapi_extra=extra)
    async def new() -> None: ...

    with pytest.raises(ValueError, match=r"the route /v1/new declares the scope .*; declare any of rank, events"):
        create_app(LocalBackend(service), routers=[router])
