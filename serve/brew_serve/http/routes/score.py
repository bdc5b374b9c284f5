"""SGLang's `/v1/score` and vLLM's `/generative_scoring`.

Owns: those bodies, from request to answer, and how each of the two puts query and item together: SGLang tokenises them
as one text, vLLM each for itself. Does not own: the probabilities (`text`).
"""

import time
from collections.abc import Callable
from typing import Annotated

from fastapi import APIRouter, Depends

from brew_platform.errors import UserError
from brew_serve.http.json_route import RankerRoute, current_call
from brew_serve.http.request_context import Call
from brew_serve.ranking.service import RankService
from brew_serve.ranking.text_service import TextService
from brew_serve.schemas.openai import TextUsage
from brew_serve.schemas.score import (
    GenerativeScoringRequest,
    GenerativeScoringResponse,
    ItemScore,
    ScoreRequest,
    ScoreResponse,
)

__all__ = ["score_router"]

Ids = tuple[int, ...]


def score_router(service: Callable[[], RankService]) -> APIRouter:
    """The routes; `service` is asked for each request."""
    router = APIRouter(route_class=RankerRoute, tags=["label scores"])

    @router.post("/v1/score")
    async def score(request: ScoreRequest, call: Annotated[Call, Depends(current_call)]) -> ScoreResponse:
        """SGLang: probabilities of label tokens after query and item."""
        text = TextService(service=service())
        name = text.require_model(request.model)
        query, items = request.query, [request.items] if isinstance(request.items, str) else request.items
        prompts: list[Ids] = []
        for item in items:
            first, second = (item, query) if request.item_first else (query, item)
            if isinstance(first, str) and isinstance(second, str):
                prompts.append(text.encode(first + second))
            elif isinstance(first, list) and isinstance(second, list):
                prompts.append((*first, *second))
            else:
                raise UserError("query and items are of two kinds; give both as text, or both as token ids.")
        scores = await text.label_probabilities(
            prompts,
            request.label_token_ids,
            softmax=request.apply_softmax,
            call=call,
        )
        return ScoreResponse(scores=scores, model=name, usage=_usage(prompts, written=0))

    @router.post("/generative_scoring")
    async def generative_scoring(
        request: GenerativeScoringRequest, call: Annotated[Call, Depends(current_call)]
    ) -> GenerativeScoringResponse:
        """vLLM: probability of the first label token after query and item."""
        text = TextService(service=service())
        name = text.require_model(request.model)
        query = _ids(text, request.query)
        items = [_ids(text, item) for item in request.items]
        prompts = [item + query if request.item_first else query + item for item in items]
        scores = await text.label_probabilities(
            prompts,
            request.label_token_ids,
            softmax=request.apply_softmax,
            call=call,
        )
        return GenerativeScoringResponse(
            id=f"generative-scoring-{request.request_id or call.trace.request_id}",
            created=int(time.time()),
            model=name,
            data=[ItemScore(index=i, score=of_labels[0]) for i, of_labels in enumerate(scores)],
            usage=_usage(prompts, written=len(prompts)),
        )

    return router


def _ids(text: TextService, given: str | list[int]) -> Ids:
    return text.encode(given) if isinstance(given, str) else tuple(given)


def _usage(prompts: list[Ids], *, written: int) -> TextUsage:
    read = sum(map(len, prompts))
    return TextUsage(prompt_tokens=read, completion_tokens=written, total_tokens=read + written)
