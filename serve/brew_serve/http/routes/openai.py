"""OpenAI's routes: models, completions and chat completions."""

import time

from brew_data.prompts.chat import chat_ids
from brew_serve.engines.base import Generated, Sampling
from brew_serve.http.request_context import RequestContext
from brew_serve.http.route import Route
from brew_serve.ranking.service import Costed, RankingService
from brew_serve.ranking.text_service import TextService
from brew_serve.schemas.openai import (
    CHAT_PATH,
    COMPLETIONS_PATH,
    MODELS_PATH,
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

__all__ = ["CHAT_COMPLETIONS", "COMPLETIONS", "MODELS"]

_GREEDY_BELOW = 0.01  # a division by a smaller temperature would overflow


async def models(service: RankingService, context: RequestContext) -> Costed[ModelList]:
    """The names that requests may give as model."""
    length = service.version.compiler.format.context_length
    created = int((service.version.folder / "config.json").stat().st_mtime)
    names = TextService(service=service).names
    cards = [ModelCard(id=name, created=created, max_model_len=length) for name in names]
    return Costed(response=ModelList(data=cards))


async def completions(
    service: RankingService, request: CompletionRequest, context: RequestContext
) -> Costed[CompletionResponse]:
    """Continues each prompt."""
    text = TextService(service=service)
    name = text.require_model(request.model)
    prompts = _prompts(text, request)
    generated = await text.generate(prompts, _sampling(request, request.max_tokens, request.logprobs or 0))
    response = CompletionResponse(
        id=f"cmpl-{context.trace.request_id}",
        created=int(time.time()),
        model=name,
        choices=[
            Choice(
                index=i,
                text=text.decode(continuation.ids),
                logprobs=None if request.logprobs is None else _logprobs(text, continuation),
                finish_reason=continuation.finish,
            )
            for i, continuation in enumerate(generated.response)
        ],
        usage=_usage(prompts, generated.response),
    )
    return Costed(response=response, tokens=generated.tokens)


async def chat_completions(
    service: RankingService, request: ChatRequest, context: RequestContext
) -> Costed[ChatResponse]:
    """Answers the last message."""
    text = TextService(service=service)
    name = text.require_model(request.model)
    messages = [(message.role, message.words()) for message in request.messages]
    prompts = [chat_ids(service.version.compiler.tokenizer, messages)]
    max_tokens = request.max_completion_tokens or request.max_tokens or 16
    generated = await text.generate(prompts, _sampling(request, max_tokens, request.top_logprobs))
    answer = generated.response[0]
    response = ChatResponse(
        id=f"chatcmpl-{context.trace.request_id}",
        created=int(time.time()),
        model=name,
        choices=[
            ChatChoice(
                index=0,
                message=ChatAnswer(content=text.decode(answer.ids)),
                logprobs=_chat_logprobs(text, answer) if request.logprobs else None,
                finish_reason=answer.finish,
            )
        ],
        usage=_usage(prompts, generated.response),
    )
    return Costed(response=response, tokens=generated.tokens)


def _prompts(text: TextService, request: CompletionRequest) -> list[tuple[int, ...]]:
    """Return the token ids of each prompt; text is encoded without control tokens, and starts as in pretraining."""
    prompts: list = [request.prompt] if isinstance(request.prompt, str) else request.prompt
    if isinstance(prompts[0], int):
        prompts = [prompts]
    return [(*text.start, *text.encode(p)) if isinstance(p, str) else tuple(p) for p in prompts]


def _sampling(request: CompletionRequest | ChatRequest, max_tokens: int, top_logprobs: int) -> Sampling:
    return Sampling(
        max_tokens=max_tokens,
        temperature=0.0 if request.temperature < _GREEDY_BELOW else request.temperature,
        top_p=request.top_p,
        seed=request.seed,
        top_logprobs=top_logprobs,
    )


def _usage(prompts: list[tuple[int, ...]], generated: list[Generated]) -> TextUsage:
    read, written = sum(map(len, prompts)), sum(len(text.ids) for text in generated)
    return TextUsage(prompt_tokens=read, completion_tokens=written, total_tokens=read + written)


def _logprobs(text: TextService, generated: Generated) -> Logprobs:
    tokens = [text.decode([id_]) for id_ in generated.ids]
    return Logprobs(
        tokens=tokens,
        token_logprobs=list(generated.logprobs),
        top_logprobs=[{text.decode([id_]): value for id_, value in at.items()} for at in generated.top],
        text_offset=[sum(map(len, tokens[:i])) for i in range(len(tokens))],
    )


def _chat_logprobs(text: TextService, generated: Generated) -> ChatLogprobs:
    def describe_token(id_: int, value: float) -> ChatTopLogprob:
        token = text.decode([id_])
        return ChatTopLogprob(token=token, logprob=value, bytes=None if "\ufffd" in token else list(token.encode()))

    return ChatLogprobs(
        content=[
            ChatTokenLogprob(
                **describe_token(id_, value).model_dump(),
                top_logprobs=[describe_token(other, logprob) for other, logprob in top.items()],
            )
            for id_, value, top in zip(generated.ids, generated.logprobs, generated.top, strict=True)
        ]
    )


MODELS = Route(
    path=MODELS_PATH, handler=models, request=None, response=ModelList, tag="OpenAI", error=OpenAIErrorAnswer
)
COMPLETIONS = Route(
    path=COMPLETIONS_PATH,
    handler=completions,
    request=CompletionRequest,
    response=CompletionResponse,
    tag="OpenAI",
    error=OpenAIErrorAnswer,
)
CHAT_COMPLETIONS = Route(
    path=CHAT_PATH,
    handler=chat_completions,
    request=ChatRequest,
    response=ChatResponse,
    tag="OpenAI",
    error=OpenAIErrorAnswer,
)
