"""OpenAI's routes: models, completions and chat completions."""

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from pydantic import BaseModel

from brew_data.prompts.chat import chat_ids
from brew_serve.engines.base import Sampling
from brew_serve.errors import UnknownModel
from brew_serve.http.request_context import RequestContext
from brew_serve.http.route import Route
from brew_serve.ranking.compilation import TextPrompts, TextSize
from brew_serve.ranking.service import Costed, RankingService
from brew_serve.ranking.text_service import Continuation, TextService, TextToken
from brew_serve.schemas.openai import (
    CHAT_PATH,
    COMPLETIONS_PATH,
    MODEL_PATH,
    MODELS_PATH,
    ChatRequest,
    CompletionRequest,
    ModelQuery,
)
from brew_serve.schemas.openai_answers import (
    ChatAnswer,
    ChatChoice,
    ChatChunk,
    ChatChunkChoice,
    ChatDelta,
    ChatLogprobs,
    ChatResponse,
    ChatTokenLogprob,
    ChatTopLogprob,
    Choice,
    CompletionChunk,
    CompletionChunkChoice,
    CompletionResponse,
    Logprobs,
    ModelCard,
    ModelList,
    OpenAIErrorAnswer,
    TextUsage,
)

__all__ = ["CHAT_COMPLETIONS", "COMPLETIONS", "MODEL", "MODELS"]

_GREEDY_BELOW = 0.01  # a division by a smaller temperature would overflow

Events = AsyncGenerator[BaseModel, None]
Ids = tuple[int, ...]


async def models(service: RankingService, context: RequestContext) -> Costed[ModelList]:
    """The names that requests may give as model."""
    length = service.version.compiler.format.context_length
    created = int((service.version.folder / "config.json").stat().st_mtime)
    names = TextService(service=service).names
    cards = [ModelCard(id=name, created=created, max_model_len=length) for name in names]
    return Costed(response=ModelList(data=cards))


async def model(service: RankingService, query: ModelQuery, context: RequestContext) -> Costed[ModelCard]:
    """One of the names that requests may give as model."""
    listed = (await models(service, context)).response.data
    card = next((card for card in listed if card.id == query.model), None)
    if card is None:
        raise UnknownModel(f"model {query.model!r} is not served here; GET {MODELS_PATH} lists the models.")
    return Costed(response=card)


async def completions(
    service: RankingService, request: CompletionRequest, context: RequestContext
) -> Costed[CompletionResponse | Events]:
    """Continues each prompt."""
    text = TextService(service=service)
    name = text.require_model(request.model)
    prompts = await _compile_completion(text, request)
    sampling = _sampling(request, request.max_tokens, request.logprobs or 0)
    echoes = [(p if isinstance(p, str) else text.decode(p)) if request.echo else "" for p in request.prompts]
    id_, created = f"cmpl-{context.trace.request_id}", int(time.time())
    if request.stream:
        stream = await text.stream(prompts, sampling, stop=request.stops)
        base = CompletionChunk(id=id_, created=created, model=name, choices=[])
        return Costed(
            response=_completion_events(text, request, base, prompts, echoes, stream.response), tokens=stream.tokens
        )
    generated = await text.generate(prompts, sampling, stop=request.stops)
    response = CompletionResponse(
        id=id_,
        created=created,
        model=name,
        choices=[
            Choice(
                index=part.index,
                text=echo + part.text,
                logprobs=None if request.logprobs is None else _logprobs(text, part),
                finish_reason=part.finish or "stop",
            )
            for echo, part in zip(echoes, generated.response, strict=True)
        ],
        usage=_usage(prompts, [part.n_tokens for part in generated.response]),
    )
    return Costed(response=response, tokens=generated.tokens)


async def chat_completions(
    service: RankingService, request: ChatRequest, context: RequestContext
) -> Costed[ChatResponse | Events]:
    """Answers the last message."""
    text = TextService(service=service)
    name = text.require_model(request.model)
    max_tokens = request.max_completion_tokens or request.max_tokens or 16
    prompts = await _compile_chat(service, request, max_tokens)
    sampling = _sampling(request, max_tokens, request.top_logprobs)
    id_, created = f"chatcmpl-{context.trace.request_id}", int(time.time())
    if request.stream:
        stream = await text.stream(prompts, sampling, stop=request.stops, strip_space=True)
        base = ChatChunk(id=id_, created=created, model=name, choices=[])
        return Costed(response=_chat_events(text, request, base, prompts, stream.response), tokens=stream.tokens)
    generated = await text.generate(prompts, sampling, stop=request.stops, strip_space=True)
    [answer] = generated.response
    response = ChatResponse(
        id=id_,
        created=created,
        model=name,
        choices=[
            ChatChoice(
                index=0,
                message=ChatAnswer(content=answer.text),
                logprobs=_chat_logprobs(text, answer) if request.logprobs else None,
                finish_reason=answer.finish or "stop",
            )
        ],
        usage=_usage(prompts, [answer.n_tokens]),
    )
    return Costed(response=response, tokens=generated.tokens)


async def _compile_completion(text: TextService, request: CompletionRequest) -> list[Ids]:
    """Return the token ids of each prompt; text is encoded without control tokens, and starts as in pretraining."""
    sizes = [
        TextSize(characters=len(prompt), ids=len(text.start)) if isinstance(prompt, str) else TextSize(ids=len(prompt))
        for prompt in request.prompts
    ]
    encoded = (
        (*text.start, *text.encode(prompt)) if isinstance(prompt, str) else tuple(prompt) for prompt in request.prompts
    )
    return await text.service.compile_text(TextPrompts(sizes=sizes, encoded=encoded), answer_tokens=request.max_tokens)


