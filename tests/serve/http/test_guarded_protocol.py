"""Connections of a real uvicorn: slow and large headers, bodies after the response, and too many connections."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn

from brew_serve.http.config import MiddlewareConfig
from brew_serve.http.guarded_protocol import guarded_protocol

GET = b"GET / HTTP/1.1\r\nhost: test\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nhost: test\r\ncontent-length: 1000\r\n\r\n"

Connect = Callable[[], Any]


async def answer_without_reading(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


@asynccontextmanager
async def server(**limits: Any) -> AsyncIterator[Connect]:
    """Run a server with the limits; yields a function that opens a connection."""
    config = uvicorn.Config(
        answer_without_reading,
        port=0,
        lifespan="off",
        log_config=None,
        http=guarded_protocol(MiddlewareConfig(**limits)),
    )
    running = uvicorn.Server(config)
    running.config.load()
    running.lifespan = config.lifespan_class(config)
    await running.startup()
    port = running.servers[0].sockets[0].getsockname()[1]
    writers: list[asyncio.StreamWriter] = []

    async def connect() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writers.append(writer)
        return reader, writer

    try:
        yield connect
    finally:
        for writer in writers:
            writer.close()
        await running.shutdown()


async def answer(reader: asyncio.StreamReader) -> bytes:
    return await asyncio.wait_for(reader.readuntil(b"ok"), 2)


async def ended(reader: asyncio.StreamReader) -> bool:
    """Return whether the server closes the connection within two seconds, without a word."""
    try:
        return await asyncio.wait_for(reader.read(), 2) == b""
    except ConnectionResetError:
        return True


@pytest.mark.parametrize("start", [b"", b"GET", GET[:-2], b"\r\n"], ids=["nothing", "method", "headers", "blank"])
async def test_headers_that_do_not_arrive_in_time_end_the_connection(start: bytes) -> None:
    async with server(header_seconds=0.1) as connect:
        reader, writer = await connect()
        writer.write(start)
        assert await ended(reader)


async def test_a_drip_of_headers_does_not_extend_the_time() -> None:
    async with server(header_seconds=0.2) as connect:
        reader, writer = await connect()
        closed = asyncio.create_task(ended(reader))
        start = asyncio.get_running_loop().time()
        writer.write(GET[:-2])
        while not closed.done():
            writer.write(b"a: b\r\n")
            await asyncio.sleep(0.02)
        assert closed.result()
        assert asyncio.get_running_loop().time() - start < 1


async def test_later_requests_of_a_connection_have_their_own_time() -> None:
    async with server(header_seconds=0.2) as connect:
        reader, writer = await connect()
        for _ in range(4):
            writer.write(GET)
            assert (await answer(reader)).startswith(b"HTTP/1.1 200")
            await asyncio.sleep(0.1)  # idle: longer than the limit in all
        writer.write(GET + GET[:-2])  # a whole request and a part of the next one
        await answer(reader)
        assert await ended(reader)


async def test_pipelined_requests_are_answered() -> None:
    async with server() as connect:
        reader, writer = await connect()
        writer.write(GET * 3)
        for _ in range(3):
            await answer(reader)


async def test_headers_that_are_too_large_are_refused() -> None:
    async with server(max_header_bytes=1_000) as connect:
        reader, writer = await connect()
        writer.write(GET[:-2] + b"a: " + b"b" * 2_000)
        assert (await asyncio.wait_for(reader.read(), 2)).startswith(b"HTTP/1.1 431 ")
        reader, writer = await connect()
        writer.write(GET)
        await answer(reader)


async def test_a_body_after_the_response_is_read_for_a_limited_time() -> None:
    async with server(body_seconds=0.2) as connect:
        reader, writer = await connect()
        closed = None
        writer.write(POST)
        await answer(reader)
        closed = asyncio.create_task(ended(reader))
        while not closed.done():
            writer.write(b"x")
            await asyncio.sleep(0.02)
        assert closed.result()
        reader, writer = await connect()
        writer.write(POST)
        await answer(reader)
        writer.write(b"x" * 1_000 + GET)  # a body that ends in time: the connection stays
        await answer(reader)


async def test_a_connection_too_many_ends_the_oldest_without_a_request() -> None:
    async with server(max_connections=50) as connect:
        stalled = [await connect() for _ in range(50)]
        for _, writer in stalled:
            writer.write(GET[:-2])
        await asyncio.sleep(0.05)
        for i in range(100):  # good connections are answered, whatever the others do
            reader, writer = await connect()
            writer.write(GET)
            await answer(reader)
            if i < 50:
                assert await ended(stalled[i][0])
