"""The scope that a route needs (`brew_platform.identity.keys.SCOPES`): declared with the route, found by a request.

A route declares its scope as `openapi_extra=needs(scope)`, so that the OpenAPI document has it too. The application
refuses a route that declares none; only the routes in `OPEN` need no key.
"""

from collections.abc import Iterator, MutableMapping, Sequence
from typing import Any

from fastapi.routing import APIRoute
from starlette.routing import BaseRoute, Match

from brew_platform.identity.keys import SCOPES

__all__ = ["OPEN", "find_route", "move_scopes", "needs", "scope_of"]

# For probes, which send no key, and for developers of clients; they reveal nothing about members, models or load.
# Their bodies are never read.
OPEN = frozenset({"/health", "/healthz", "/ready", "/docs", "/openapi.json"})

_EXTRA = "x-scope"


def needs(scope: str) -> dict[str, Any]:
    """Return the argument `openapi_extra` of a route whose callers need `scope`."""
    return {_EXTRA: scope}


def scope_of(route: BaseRoute | None) -> str | None:
    """Return the scope that a route needs. None: it is one of FastAPI's own, or there is no route.

    Raises:
        ValueError: The route is outside `OPEN` and declares no scope, or an unknown one.
    """
    if not isinstance(route, APIRoute) or route.path in OPEN:
        return None
    scope = (route.openapi_extra or {}).get(_EXTRA)
    if scope not in SCOPES:
        raise ValueError(
            f"the route {route.path} declares the scope {scope!r}; declare any of {', '.join(SCOPES)}, as "
            f"openapi_extra=needs(...), or as `scope` of a Route."
        )
    return str(scope)


def find_route(routes: Sequence[BaseRoute], scope: MutableMapping[str, Any]) -> BaseRoute | None:
    """Return the route that the application selects for a request; None if it answers 404.

    The routes themselves compare the path, so that no spelling of a path reaches a route whose scope is not checked.
    """
    partial = None  # its path fits, and its method does not
    for route in routes:
        match, _ = route.matches(scope)
        if match is Match.FULL:
            return route
        if match is Match.PARTIAL and partial is None:
            partial = route
    return partial


def move_scopes(document: MutableMapping[str, Any]) -> None:
    """Move the scopes in an OpenAPI document from where `needs` puts them to the security of each operation."""
    for operation in _operations(document):
        scope = operation.pop(_EXTRA, None)
        operation.setdefault("security", [{"key": [] if scope is None else [scope]}, {}])


def _operations(document: MutableMapping[str, Any]) -> Iterator[dict[str, Any]]:
    for path in document["paths"].values():
        yield from path.values()