async def _compile_chat(service: RankingService, request: ChatRequest, max_tokens: int) -> list[Ids]:
    """Return the token ids of the chat, as the only prompt."""
    messages = [(message.role, message.words()) for message in request.messages]
    size = TextSize(characters=sum(len(words) for _, words in messages))
    encoded = (chat_ids(service.version.compiler.tokenizer, chat) for chat in [messages])
    return await service.compile_text(TextPrompts(sizes=[size], encoded=encoded), answer_tokens=max_tokens)


async def _completion_events(
    text: TextService,
    request: CompletionRequest,
    base: CompletionChunk,
    prompts: Sequence[Ids],
    echoes: Sequence[str],
    stream: AsyncGenerator[Continuation, None],
) -> Events:
    """Yield the events of a completion; `base` has what they share."""
    written = [0] * len(prompts)
    async with aclosing(stream) as parts:
        for i, echo in enumerate(echoes):
            if echo:
                choice = CompletionChunkChoice(index=i, text=echo, logprobs=None, finish_reason=None)
                yield base.model_copy(update={"choices": [choice]})
        async for part in parts:
            written[part.index] = part.n_tokens
            choice = CompletionChunkChoice(
                index=part.index,
                text=part.text,
                logprobs=None if request.logprobs is None else _logprobs(text, part),
                finish_reason=part.finish,
            )
            yield base.model_copy(update={"choices": [choice]})
    if request.stream_options and request.stream_options.include_usage:
        yield base.model_copy(update={"usage": _usage(prompts, written)})


async def _chat_events(
    text: TextService,
    request: ChatRequest,
    base: ChatChunk,
    prompts: Sequence[Ids],
    stream: AsyncGenerator[Continuation, None],
) -> Events:
    """Yield the events of an answer to a chat; `base` has what they share."""
    written = 0
    async with aclosing(stream) as parts:
        first = ChatChunkChoice(
            index=0, delta=ChatDelta(role="assistant", content=""), logprobs=None, finish_reason=None
        )
        yield base.model_copy(update={"choices": [first]})
        async for part in parts:
            written = part.n_tokens
            choice = ChatChunkChoice(
                index=0,
                delta=ChatDelta(content=part.text or None),
                logprobs=_chat_logprobs(text, part) if request.logprobs and part.tokens else None,
                finish_reason=part.finish,
            )
            yield base.model_copy(update={"choices": [choice]})
    if request.stream_options and request.stream_options.include_usage:
        yield base.model_copy(update={"usage": _usage(prompts, [written])})


def _sampling(request: CompletionRequest | ChatRequest, max_tokens: int, top_logprobs: int) -> Sampling:
    greedy = request.temperature < _GREEDY_BELOW or request.top_p == 0
    return Sampling(
        max_tokens=max_tokens,
        temperature=0.0 if greedy else request.temperature,
        top_p=1.0 if greedy else request.top_p,
        seed=None if request.seed is None else request.seed % 2**63,  # the engines take no negative seed
        top_logprobs=top_logprobs,
    )


def _usage(prompts: Sequence[Ids], written: Sequence[int]) -> TextUsage:
    read = sum(map(len, prompts))
    return TextUsage(prompt_tokens=read, completion_tokens=sum(written), total_tokens=read + sum(written))


def _name(spelled: bytes) -> str:
    """Return the text of a token; of a part of a character, its bytes in OpenAI's notation."""
    try:
        return spelled.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in spelled)


def _logprobs(text: TextService, part: Continuation) -> Logprobs:
    def top_logprobs(token: TextToken) -> dict[str, float]:
        found = {_name(text.token_bytes(token.token.id)): token.token.logprob}
        for id_, logprob in token.token.top.items():
            if id_ != token.token.id:
                name = _name(text.token_bytes(id_))
                found[f"token_id:{id_}" if name in found else name] = logprob
        return found

    return Logprobs(
        tokens=[_name(text.token_bytes(token.token.id)) for token in part.tokens],
        token_logprobs=[token.token.logprob for token in part.tokens],
        top_logprobs=[top_logprobs(token) for token in part.tokens],
        text_offset=[token.offset for token in part.tokens],
    )


def _chat_logprobs(text: TextService, part: Continuation) -> ChatLogprobs:
    def describe_token(id_: int, logprob: float) -> ChatTopLogprob:
        spelled = text.token_bytes(id_)
        return ChatTopLogprob(token=_name(spelled), logprob=logprob, bytes=list(spelled))

    return ChatLogprobs(
        content=[
            ChatTokenLogprob(
                **describe_token(token.token.id, token.token.logprob).model_dump(),
                top_logprobs=[describe_token(id_, logprob) for id_, logprob in token.token.top.items()],
            )
            for token in part.tokens
        ]
    )


MODELS = Route(
    path=MODELS_PATH,
    handler=models,
    request=None,
    response=ModelList,
    scope="rank",
    tag="OpenAI",
    error=OpenAIErrorAnswer,
)
MODEL = Route(
    path=MODEL_PATH,
    handler=model,
    request=ModelQuery,
    response=ModelCard,
    scope="rank",
    tag="OpenAI",
    error=OpenAIErrorAnswer,
)
COMPLETIONS = Route(
    path=COMPLETIONS_PATH,
    handler=completions,
    request=CompletionRequest,
    response=CompletionResponse,
    scope="rank",
    streams=True,
    tag="OpenAI",
    error=OpenAIErrorAnswer,
)
CHAT_COMPLETIONS = Route(
    path=CHAT_PATH,
    handler=chat_completions,
    request=ChatRequest,
    response=ChatResponse,
    scope="rank",
    streams=True,
    tag="OpenAI",
    error=OpenAIErrorAnswer,
)
