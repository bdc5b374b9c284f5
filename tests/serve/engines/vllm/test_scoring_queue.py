"""The scoring queue: calls are sent in passes, first come, first served, and each gets its own result or error."""

import asyncio
from collections.abc import Sequence

import numpy as np
import pytest

from brew_platform.errors import BrewError
from brew_serve.engines.base import Shared
from brew_serve.engines.vllm.scoring_queue import Group, ScoringQueue


class Sums:
    """An engine that records its passes; the log-probability of a token is the sum of the prompt times the token."""

    def __init__(self, *, failing: int = 0) -> None:
        self.passes: list[list[tuple[list[int], list[list[int]], list[int]]]] = []
        self.failing = failing
        self.go = asyncio.Event()
        self.go.set()

    async def send(self, groups: list[Group]) -> list[bytes]:
        seen, answers = [], []
        for begins, own, lengths, targets in groups:
            first = np.frombuffer(begins, np.int32)
            parts = np.split(np.frombuffer(own, np.int32), np.cumsum(lengths)[:-1])
            seen.append((first.tolist(), [part.tolist() for part in parts], targets))
            sums = np.array([first.sum() + part.sum() for part in parts], np.float32)
            answers.append((sums[:, None] * np.array(targets, np.float32)).tobytes())
        self.passes.append(seen)
        await self.go.wait()
        if self.failing:
            self.failing -= 1
            raise BrewError("the engine failed")
        return answers


def make_queue(engine: Sums, *, prompts: int = 100, tokens: int = 1000) -> ScoringQueue:
    return ScoringQueue(engine.send, max_prompts=prompts, max_tokens=tokens)


async def submit(queue: ScoringQueue, *prompts: Sequence[int], shared: Shared | None = None) -> list[list[float]]:
    return await asyncio.gather(*(queue.submit(prompt, (1, 2), shared) for prompt in prompts))


async def test_calls_with_a_shared_prefix_form_one_group() -> None:
    engine = Sums()
    queue = make_queue(engine)
    shared = Shared(ids=(5, 6, 7))
    answers = await submit(queue, (5, 6, 7, 1), (5, 6, 7, 2, 3), shared=shared)
    assert answers == [[19.0, 38.0], [23.0, 46.0]]
    assert engine.passes == [[([5, 6, 7], [[1], [2, 3]], [1, 2])]]


async def test_waiting_calls_keep_a_shared_prefix_once() -> None:
    engine = Sums()
    queue = make_queue(engine)
    shared = Shared(ids=tuple(range(100)))
    answers = [queue.submit((*shared.ids, n), (1,), shared) for n in range(3)]
    calls = queue._waiting[0].calls
    assert all(call.prefix is shared.ids for call in calls)
    assert [call.suffix for call in calls] == [(0,), (1,), (2,)]
    await asyncio.gather(*answers)


async def test_calls_without_a_shared_prefix_are_groups_of_one() -> None:
    engine = Sums()
    assert await submit(make_queue(engine), (4, 5), (9,)) == [[9.0, 18.0], [9.0, 18.0]]
    assert engine.passes == [[([4], [[5]], [1, 2]), ([], [[9]], [1, 2])]]


async def test_the_last_token_of_a_prompt_is_never_shared() -> None:
    engine = Sums()
    await submit(make_queue(engine), (5, 6), (5, 6, 7), shared=Shared(ids=(5, 6)))
    assert engine.passes == [[([5], [[6]], [1, 2]), ([5, 6], [[7]], [1, 2])]]


