"""Collects concurrent calls for label log-probabilities and sends them in passes, first come first served.

Runs without vLLM.
"""

import asyncio
from array import array
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from itertools import chain

import numpy as np

from brew_serve.engines.base import Shared

__all__ = ["Group", "ScoringQueue", "Send", "prompt_tokens_of"]

Ids = Sequence[int]
# A group as it is sent: token ids (int32) of what its prompts begin with and of what each goes on with, how many those
# are, by prompt, and the wanted tokens
Group = tuple[bytes, bytes, list[int], list[int]]
Send = Callable[[list[Group]], Awaitable[list[bytes]]]  # a pass; gives float32 [prompts, wanted tokens] of each group


@dataclass(eq=False, kw_only=True)
class _Call:
    """One prompt, beginning with what it shares."""

    prompt: Ids
    token_ids: tuple[int, ...]
    shared: Shared | None
    answer: "asyncio.Future[list[float]]"

    @property
    def begins(self) -> int:
        """Tokens of the prompt that it shares; at least its last token is its own."""
        return min(len(self.shared.ids), len(self.prompt) - 1) if self.shared else len(self.prompt) - 1


@dataclass(eq=False, kw_only=True)
class _Run:
    """Calls that were made one after the other and share the same, or one that shares nothing."""

    shared: Shared | None
    calls: list[_Call]

    def drop_cancelled(self) -> None:
        """Calls that nobody waits for any more."""
        self.calls = [call for call in self.calls if not call.answer.done()]

    def fitting(self, *, prompts: int, tokens: int) -> tuple[int, int]:
        """How many of its calls, from the first on, there is room for, and the tokens that they take."""
        taken = 0
        for count, call in enumerate(self.calls[: max(0, prompts)]):
            new = len(call.prompt) - (call.begins if count else 0)  # what it shares is counted once
            if taken + new > tokens:
                return count, taken
            taken += new
        return min(len(self.calls), max(0, prompts)), taken

    def take(self, count: int) -> list["_Together"]:
        """The first calls, in groups that can be sent; they wait no longer."""
        found: dict[tuple[tuple[int, ...], int], _Together] = {}
        for call in self.calls[:count]:
            key = (call.token_ids, call.begins)
            if key not in found:
                found[key] = _Together(begins=call.prompt[: call.begins])
            found[key].calls.append(call)
        del self.calls[:count]
        return list(found.values())


@dataclass(kw_only=True)
class _Together:
    """Calls of a pass that begin with the same tokens and want the same ones."""

    begins: Ids
    calls: list[_Call] = field(default_factory=list)

    def group(self) -> Group:
        """As it is sent."""
        start = len(self.begins)
        own = [call.prompt[start:] for call in self.calls]
        return (
            array("i", self.begins).tobytes(),
            array("i", chain.from_iterable(own)).tobytes(),
            [len(ids) for ids in own],
            list(self.calls[0].token_ids),
        )


class ScoringQueue:
    """Sends calls in passes; of one event loop.

    Args:
        send: a pass to the engine. What it raises is raised by every call of that pass.
        prompts: most of a pass.
        tokens: most of a pass, more or less: a prompt that is longer has a pass of its own.
    """

    def __init__(self, send: Send, *, prompts: int, tokens: int) -> None:
        self._send, self._prompts, self._tokens = send, prompts, tokens
        self._waiting: deque[_Run] = deque()
        self._sending: asyncio.Task | None = None

    def submit(self, prompt: Ids, token_ids: Sequence[int], shared: Shared | None) -> "asyncio.Future[list[float]]":
        """As `Engine.next_token_logprobs`. Cancelled while it waits, the prompt is not sent."""
        answer: asyncio.Future[list[float]] = asyncio.get_running_loop().create_future()
        call = _Call(prompt=prompt, token_ids=tuple(token_ids), shared=shared, answer=answer)
        if shared is not None and self._waiting and self._waiting[-1].shared is shared:
            self._waiting[-1].calls.append(call)
        else:
            self._waiting.append(_Run(shared=shared, calls=[call]))
        if self._sending is None:
            self._sending = asyncio.create_task(self._send_all())
        return answer

    async def _send_all(self) -> None:
        try:
            while calls := self._take():
                try:
                    answers = await self._send([one.group() for one in calls])
                except Exception as error:
                    for call in chain.from_iterable(one.calls for one in calls):
                        if not call.answer.done():
                            call.answer.set_exception(error)
                    continue
                for one, answer in zip(calls, answers, strict=True):
                    rows = np.frombuffer(answer, np.float32).reshape(len(one.calls), -1).tolist()
                    for call, row in zip(one.calls, rows, strict=True):
                        if not call.answer.done():
                            call.answer.set_result(row)
                await asyncio.sleep(0)  # callers go on, and what they ask for next goes into the next pass
        finally:
            self._sending = None

    def _take(self) -> list[_Together]:
        """The calls of the next pass; none when nobody waits. A run is split only where it is too long for any pass."""
        found: list[_Together] = []
        prompts = tokens = 0
        while self._waiting:
            run = self._waiting[0]
            run.drop_cancelled()
            count, taken = run.fitting(prompts=self._prompts - prompts, tokens=self._tokens - tokens)
            if count < len(run.calls):
                if not found:
                    found = run.take(max(1, count))
                break
            self._waiting.popleft()
            found += run.take(count)
            prompts, tokens = prompts + count, tokens + taken
        return found


def prompt_tokens_of(groups: Sequence[Group]) -> int:
    """Tokens of all prompts, each counted whole."""
    return sum(len(begins) // 4 * len(lengths) + sum(lengths) for begins, _, lengths, _ in groups)
