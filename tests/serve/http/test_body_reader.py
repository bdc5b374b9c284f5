"""Reading bodies: limits of size, time, number and memory, and what is left after each."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from brew_serve.errors import BodyTooLarge, Expired, Overloaded
from brew_serve.http.body_reader import BodyReader, Disconnected
from brew_serve.http.config import MiddlewareConfig

Receive = Callable[[], Awaitable[dict[str, Any]]]


def chunks(*bodies: bytes, end: bool = True) -> Receive:
    """Return a `receive` that yields the bodies, and then nothing more if not `end`."""
    left = list(bodies)

    async def receive() -> dict[str, Any]:
        if not left:
            await asyncio.Event().wait()
        body = left.pop(0)
        return {"type": "http.request", "body": body, "more_body": bool(left) or not end}

    return receive


async def test_a_body_is_read_whole() -> None:
    reader = BodyReader(MiddlewareConfig())
    assert await reader.read("feed", "", chunks(b"ab", b"", b"c")) == b"abc"
    assert await reader.read("feed", "3", chunks(b"abc")) == b"abc"


@pytest.mark.parametrize("receive", [chunks(end=False), chunks(b"a", b"b", end=False)], ids=["none", "stalls"])
async def test_a_body_that_does_not_arrive_in_time_is_refused(receive: Receive) -> None:
    reader = BodyReader(MiddlewareConfig(body_seconds=0.05))
    with pytest.raises(Expired, match=r"did not arrive within 0\.05 s") as refusal:
        await reader.read("feed", "100", receive)
    assert (refusal.value.status, reader._held["feed"]) == (408, 0)


async def test_a_drip_does_not_extend_the_time() -> None:
    async def drip() -> dict[str, Any]:
        await asyncio.sleep(0.01)
        return {"type": "http.request", "body": b"x", "more_body": True}

    async with asyncio.timeout(2):
        with pytest.raises(Expired):
            await BodyReader(MiddlewareConfig(body_seconds=0.1)).read("feed", "", drip)


async def test_stalled_bodies_give_their_place_to_new_ones_of_their_team_only() -> None:
    reader = BodyReader(MiddlewareConfig(max_reading_requests=3))
    stalled = [asyncio.create_task(reader.read("feed", "9", chunks(b"x", end=False))) for _ in range(3)]
    other = asyncio.create_task(reader.read("ads", "9", chunks(end=False)))
    await asyncio.sleep(0.01)
    for i in range(3):
        stalled.append(asyncio.create_task(reader.read("feed", "9", chunks(b"x", end=False))))
        await asyncio.sleep(0.01)
        assert [task.done() for task in stalled] == [j <= i for j in range(4 + i)]
    assert await reader.read("feed", "1", chunks(b"y")) == b"y"
    for task in stalled[:4]:
        with pytest.raises(Expired, match="too many bodies arrive at a time"):
            await task
    assert not any(task.done() for task in (*stalled[4:], other))
    for task in (*stalled[4:], other):
        task.cancel()
    await asyncio.gather(*stalled, other, return_exceptions=True)
    assert (reader._held["feed"], reader._held["ads"]) == (1, 0)  # of the one that was read, until it is released


async def test_a_body_that_is_too_large_is_refused_before_and_while_it_is_read() -> None:
    reader = BodyReader(MiddlewareConfig(max_body_bytes=3))
    for length, receive in (("4", chunks(end=False)), ("9" * 30, chunks(end=False)), ("", chunks(b"ab", b"cd", b"ef"))):
        with pytest.raises(BodyTooLarge, match="more than 3 bytes"):
            await reader.read("feed", length, receive)
    assert await reader.read("feed", "x", chunks(b"abc")) == b"abc"
    reader.release("feed", 3)
    assert reader._held["feed"] == 0


async def test_a_team_holds_a_limited_number_of_bytes() -> None:
    reader = BodyReader(MiddlewareConfig(max_held_bytes=5))
    await reader.read("feed", "", chunks(b"abcd"))
    with pytest.raises(Overloaded, match="requests of team feed that are not answered yet hold"):
        await reader.read("feed", "", chunks(b"ef"))
    assert await reader.read("ads", "", chunks(b"ef")) == b"ef"
    reader.release("feed", 4)
    assert await reader.read("feed", "", chunks(b"ef")) == b"ef"


async def test_a_disconnect_ends_reading() -> None:
    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    reader = BodyReader(MiddlewareConfig())
    with pytest.raises(Disconnected):
        await reader.read("feed", "10", receive)
    assert not reader._reading["feed"]
