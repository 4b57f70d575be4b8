"""What programs that know asyncio and not anyio do: they need nothing but its own means."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from pilotstack import Driver

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from pilotstack import Stream
    from pilotstack.testing import Network

pytestmark = pytest.mark.asyncio
ECHO = 7


@pytest_asyncio.fixture
async def driver(shared_network: Network) -> AsyncIterator[Driver]:
    async with Driver(shared_network.nodes["agent-a"].socket) as driver:
        yield driver


async def echoed(driver: Driver, text: bytes) -> bytes:
    async with driver.dial(("agent-b", ECHO)) as stream:
        await stream.send(text)
        await stream.send_eof()
        return b"".join([chunk async for chunk in stream])


async def test_many_dial_side_by_side_with_gather(driver: Driver) -> None:
    texts = [f"message {number}".encode() for number in range(20)]
    assert await asyncio.gather(*(echoed(driver, text) for text in texts)) == texts


async def test_a_server_and_its_clients_are_tasks_of_one_group(
    shared_network: Network, driver: Driver
) -> None:
    async def shout(stream: Stream) -> None:
        async with stream:
            async for chunk in stream:
                await stream.send(chunk.upper())

    async def ask(port: int) -> bytes:
        async with driver.dial(("agent-b", port)) as stream:
            await stream.send(b"hello")
            return await stream.receive()

    async with (
        Driver(shared_network.nodes["agent-b"].socket) as host,
        host.listen() as listener,
        asyncio.TaskGroup() as tasks,
    ):
        serving = tasks.create_task(listener.serve(shout))
        asking = [tasks.create_task(ask(listener.port)) for _ in range(3)]
        assert await asyncio.gather(*asking) == [b"HELLO"] * 3
        serving.cancel()


async def test_a_time_limit_ends_a_receive_and_nothing_else(driver: Driver) -> None:
    async with driver.dial(("agent-b", ECHO)) as stream:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await stream.receive()
        await stream.send(b"still here")
        assert await stream.receive() == b"still here"


async def test_a_cancelled_task_leaves_its_driver_usable(driver: Driver) -> None:
    async with driver.dial(("agent-b", ECHO)) as stream:
        waiting = asyncio.create_task(stream.receive())
        # Runs the task up to its wait.
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert await echoed(driver, b"another stream") == b"another stream"


async def test_a_stream_serves_the_readers_and_writers_of_asyncio(driver: Driver) -> None:
    stream = await driver.dial(("agent-b", ECHO))
    reader, writer = await asyncio.open_connection(sock=stream.socket())
    writer.write(b"a line\nand no end")
    writer.write_eof()
    assert await reader.readline() == b"a line\n"
    assert await reader.read() == b"and no end"
    writer.close()
    await writer.wait_closed()
