"""The nearline routes: they accept events and ranking requests, and return the latest ranking.

They use the nearline service of this process, not a `RankingBackend`.
"""

import asyncio
from collections.abc import Callable
from typing import Annotated

from fastapi import APIRouter, Path

from brew_platform.errors import UserError
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

    @router.post("/v1/events", status_code=202)
    async def events(batch: EventBatch) -> EventsAccepted:
        """Accepts interactions of members; after the response no event is lost, and each is applied once."""
        return await asyncio.to_thread(require_service().events, batch)

    @router.post("/v1/nearline/rank", status_code=202)
    async def rank(request: NearlineRankRequest) -> RankAccepted:
        """Requests a ranking that is computed soon, and updated after the member's events."""
        return await asyncio.to_thread(require_service().rank, request)

    @router.get("/v1/nearline/rankings/{task}/{member_id}")
    async def ranking(
        task: Annotated[str, Path(max_length=100)], member_id: Annotated[str, Path(max_length=200)]
    ) -> NearlineRanking:
        """The latest ranking, with the events it includes and its staleness."""
        return await asyncio.to_thread(require_service().ranking, task, member_id)

    return router
