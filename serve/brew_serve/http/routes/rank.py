"""`POST /v1/rank`: ranks candidates for a member."""

from brew_serve.http.request_context import RequestContext
from brew_serve.http.route import Route
from brew_serve.ranking.answer_log import Origin
from brew_serve.ranking.service import Costed, RankingService
from brew_serve.schemas.rank import RankRequest, RankResponse

__all__ = ["RANK"]


async def rank(service: RankingService, request: RankRequest, context: RequestContext) -> Costed[RankResponse]:
    """Ranks candidates for a member; the best first."""
    origin = Origin(request_id=context.trace.request_id, role=context.role, received=context.received)
    return await service.rank(request, context.arrival, origin)


RANK = Route(path="/v1/rank", handler=rank, request=RankRequest, response=RankResponse, scope="rank", tag="ranking")