async def test_a_pass_stays_within_its_limits_and_the_others_follow_in_order() -> None:
    engine = Sums()
    prompts = [(n,) for n in range(1, 8)]
    assert [a for a, _ in await submit(make_queue(engine, prompts=3), *prompts)] == [float(n) for n in range(1, 8)]
    assert [len(groups) for groups in engine.passes] == [3, 3, 1]
    engine = Sums()
    await submit(make_queue(engine, tokens=6), (1, 1, 1), (2, 2, 2), (3,), (4,) * 9, (5,))
    assert [[begins + own[0] for begins, own, _ in groups] for groups in engine.passes] == [
        [[1, 1, 1], [2, 2, 2]], [[3]], [[4] * 9], [[5]],
    ]  # fmt: skip
    engine = Sums()
    shared = Shared(ids=(7,) * 5)  # counted once
    await submit(make_queue(engine, tokens=8), *([*shared.ids, n] for n in range(4)), shared=shared)
    assert [[own for _, own, _ in groups] for groups in engine.passes] == [[[[0], [1], [2]]], [[[3]]]]


async def test_calls_with_a_shared_prefix_stay_in_one_pass_if_they_fit() -> None:
    engine = Sums()
    queue = make_queue(engine, prompts=5)
    first, second, third = Shared(ids=(1,)), Shared(ids=(2,)), Shared(ids=(3,))
    calls = [queue.submit((1, n), (1,), first) for n in range(3)]
    calls += [queue.submit((2, n), (1,), second) for n in range(3)]
    calls += [queue.submit((3, n), (1,), third) for n in range(7)]
    assert [row for row, *_ in await asyncio.gather(*calls)] == [1, 2, 3, 2, 3, 4, 3, 4, 5, 6, 7, 8, 9]
    assert [[(begins, len(own)) for begins, own, _ in groups] for groups in engine.passes] == [
        [([1], 3)], [([2], 3)], [([3], 5)], [([3], 2)],
    ]  # fmt: skip


async def test_calls_during_a_pass_form_the_next_pass() -> None:
    engine = Sums()
    queue = make_queue(engine)
    engine.go.clear()
    first = asyncio.create_task(submit(queue, (1,)))
    await asyncio.sleep(0.01)
    rest = asyncio.create_task(submit(queue, (2,), (3,)))
    await asyncio.sleep(0.01)
    assert len(engine.passes) == 1
    engine.go.set()
    await asyncio.gather(first, rest)
    assert [len(groups) for groups in engine.passes] == [1, 2]


async def test_a_cancelled_call_is_not_sent_and_delays_no_other() -> None:
    engine = Sums()
    queue = make_queue(engine)
    engine.go.clear()
    calls = [queue.submit((n,), (1,), None) for n in range(1, 4)]
    await asyncio.sleep(0.01)  # all are in the engine
    late = [queue.submit((n,), (1,), None) for n in range(4, 7)]
    await asyncio.sleep(0.01)
    calls[0].cancel()
    late[1].cancel()
    engine.go.set()
    found = await asyncio.gather(*calls, *late, return_exceptions=True)
    assert [result if isinstance(result, list) else type(result) for result in found] == [
        asyncio.CancelledError, [2.0], [3.0], [4.0], asyncio.CancelledError, [6.0],
    ]  # fmt: skip
    assert [own[0] for _, own, _ in engine.passes[1]] == [[4], [6]]


async def test_a_failed_pass_fails_only_its_own_calls() -> None:
    engine = Sums(failing=1)
    queue = make_queue(engine, prompts=2)
    found = await asyncio.gather(*(queue.submit((n,), (1,), None) for n in range(1, 5)), return_exceptions=True)
    assert [str(result) for result in found[:2]] == ["the engine failed"] * 2
    assert found[2:] == [[3.0], [4.0]]
    assert await submit(queue, (8,)) == [[8.0, 16.0]]


@pytest.mark.parametrize("count", [1, 2, 500])
async def test_simultaneous_calls_form_one_pass(count: int) -> None:
    engine = Sums()
    queue = make_queue(engine, prompts=1000, tokens=10_000)

    async def nested(n: int) -> list[list[float]]:  # in the order of a scorer's calls
        return await submit(queue, (n,))

    await asyncio.gather(*(nested(n) for n in range(count)))
    assert len(engine.passes) == 1
