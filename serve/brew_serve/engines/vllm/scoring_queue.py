"""Collects concurrent calls for label log-probabilities and sends them in passes, first come, first served.

The module does not import vLLM.
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
# Prompts of a pass with the same prefix and targets: int32 token ids of the prefix and of all suffixes, the length of
# each suffix, and the target token ids.
Group = tuple[bytes, bytes, list[int], list[int]]
Send = Callable[[list[Group]], Awaitable[list[bytes]]]  # runs a pass; float32 [prompts, target tokens] of each group


@dataclass(eq=False, kw_only=True)
class _Call:
    """A waiting call: a prompt, in two parts. The calls of a run refer to one prefix, so that it is kept once."""

    prefix: Ids
    suffix: Ids  # one or more ids
    token_ids: tuple[int, ...]
    answer: "asyncio.Future[list[float]]"


@dataclass(eq=False, kw_only=True)
class _Run:
    """Consecutive calls with the same `shared` object, or one call without it."""

    shared: Shared | None
    calls: list[_Call]

    def drop_cancelled(self) -> None:
        """Remove the calls that were cancelled."""
        self.calls = [call for call in self.calls if not call.answer.done()]

    def count_fitting(self, *, prompts: int, tokens: int) -> tuple[int, int]:
        """Return how many of the first calls fit into the remaining prompts and tokens of a pass, and their tokens."""
        taken = 0
        for count, call in enumerate(self.calls[: max(0, prompts)]):
            new = len(call.suffix) + (0 if count else len(call.prefix))  # the shared prefix counts once
            if taken + new > tokens:
                return count, taken
            taken += new
        return min(len(self.calls), max(0, prompts)), taken

    def take(self, count: int) -> list["_CallGroup"]:
        """Remove the first calls and return them in groups."""
        groups: dict[tuple[tuple[int, ...], int], _CallGroup] = {}
        for call in self.calls[:count]:
            key = (call.token_ids, len(call.prefix))
            if key not in groups:
                groups[key] = _CallGroup(prefix=call.prefix)
            groups[key].calls.append(call)
        del self.calls[:count]
        return list(groups.values())


@dataclass(kw_only=True)
class _CallGroup:
    """Calls of a pass with the same prefix and the same target tokens."""

    prefix: Ids
    calls: list[_Call] = field(default_factory=list)

    def serialize(self) -> Group:
        """Return the group in the form that `Send` takes."""
        suffixes = [call.suffix for call in self.calls]
        return (
            array("i", self.prefix).tobytes(),
            array("i", chain.from_iterable(suffixes)).tobytes(),
            [len(ids) for ids in suffixes],
            list(self.calls[0].token_ids),
        )


class ScoringQueue:
    """Sends calls in passes. All calls must come from one event loop.

    Args:
        send: Runs a pass in the engine. Every call of the pass raises the error that it raises.
        max_prompts: Maximum number of prompts per pass.
        max_tokens: Maximum number of tokens per pass. A longer prompt gets a pass of its own.
    """

    def __init__(self, send: Send, *, max_prompts: int, max_tokens: int) -> None:
        self._send, self._max_prompts, self._max_tokens = send, max_prompts, max_tokens
        self._waiting: deque[_Run] = deque()
        self._sending: asyncio.Task | None = None

    def submit(self, prompt: Ids, token_ids: Sequence[int], shared: Shared | None) -> "asyncio.Future[list[float]]":
        """Add a call; arguments and result are those of `Engine.next_token_logprobs`.

        A call that is cancelled while it waits is not sent.
        """
        answer: asyncio.Future[list[float]] = asyncio.get_running_loop().create_future()
        start = len(prompt) - 1  # at least the last token is not shared
        prefix: Ids
        if shared is not None and len(shared.ids) <= start:
            prefix, start = shared.ids, len(shared.ids)
        else:
            prefix = prompt[:start]
        call = _Call(prefix=prefix, suffix=prompt[start:], token_ids=tuple(token_ids), answer=answer)
        if shared is not None and self._waiting and self._waiting[-1].shared is shared:
            self._waiting[-1].calls.append(call)
        else:
            self._waiting.append(_Run(shared=shared, calls=[call]))
        if self._sending is None:
            self._sending = asyncio.create_task(self._send_all())
        return answer

    async def _send_all(self) -> None:
        try:
            while groups := self._take():
                try:
                    answers = await self._send([group.serialize() for group in groups])
                except Exception as error:
                    for call in chain.from_iterable(group.calls for group in groups):
                        if not call.answer.done():
                            call.answer.set_exception(error)
                    continue
                for group, answer in zip(groups, answers, strict=True):
                    rows = np.frombuffer(answer, np.float32).reshape(len(group.calls), -1).tolist()
                    for call, row in zip(group.calls, rows, strict=True):
                        if not call.answer.done():
                            call.answer.set_result(row)
                await asyncio.sleep(0)  # callers continue, and their next calls join the next pass
        finally:
            self._sending = None

    def _take(self) -> list[_CallGroup]:
        """Remove and return the calls of the next pass. A run is split only if it exceeds a whole pass."""
        groups: list[_CallGroup] = []
        prompts = tokens = 0
        while self._waiting:
            run = self._waiting[0]
            run.drop_cancelled()
            count, taken = run.count_fitting(prompts=self._max_prompts - prompts, tokens=self._max_tokens - tokens)
            if count < len(run.calls):
                if not groups:
                    groups = run.take(max(1, count))
                break
            self._waiting.popleft()
            groups += run.take(count)
            prompts, tokens = prompts + count, tokens + taken
        return groups


def prompt_tokens_of(groups: Sequence[Group]) -> int:
    """Return the number of tokens of all prompts; the prefix of a group counts once per prompt."""
    return sum(len(prefix) // 4 * len(lengths) + sum(lengths) for prefix, _, lengths, _ in groups)
