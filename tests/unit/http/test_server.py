"""Streams of events: who keeps a place, and that a client which leaves ends its source."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

import anyio
import anyio.abc
import pytest

from pilotstack.http.messages import Events, Request, Response
from pilotstack.http.server import STREAMS, HttpServer

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

pytestmark = pytest.mark.anyio


class Source:
    """Events that the test sends."""

    def __init__(self) -> None:
        self.open = 0
        self.ended = anyio.Event()
        self.more = anyio.Event()

    async def __call__(self, request: Request) -> Response:
        return Events(self._events(), is_proven=request.shows("token"))

    async def _events(self) -> AsyncGenerator[bytes]:
        self.open += 1
        try:
            while True:
                yield b"event: x\ndata: 1\n\n"
                await self.more.wait()
        finally:
            self.open -= 1
            self.ended.set()


@asynccontextmanager
async def served(source: Source) -> AsyncIterator[HttpServer]:
    async with (
        HttpServer("127.0.0.1", 0, {"/events": source}) as server,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(server.serve)
        yield server
        tasks.cancel_scope.cancel()


async def follow(
    server: HttpServer, token: str = "", method: str = "GET"
) -> anyio.abc.SocketStream:
    """A client that has got the first event."""
    stream = await anyio.connect_tcp(*server.address)
    bearer = f"Authorization: Bearer {token}\r\n" if token else ""
    await stream.send(f"{method} /events HTTP/1.1\r\nHost: localhost\r\n{bearer}\r\n".encode())
    data = b""
    while b"data: 1" not in data and method == "GET":
        data += await stream.receive()
    return stream


async def is_over(stream: anyio.abc.SocketStream) -> bool:
    """Waits for the end of a stream."""
    with anyio.fail_after(30):
        try:
            while True:
                await stream.receive()
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            return True


async def test_a_newcomer_takes_the_place_of_the_oldest_without_a_token() -> None:
    source = Source()
    async with served(source) as server, AsyncExitStack() as stack:
        operator = await stack.enter_async_context(await follow(server, "token"))
        strangers = [
            await stack.enter_async_context(await follow(server)) for _ in range(STREAMS - 1)
        ]
        await stack.enter_async_context(await follow(server))
        assert await is_over(strangers[0])
        assert source.open == STREAMS
        await stack.enter_async_context(await follow(server, "token"))
        assert await is_over(strangers[1])
        # The first one, with a token, goes on.
        source.more.set()
        source.more = anyio.Event()
        assert b"data: 1" in await operator.receive()


async def test_a_client_that_leaves_ends_its_source() -> None:
    source = Source()
    async with served(source) as server:
        stream = await follow(server)
        assert source.open == 1
        await stream.aclose()
        with anyio.fail_after(30):
            while not source.ended.is_set():
                source.more.set()
                await anyio.lowlevel.checkpoint()


async def test_the_head_of_a_stream_is_no_stream() -> None:
    source = Source()
    async with served(source) as server, await follow(server, method="HEAD") as stream:
        head = await stream.receive()
        assert head.startswith(b"HTTP/1.1 200 ")
        assert b"text/event-stream" in head
        assert await is_over(stream)
        assert source.open == 0
