"""Text generation and label probabilities of one loaded version, for clients of other servers' protocols."""

import math
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Literal

from brew_platform.tracing import start_span
from brew_serve.engines.base import GeneratedToken, Sampling, Shared
from brew_serve.engines.logprobs import require_logprobs
from brew_serve.errors import UnknownModel
from brew_serve.ranking.concurrency import gather_until, merge
from brew_serve.ranking.scoring import softmax
from brew_serve.ranking.service import Costed, RankingService
from brew_serve.ranking.text_decoder import TextDecoder

__all__ = ["Continuation", "TextService", "TextToken"]

Ids = Sequence[int]


@dataclass(frozen=True, kw_only=True)
class TextToken:
    """A token of a continuation, and where it starts in the text.

    Args:
        token: The token with its log-probabilities.
        offset: Characters of the continuation before it.
    """

    token: GeneratedToken
    offset: int


@dataclass(frozen=True, kw_only=True)
class Continuation:
    """The continuation of one prompt, or a part of it.

    Args:
        index: Of the prompt.
        text: Whole characters, without a stop string.
        tokens: Those with which the text was completed.
        n_tokens: Tokens generated for this prompt so far, including those of a stop string.
        finish: "stop" if a stop token or a stop string ended the text, "length" if max_tokens did; None if more text
            follows.
    """

    index: int
    text: str = ""
    tokens: tuple[TextToken, ...] = ()
    n_tokens: int = 0
    finish: Literal["stop", "length"] | None = None

    def plus(self, later: "Continuation") -> "Continuation":
        """Return this part and the next one as one part."""
        return replace(later, text=self.text + later.text, tokens=self.tokens + later.tokens)


