"""Text generation and label probabilities of one loaded version, for clients of other servers' protocols."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain

from brew_serve.engines.base import Generated, Sampling, Shared
from brew_serve.engines.logprobs import require_logprobs
from brew_serve.errors import UnknownModel
from brew_serve.ranking.concurrency import gather_until
from brew_serve.ranking.scoring import softmax
from brew_serve.ranking.service import Costed, RankingService

__all__ = ["TextService"]

Ids = Sequence[int]


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

    async def generate(self, prompts: Sequence[Ids], sampling: Sampling) -> Costed[list[Generated]]:
        """Continue each prompt, until max_tokens, a control token, or an id that the tokenizer does not have.

        Raises:
            Overloaded: The service has no capacity now.
            BrokenVersion: The model computed NaN or another number that is not a log-probability.
            UserError: As `Engine.generate`.
        """
        tokenizer = self.service.version.compiler.tokenizer
        roles = (tokenizer.end, tokenizer.pad, tokenizer.system, tokenizer.member, tokenizer.user, tokenizer.assistant)
        stop = (*roles, *self.start, *self.service.version.ids_without_token)
        sampling = replace(sampling, stop_ids=stop)
        engine, work = self.service.engine, sum(len(ids) + sampling.max_tokens for ids in prompts)
        service = self.service
        with service.admission.admit(work) as admitted, service.measure("generate"), service.name_version():
            answers = await gather_until(engine.generate(ids, sampling) for ids in prompts)
            admitted.finish(work)
            for answer in answers:
                if answer is not None:
                    require_logprobs(chain(answer.logprobs, *(at.values() for at in answer.top)))
        return Costed(response=[answer for answer in answers if answer is not None], tokens=work)

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
