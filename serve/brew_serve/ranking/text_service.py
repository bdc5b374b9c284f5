"""Texts and label scores from one loaded version, for clients of other servers' protocols.

Owns: prompts to the engine and what comes back as plain values; every prompt passes the gate. Does not own: those
protocols' bodies (`openai_api`, `score_api`).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from brew_platform.errors import UserError
from brew_serve.engines.base import Generated, Sampling, Shared
from brew_serve.http.request_context import Call
from brew_serve.ranking.concurrency import together
from brew_serve.ranking.service import RankService

__all__ = ["TextService", "UnknownModel"]

Ids = Sequence[int]


class UnknownModel(UserError):
    """Another model is asked for than the one that is served."""


@dataclass(frozen=True, kw_only=True)
class TextService:
    """Texts and label scores of the version that `service` serves."""

    service: RankService

    @property
    def names(self) -> list[str]:
        """What requests may give as model: its name in the registry, and that with the version."""
        return [self.service.name, f"{self.service.name}@{self.service.number}"]

    def require_model(self, name: str | None) -> str:
        """The name to answer with.

        Raises:
            UnknownModel: another one than is served.
        """
        if name is None or name == "default":  # as SGLang's clients say it
            return self.service.name
        if name not in self.names:
            raise UnknownModel(f"model {name!r} is not served here; ask for {' or '.join(self.names)}.")
        return name

    def encode(self, text: str) -> tuple[int, ...]:
        """Its token ids; none of them is a control token."""
        return self.service.version.compiler.tokenizer.encode(text)

    def decode(self, ids: Ids) -> str:
        """Token ids as text."""
        return self.service.version.compiler.tokenizer.decode(ids)

    async def generate(self, prompts: Sequence[Ids], sampling: Sampling, call: Call) -> list[Generated]:
        """Continues each prompt, until a control token or max_tokens.

        Raises:
            Overloaded, QuotaExceeded: not now.
            UserError: as `Engine.generate`.
        """
        tokenizer = self.service.version.compiler.tokenizer
        stop = (tokenizer.end, tokenizer.pad, tokenizer.system, tokenizer.member, tokenizer.user, tokenizer.assistant)
        sampling = replace(sampling, stop_ids=stop)
        engine, work = self.service.engine, sum(len(ids) + sampling.max_tokens for ids in prompts)
        with self.service.gate.admitted(work, call) as ticket, self.service.stage("generate"):
            answers = await together(engine.generate(ids, sampling) for ids in prompts)
            ticket.done(work)
        return [answer for answer in answers if answer is not None]

    async def label_probabilities(
        self, prompts: Sequence[Ids], labels: Ids, *, softmax: bool, call: Call
    ) -> list[list[float]]:
        """The probability of each label to come next, by prompt.

        Args:
            softmax: normalise over the labels instead of the vocabulary.

        Raises:
            Overloaded, QuotaExceeded: not now.
            UserError: as `Engine.next_token_logprobs`.
        """
        different = list(dict.fromkeys(labels))
        shared = Shared.of([tuple(ids) for ids in prompts])
        engine, work = self.service.engine, sum(map(len, prompts)) - (len(prompts) - 1) * len(shared.ids)
        with self.service.gate.admitted(work, call) as ticket, self.service.stage("score"):
            answers = await together(engine.next_token_logprobs(ids, different, shared) for ids in prompts)
            ticket.done(work)
        found = [_probabilities(answer, softmax) for answer in answers if answer is not None]
        place = {id_: i for i, id_ in enumerate(different)}
        return [[probabilities[place[id_]] for id_ in labels] for probabilities in found]


def _probabilities(logprobs: list[float], softmax: bool) -> list[float]:
    if not softmax:
        return [math.exp(value) for value in logprobs]
    most = max(logprobs)
    weights = [math.exp(value - most) for value in logprobs]
    return [weight / sum(weights) for weight in weights]
