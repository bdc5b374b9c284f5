"""OpenAI's routes: models, completions and chat completions.

Owns: those bodies, from request to answer. Does not own: how texts are made (`text`) or chats become prompts (`chat`).
"""

import time
from collections.abc import Callable
from typing import Annotated

from fastapi import APIRouter, Depends

from brew_data.prompts.chat import chat_ids
from brew_serve.engines.base import Generated, Sampling
from brew_serve.http.errors import error_responses
from brew_serve.http.json_route import RankerRoute, current_call
from brew_serve.http.request_context import Call
from brew_serve.ranking.service import RankService
from brew_serve.ranking.text_service import TextService
from brew_serve.schemas.openai import (
    CHAT,
    COMPLETIONS,
    MODELS,
    ChatAnswer,
    ChatChoice,
    ChatLogprobs,
    ChatRequest,
    ChatResponse,
    ChatTokenLogprob,
    ChatTopLogprob,
    Choice,
    CompletionRequest,
    CompletionResponse,
    Logprobs,
    ModelCard,
    ModelList,
    OpenAIErrorAnswer,
    TextUsage,
)

__all__ = ["openai_router"]

_GREEDY_BELOW = 0.01  # a division by less would overflow


def openai_router(service: Callable[[], RankService]) -> APIRouter:
    """The routes; `service` is asked for each request."""
    router = APIRouter(route_class=RankerRoute, tags=["OpenAI"], responses=error_responses(OpenAIErrorAnswer))

    @router.get(MODELS)
    async def models() -> ModelList:
        """The names under which the served version can be asked for."""
        served = service()
        length = served.version.compiler.format.context_length
        made = int((served.version.folder / "config.json").stat().st_mtime)
        names = TextService(service=served).names
        return ModelList(data=[ModelCard(id=name, created=made, max_model_len=length) for name in names])

    @router.post(COMPLETIONS)
    async def completions(
        request: CompletionRequest, call: Annotated[Call, Depends(current_call)]
    ) -> CompletionResponse:
        """Continues each prompt."""
        text = TextService(service=service())
        name = text.require_model(request.model)
        prompts = _prompts(text, request)
        made = await text.generate(prompts, _sampling(request, request.max_tokens, request.logprobs or 0), call)
        return CompletionResponse(
            id=f"cmpl-{call.trace.request_id}",
            created=int(time.time()),
            model=name,
            choices=[
                Choice(
                    index=i,
                    text=text.decode(one.ids),
                    logprobs=None if request.logprobs is None else _logprobs(text, one),
                    finish_reason=one.finish,
                )
                for i, one in enumerate(made)
            ],
            usage=_usage(prompts, made),
        )

    @router.post(CHAT)
    async def chat_completions(request: ChatRequest, call: Annotated[Call, Depends(current_call)]) -> ChatResponse:
        """Answers the last message."""
        text = TextService(service=service())
        name = text.require_model(request.model)
        messages = [(message.role, message.words()) for message in request.messages]
        prompts = [chat_ids(text.service.version.compiler.tokenizer, messages)]
        most = request.max_completion_tokens or request.max_tokens or 16
        made = await text.generate(prompts, _sampling(request, most, request.top_logprobs), call)
        return ChatResponse(
            id=f"chatcmpl-{call.trace.request_id}",
            created=int(time.time()),
            model=name,
            choices=[
                ChatChoice(
                    index=0,
                    message=ChatAnswer(content=text.decode(made[0].ids)),
                    logprobs=_chat_logprobs(text, made[0]) if request.logprobs else None,
                    finish_reason=made[0].finish,
                )
            ],
            usage=_usage(prompts, made),
        )

    return router


def _prompts(text: TextService, request: CompletionRequest) -> list[tuple[int, ...]]:
    """Token ids of each prompt; text is encoded without control tokens."""
    given: list = [request.prompt] if isinstance(request.prompt, str) else request.prompt
    if isinstance(given[0], int):
        given = [given]
    return [text.encode(one) if isinstance(one, str) else tuple(one) for one in given]


def _sampling(request: CompletionRequest | ChatRequest, most: int, top: int) -> Sampling:
    return Sampling(
        max_tokens=most,
        temperature=0.0 if request.temperature < _GREEDY_BELOW else request.temperature,
        top_p=request.top_p,
        seed=request.seed,
        top_logprobs=top,
    )


def _usage(prompts: list[tuple[int, ...]], made: list[Generated]) -> TextUsage:
    read, written = sum(map(len, prompts)), sum(len(one.ids) for one in made)
    return TextUsage(prompt_tokens=read, completion_tokens=written, total_tokens=read + written)


def _logprobs(text: TextService, made: Generated) -> Logprobs:
    tokens = [text.decode([id_]) for id_ in made.ids]
    return Logprobs(
        tokens=tokens,
        token_logprobs=list(made.logprobs),
        top_logprobs=[{text.decode([id_]): value for id_, value in at.items()} for at in made.top],
        text_offset=[sum(map(len, tokens[:i])) for i in range(len(tokens))],
    )


def _chat_logprobs(text: TextService, made: Generated) -> ChatLogprobs:
    def told(id_: int, value: float) -> ChatTopLogprob:
        token = text.decode([id_])
        return ChatTopLogprob(token=token, logprob=value, bytes=None if "\ufffd" in token else list(token.encode()))

    return ChatLogprobs(
        content=[
            ChatTokenLogprob(
                **told(id_, value).model_dump(), top_logprobs=[told(other, logprob) for other, logprob in top.items()]
            )
            for id_, value, top in zip(made.ids, made.logprobs, made.top, strict=True)
        ]
    )
