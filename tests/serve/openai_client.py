"""OpenAI's client connected to an application in this process, and an engine that generates given tokens."""

import asyncio
import math
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Any

from brew_platform.errors import BrewError
from brew_serve.engines.base import EngineUsage, GeneratedToken, Sampling, Shared

__all__ = ["ScriptedEngine", "client_of"]


def client_of(api: Any, key: str = "none") -> Any:
    """OpenAI's client, connected to an application in this process."""
    import httpx2
    from openai import AsyncOpenAI

    http = httpx2.AsyncClient(transport=httpx2.ASGITransport(api))
    return AsyncOpenAI(base_url="http://test/v1", api_key=key, max_retries=0, http_client=http)


class ScriptedEngine:
    """Generates `ids` for every prompt, and counts what it does.

    Args:
        ids: Of every continuation.
        top: The likeliest tokens at each position.
    """

    def __init__(self, ids: Sequence[int] = (), top: Mapping[int, float] | None = None) -> None:
        self.ids, self.top = ids, dict(top or {})
        self.usage = EngineUsage()
        self.prompts: list[tuple[int, ...]] = []
        self.samplings: list[Sampling] = []
        self.running = 0  # open continuations
        self.generated = 0  # tokens
        self.error_after = math.inf  # tokens of a continuation
        self.error: Exception = BrewError("the engine failed.")
        self.before: Callable[[], Any] = lambda: asyncio.sleep(0)

    async def stream(self, prompt: Sequence[int], sampling: Sampling) -> AsyncGenerator[GeneratedToken, None]:
        self.prompts.append(tuple(prompt))
        self.samplings.append(sampling)
        self.running += 1
        try:
            for i, id_ in enumerate(self.ids[: sampling.max_tokens]):
                await self.before()
                if i == self.error_after:
                    raise self.error
                self.generated += 1
                yield GeneratedToken(id=id_, logprob=-0.5, top=self.top)
        finally:
            self.running -= 1

    async def next_token_logprobs(
        self, prompt: Sequence[int], token_ids: Sequence[int], shared: Shared | None = None
    ) -> list[float]:
        return [-1.0] * len(token_ids)

    def check(self) -> None: ...

    def close(self) -> None: ...