@dataclass(frozen=True, kw_only=True)
class TextService:
    """Text generation and label probabilities of the version that `service` serves."""

    service: RankingService

    @property
    def names(self) -> list[str]:
        """The names that requests may give as model: the name in the registry, and the name with the version."""
        return [self.service.name, f"{self.service.name}@{self.service.number}"]

    def require_model(self, name: str | None) -> str:
        """Return the name for the response.

        Raises:
            UnknownModel: The service does not serve this model.
        """
        if name is None or name == "default":  # what SGLang's clients send
            return self.service.name
        if name not in self.names:
            raise UnknownModel(f"model {name!r} is not served here; use {' or '.join(self.names)}.")
        return name

    def encode(self, text: str) -> tuple[int, ...]:
        """Return the token ids of `text`; none of them is a control token."""
        return self.service.version.compiler.tokenizer.encode(text, cached=False)

    @property
    def start(self) -> tuple[int, ...]:
        """The token that precedes a text that is not a chat, if the model was trained with one."""
        bos = self.service.version.compiler.tokenizer.bos
        return () if bos is None else (bos,)

    def decode(self, ids: Ids) -> str:
        """Return the text of the token ids."""
        return self.service.version.compiler.tokenizer.decode(ids)

    def token_bytes(self, id_: int) -> bytes:
        """Return the bytes that a token stands for."""
        return self.service.version.compiler.tokenizer.token_bytes(id_)

    async def stream(
        self, prompts: Sequence[Ids], sampling: Sampling, *, stop: Sequence[str] = (), strip_space: bool = False
    ) -> Costed[AsyncGenerator[Continuation, None]]:
        """Continue each prompt until max_tokens, a control token, a stop string, or an id without a token.

        Args:
            prompts: Token ids, one or more prompts.
            sampling: `stop_ids` are added.
            stop: Stop strings.
            strip_space: Remove the space that the tokenizer puts before the first word of every text.

        Returns:
            After the first token, so that the errors below are raised here: a generator of the parts of the
            continuations, in the order in which they are complete. Closing it stops the engine's work.

        Raises:
            Overloaded: The service has no capacity now.
            BrokenVersion: The model computed NaN or another number that is not a log-probability.
            UserError, BrewError: As `Engine.stream`.
        """
        tokenizer = self.service.version.compiler.tokenizer
        roles = (tokenizer.end, tokenizer.pad, tokenizer.system, tokenizer.member, tokenizer.user, tokenizer.assistant)
        sampling = replace(sampling, stop_ids=(*roles, *self.start, *self.service.version.ids_without_token))
        decoders = [TextDecoder(tokenizer, stop, strip_space=strip_space) for _ in prompts]
        parts = self._parts(prompts, sampling, decoders)
        await anext(parts)
        return Costed(response=parts, tokens=_work(prompts, sampling))

    async def generate(
        self, prompts: Sequence[Ids], sampling: Sampling, *, stop: Sequence[str] = (), strip_space: bool = False
    ) -> Costed[list[Continuation]]:
        """Return the whole continuation of each prompt; arguments and errors are those of `stream`."""
        stream = await self.stream(prompts, sampling, stop=stop, strip_space=strip_space)
        whole = [Continuation(index=i) for i in range(len(prompts))]
        async with aclosing(stream.response) as parts:
            async for part in parts:
                whole[part.index] = whole[part.index].plus(part)
        return Costed(response=whole, tokens=stream.tokens)

    async def _parts(
        self, prompts: Sequence[Ids], sampling: Sampling, decoders: Sequence[TextDecoder]
    ) -> AsyncGenerator[Continuation, None]:
        """Yield an empty part when the first part is there, and then the parts."""
        service, started = self.service, False
        with (
            service.admission.admit(_work(prompts, sampling)) as admitted,
            service.measure("generate", streams=True),
            service.name_version(),
        ):
            streams = [
                self._continue(i, ids, sampling, decoder)
                for i, (ids, decoder) in enumerate(zip(prompts, decoders, strict=True))
            ]
            async with aclosing(merge(streams)) as parts:
                async for part in parts:
                    if not started:
                        started = True
                        yield Continuation(index=part.index)
                    if part.finish:
                        admitted.finish(_work([prompts[part.index]], sampling))
                    yield part

    async def _continue(
        self, index: int, prompt: Ids, sampling: Sampling, decoder: TextDecoder
    ) -> AsyncGenerator[Continuation, None]:
        """Yield a part whenever text is complete; the last one has `finish`."""
        n_tokens, length, held = 0, 0, []  # length: characters of the parts that were yielded
        async with aclosing(self.service.engine.stream(prompt, sampling)) as tokens:
            async for token in tokens:
                require_logprobs([token.logprob, *token.top.values()])
                n_tokens += 1
                held.append(TextToken(token=token, offset=decoder.characters))
                text = decoder.push(token.id)
                length += len(text)
                if decoder.stopped:
                    held = [token for token in held if token.offset < length]
                    break
                if text:
                    yield Continuation(index=index, text=text, tokens=tuple(held), n_tokens=n_tokens)
                    held = []
        full = n_tokens == sampling.max_tokens and not decoder.stopped
        yield Continuation(
            index=index,
            text=text if decoder.stopped else decoder.finish(),
            tokens=tuple(held),
            n_tokens=n_tokens,
            finish="length" if full else "stop",
        )

    async def label_probabilities(
        self, prompts: Sequence[Ids], labels: Ids, *, over_labels: bool
    ) -> Costed[list[list[float]]]:
        """Return the probability of each label to be the next token, per prompt.

        Args:
            over_labels: Normalise over the labels instead of the vocabulary.

        Raises:
            Overloaded: The service has no capacity now.
            BrokenVersion: The model computed NaN or another number that is not a log-probability.
            UserError: As `Engine.next_token_logprobs`.
        """
        unique = list(dict.fromkeys(labels))
        shared = Shared.of([tuple(ids) for ids in prompts])
        engine, work = self.service.engine, sum(map(len, prompts)) - (len(prompts) - 1) * len(shared.ids)
        service = self.service
        with service.admission.admit(work) as admitted, service.measure("score"), service.name_version():
            with start_span("engine", {"brew360.calls": len(prompts), "brew360.tokens": work}):
                answers = await gather_until(engine.next_token_logprobs(ids, unique, shared) for ids in prompts)
            admitted.finish(work)
            for answer in answers:
                require_logprobs(answer or ())
        index = {id_: i for i, id_ in enumerate(unique)}
        rows = [
            softmax(answer) if over_labels else [math.exp(min(value, 0.0)) for value in answer]
            for answer in answers
            if answer is not None
        ]
        return Costed(response=[[row[index[id_]] for id_ in labels] for row in rows], tokens=work)


def _work(prompts: Sequence[Ids], sampling: Sampling) -> int:
    return sum(len(ids) + sampling.max_tokens for ids in prompts)
