"""The nearline routes: they accept events and ranking requests, and return the latest ranking.

They use the nearline service of this process, not a `RankingBackend`.
"""

from collections.abc import Callable
from typing import Annotated
from urllib.parse import parse_qsl, unquote

from fastapi import APIRouter, Depends, Query, Request

from brew_platform.errors import UserError
from brew_serve.http.scopes import needs
from brew_serve.http.strict_json import StrictJsonRoute
from brew_serve.nearline.service import NearlineService
from brew_serve.schemas.nearline import (
    EventBatch,
    EventsAccepted,
    NearlineRanking,
    NearlineRankRequest,
    RankAccepted,
)

__all__ = ["nearline_router"]

_ADDRESS = "GET /v1/nearline/rankings?task=TASK&member_id=ID, as in `result`."


def nearline_router(service: Callable[[], NearlineService | None]) -> APIRouter:
    """Build the routes.

    Args:
        service: Called for each request; returns None if this process has none.
    """
    router = APIRouter(route_class=StrictJsonRoute, tags=["nearline"])

    def require_service() -> NearlineService:
        found = service()
        if found is None:
            raise UserError("this service has no nearline routes (setting nearline); use POST /v1/rank.")
        return found

    @router.post("/v1/events", status_code=202, openapi_extra=needs("events"))
    async def events(batch: EventBatch) -> EventsAccepted:
        """Accepts interactions of members; after the response no event is lost, and each is applied once."""
        service = require_service()
        return await service.writing.run(service.events, batch)

    @router.post("/v1/nearline/rank", status_code=202, openapi_extra=needs("rank"))
    async def rank(request: NearlineRankRequest) -> RankAccepted:
        """Requests a ranking that is computed soon, and updated after the member's events."""
        service = require_service()
        return await service.writing.run(service.rank, request)

    @router.get("/v1/nearline/rankings", dependencies=[Depends(_require_exact)], openapi_extra=needs("nearline"))
    async def ranking(
        task: Annotated[str, Query(min_length=1, max_length=100)],
        member_id: Annotated[str, Query(min_length=1, max_length=200)],
    ) -> NearlineRanking:
        """The latest ranking, with the events it includes and its staleness."""
        service = require_service()
        return await service.reading.run(service.ranking, task, member_id)

    @router.get(
        "/v1/nearline/rankings/{ids:path}",
        deprecated=True,
        include_in_schema=False,
        openapi_extra=needs("nearline"),
    )
    async def ranking_by_path(request: Request) -> NearlineRanking:
        """The same, for addresses that earlier versions returned: /v1/nearline/rankings/{task}/{member_id}."""
        raw = request.scope.get("raw_path") or request.scope["path"].encode()
        return await ranking(*_ids_of_path(raw))

    return router


def _require_exact(request: Request) -> None:
    """Refuse a query that names no or several members, or whose bytes would be replaced by other characters.

    Raises:
        UserError: A key occurs twice, or the query is not percent-encoded UTF-8.
    """
    try:
        pairs = parse_qsl(request.scope["query_string"].decode("ascii"), keep_blank_values=True, errors="strict")
    except UnicodeError as error:
        raise UserError("the query is not percent-encoded UTF-8; use `result` as it was returned.") from error
    if len({key for key, _ in pairs}) < len(pairs):
        raise UserError("a key occurs twice in the query; use `result` as it was returned.")


def _ids_of_path(raw: bytes) -> tuple[str, str]:
    """Return task and member id of a path before it was decoded, in which only the separators are slashes.

    Raises:
        UserError: The path does not have two ids in percent-encoded UTF-8.
    """
    try:
        task, member_id = raw.decode("ascii").removeprefix("/v1/nearline/rankings/").split("/")
        return unquote(task, errors="strict"), unquote(member_id, errors="strict")
    except ValueError as error:  # UnicodeError is one
        raise UserError(f"the address has not the ids of a task and a member; use {_ADDRESS}") from error
