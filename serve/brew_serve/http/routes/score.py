"""SGLang's `/v1/score` and vLLM's `/generative_scoring`.

SGLang tokenises query and item as one text; vLLM tokenises each on its own.
"""

import time
from collections.abc import Iterator, Sequence

from brew_platform.errors import UserError
from brew_serve.http.request_context import RequestContext
from brew_serve.http.route import Route
from brew_serve.ranking.compilation import TextPrompts, TextSize
from brew_serve.ranking.service import Costed, RankingService
from brew_serve.ranking.text_service import TextService
from brew_serve.schemas.openai_answers import TextUsage
from brew_serve.schemas.score import (
    GenerativeScoringRequest,
    GenerativeScoringResponse,
    ItemScore,
    ScoreRequest,
    ScoreResponse,
)

__all__ = ["GENERATIVE_SCORING", "SCORE"]

Ids = tuple[int, ...]
Content = str | list[int]


async def score(service: RankingService, request: ScoreRequest, context: RequestContext) -> Costed[ScoreResponse]:
    """SGLang: probabilities of label tokens after query and item."""
    text = TextService(service=service)
    name = text.require_model(request.model)
    query, items = request.query, [request.items] if isinstance(request.items, str) else request.items
    kind = str if isinstance(query, str) else list
    if not all(isinstance(item, kind) for item in items):
        raise UserError("query and items are of two kinds; give both as text, or both as token ids.")

    def encode(item: Content) -> Ids:
        first, second = (item, query) if request.item_first else (query, item)
        if isinstance(first, str):
            return (*text.start, *text.encode(f"{first}{second}"))
        return (*first, *second)

    prompts = await service.compile_text(
        TextPrompts(
            sizes=[_size(query, item, start=text.start) for item in items],
            encoded=map(encode, items),
        ),
        shared=True,
    )
    scores = await text.label_probabilities(prompts, request.label_token_ids, over_labels=request.apply_softmax)
    response = ScoreResponse(scores=scores.response, model=name, usage=_usage(prompts, written=0))
    return Costed(response=response, tokens=scores.tokens)


async def generative_scoring(
    service: RankingService, request: GenerativeScoringRequest, context: RequestContext
) -> Costed[GenerativeScoringResponse]:
    """vLLM: probability of the first label token after query and item."""
    text = TextService(service=service)
    name = text.require_model(request.model)
    query, items = request.query, request.items
    begins = items[0] if request.item_first else query
    start = text.start if request.add_special_tokens and isinstance(begins, str) else ()

    def encode() -> Iterator[Ids]:
        query_ids = _encode(text, query)
        for item in items:
            ids = _encode(text, item)
            yield start + (ids + query_ids if request.item_first else query_ids + ids)

    prompts = await service.compile_text(
        TextPrompts(sizes=[_size(query, item, start=start) for item in items], encoded=encode()),
        shared=True,
    )
    scores = await text.label_probabilities(prompts, request.label_token_ids, over_labels=request.apply_softmax)
    response = GenerativeScoringResponse(
        id=f"generative-scoring-{request.request_id or context.trace.request_id}",
        created=int(time.time()),
        model=name,
        data=[ItemScore(index=i, score=of_labels[0]) for i, of_labels in enumerate(scores.response)],
        usage=_usage(prompts, written=len(prompts)),
    )
    return Costed(response=response, tokens=scores.tokens)


def _encode(text: TextService, value: Content) -> Ids:
    return text.encode(value) if isinstance(value, str) else tuple(value)


def _size(query: Content, item: Content, *, start: Sequence[int]) -> TextSize:
    """Return the size of the prompt that consists of both."""
    contents = (query, item)
    return TextSize(
        characters=sum(len(content) for content in contents if isinstance(content, str)),
        ids=len(start) + sum(len(content) for content in contents if not isinstance(content, str)),
    )


def _usage(prompts: list[Ids], *, written: int) -> TextUsage:
    read = sum(map(len, prompts))
    return TextUsage(prompt_tokens=read, completion_tokens=written, total_tokens=read + written)


SCORE = Route(
    path="/v1/score", handler=score, request=ScoreRequest, response=ScoreResponse, scope="rank", tag="label scores"
)
GENERATIVE_SCORING = Route(
    path="/generative_scoring",
    handler=generative_scoring,
    request=GenerativeScoringRequest,
    response=GenerativeScoringResponse,
    scope="rank",
    tag="label scores",
)
