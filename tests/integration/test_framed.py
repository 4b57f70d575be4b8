"""The framed dialect of existing drivers, with stream data on the control socket."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import pytest

from pilotstack import Driver, Stream
from pilotstack.errors import AlreadyExists, ConnectionRefused, NotFound

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from pilotstack.testing import Network

pytestmark = pytest.mark.anyio


@pytest.fixture
async def a(shared_network: Network) -> AsyncIterator[Driver]:
    async with Driver(shared_network.nodes["agent-a"].socket, framed=True) as driver:
        yield driver


@pytest.fixture
async def b(shared_network: Network) -> AsyncIterator[Driver]:
    async with Driver(shared_network.nodes["agent-b"].socket, framed=True) as driver:
        yield driver


async def test_an_exchange_and_a_large_transfer(a: Driver, b: Driver) -> None:
    data = bytes(range(256)) * 20_000
    got: list[bytes] = []

    async def serve(stream: Stream) -> None:
        async with stream:
            await stream.send(await stream.receive(5))
            got.extend([chunk async for chunk in stream])

    async with await b.listen(7100) as listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, serve)
        async with await a.dial("agent-b:7100") as stream:
            await stream.send(b"hello")
            assert await stream.receive() == b"hello"
            await stream.send(data)
        with anyio.fail_after(20):
            while len(b"".join(got)) < len(data):
                await anyio.lowlevel.checkpoint()
        tasks.cancel_scope.cancel()
    assert b"".join(got) == data


async def test_frames_carry_the_same_answers_and_errors(a: Driver, b: Driver) -> None:
    assert (await a.resolve("agent-b")).address == (await b.info()).address
    with pytest.raises(ConnectionRefused):
        await a.dial("agent-b:7199")
    with pytest.raises(NotFound):
        await a.resolve("nobody")
    async with await b.datagram(7105) as there, await a.datagram() as here:
        # The answer to a datagram of its own shows that the daemon knows the socket.
        await there.send_to(b"nobody", "agent-a:7105")
        await here.send_to(b"hello", "agent-b:7105")
        with anyio.fail_after(20):
            assert (await there.receive()).data == b"hello"
    async with await b.listen(7101):
        with pytest.raises(AlreadyExists):
            await b.listen(7101)
    async with await b.listen(7101):
        pass


async def test_streams_of_one_listener_do_not_mix(a: Driver, b: Driver) -> None:
    async def shout(stream: Stream) -> None:
        async with stream:
            async for chunk in stream:
                await stream.send(chunk.upper())

    async def ask(word: bytes) -> None:
        async with await a.dial("agent-b:7102") as stream:
            for _ in range(20):
                await stream.send(word)
                answer = b""
                while len(answer) < len(word):
                    answer += await stream.receive()
                assert answer == word.upper()

    async with await b.listen(7102) as listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, shout)
        async with anyio.create_task_group() as asking:
            for number in range(10):
                asking.start_soon(ask, b"word-%d" % number)
        tasks.cancel_scope.cancel()


async def test_a_cancelled_call_leaves_the_driver_usable(a: Driver) -> None:
    node = (await a.info()).node_id
    for delay in (0, 0.0001, 0.0005, 0.001):
        with anyio.move_on_after(delay):
            await a.resolve("agent-b")
        assert (await a.info()).node_id == node


async def test_a_send_that_is_cancelled_cuts_no_frame(a: Driver, b: Driver) -> None:
    """The peer reads nothing at first, so that the daemon stops reading in the middle."""
    async with (
        b.listen(7103) as listener,
        a.dial("agent-b:7103") as stream,
        await listener.accept() as accepted,
    ):
        is_cancelled = False
        while not is_cancelled:
            with anyio.move_on_after(0.2) as scope:
                await stream.send(bytes(1_000_000))
            is_cancelled = scope.cancelled_caught
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(stream.send, b"end")
            with anyio.fail_after(60):
                got = b""
                while not got.endswith(b"end"):
                    got = (got + await accepted.receive())[-3:]
