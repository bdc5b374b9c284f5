"""The nearline routes: events in, rankings asked for and read.

Owns: these routes. Does not own: answers (`nearline.service`), the edge and errors (`api.create_api`, which takes this
router).
"""

import asyncio
from collections.abc import Callable
from typing import Annotated

from fastapi import APIRouter, Path

from brew_platform.errors import UserError
from brew_serve.http.json_route import StrictJsonRoute
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
    """The routes; `service` is asked for each request, None where the service was started without this plane."""
    router = APIRouter(route_class=StrictJsonRoute, tags=["nearline"])

    def served() -> NearlineService:
        found = service()
        if found is None:
            raise UserError("this service was started without its nearline plane; use POST /v1/rank.")
        return found

    @router.post("/v1/events", status_code=202)
    async def events(batch: EventBatch) -> EventsAccepted:
        """Tells what members did; once this is answered, no event is lost, and each is applied once."""
        return await asyncio.to_thread(served().events, batch)

    @router.post("/v1/nearline/rank", status_code=202)
    async def rank(request: NearlineRankRequest) -> RankAccepted:
        """Asks for a ranking that is computed soon, and kept up to date with the member's events."""
        return await asyncio.to_thread(served().rank, request)

    @router.get("/v1/nearline/rankings/{task}/{member_id}")
    async def ranking(
        task: Annotated[str, Path(max_length=100)], member_id: Annotated[str, Path(max_length=200)]
    ) -> NearlineRanking:
        """The latest ranking, with what it has seen and how far it is behind."""
        return await asyncio.to_thread(served().ranking, task, member_id)

    return router
