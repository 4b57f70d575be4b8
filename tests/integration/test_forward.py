"""Local ports that lead to agents, and ports of agents that lead to local services."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from tests.support.descriptors import descriptors, wait_for_descriptors

from pilotstack import Driver, Stream, StreamBroken, _serving
from pilotstack.services import forward
from pilotstack.services.local import LocalStream, accept_forever, connect
from pilotstack.services.relaying import Carrier, Closed, Opened, Refused, Relays
from pilotstack.types import SocketAddress

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncIterator, Awaitable

pytestmark = pytest.mark.anyio

Event = Opened | Closed | Refused
Open = Callable[..., AbstractAsyncContextManager["Forward"]]


class Told:
    """Events, and a way to wait for some."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._news = anyio.Event()

    def __call__(self, event: Event) -> None:
        self.events.append(event)
        self._news.set()

    async def until(self, kind: type[Event], count: int = 1) -> list[Event]:
        with anyio.fail_after(30):
            while len(found := [e for e in self.events if isinstance(e, kind)]) < count:
                self._news = anyio.Event()
                await self._news.wait()
        return found


async def read_all(stream: LocalStream | Stream) -> bytes:
    data = b""
    with suppress(anyio.EndOfStream):
        while True:
            data += await stream.receive()
    return data


async def shout_at_the_end(stream: Stream) -> None:
    """Answers after the peer's FIN only."""
    async with stream:
        data = await read_all(stream)
        await stream.send(data.upper())


class Forward:
    """A local port that leads to a port of agent-b."""

    def __init__(self, port: int, told: Told, relays: Relays) -> None:
        self.port = port
        self.told = told
        self.relays = relays

    async def dial(self) -> LocalStream:
        return await connect("127.0.0.1", self.port)


@pytest.fixture
def forwarded(a: Driver, b: Driver) -> Open:
    @asynccontextmanager
    async def run(
        handler: Callable[[Stream], Awaitable[object]] = shout_at_the_end,
        limit: int = 1000,
        idle: float = 60.0,
    ) -> AsyncIterator[Forward]:
        told = Told()
        async with (
            await b.listen() as listener,
            Relays(limit, idle) as relays,
            anyio.create_task_group() as tasks,
        ):
            with _serving.listen("127.0.0.1", 0) as listening:
                tasks.start_soon(listener.serve, handler)
                carrier = Carrier(a, relays, told)
                target = ("agent-b", listener.port)
                tasks.start_soon(forward.forward_streams, listening, target, carrier)
                yield Forward(listening.getsockname()[1], told, relays)
                tasks.cancel_scope.cancel()

    return run


async def test_bytes_go_both_ways_and_each_direction_ends_by_itself(forwarded: Open) -> None:
    data = bytes(range(97, 123)) * 100_000
    async with forwarded() as to, await to.dial() as local:
        await local.send(data)
        await local.send_eof()
        assert await read_all(local) == data.upper()
        (closed,) = await to.told.until(Closed)
        assert closed == Closed(1, len(data), len(data), None)


async def test_the_end_of_the_agent_leaves_the_other_direction_open(forwarded: Open) -> None:
    got = []
    done = anyio.Event()

    async def finish_first(stream: Stream) -> None:
        async with stream:
            await stream.send_eof()
            got.append(await read_all(stream))
            done.set()

    async with forwarded(finish_first) as to, await to.dial() as local:
        assert await read_all(local) == b""
        await local.send(b"afterwards")
        await local.send_eof()
        assert await to.told.until(Closed) == [Closed(1, 10, 0, None)]
        with anyio.fail_after(30):
            await done.wait()
        assert got == [b"afterwards"]


async def test_a_reset_of_the_agent_is_one_for_the_program(forwarded: Open, b: Driver) -> None:
    async def reset(stream: Stream) -> None:
        await stream.receive()
        await b.abort(stream)
        await stream.aclose()

    async with forwarded(reset) as to, await to.dial() as local:
        await local.send(b"x")
        with pytest.raises(anyio.BrokenResourceError):
            await read_all(local)
        (closed,) = await to.told.until(Closed)
        assert isinstance(closed, Closed)
        assert closed.reason == "reset"


async def test_a_reset_of_the_program_is_one_for_the_agent(forwarded: Open) -> None:
    broken = anyio.Event()

    async def expect(stream: Stream) -> None:
        async with stream:
            await stream.send(b"x")
            try:
                await read_all(stream)
            except StreamBroken:
                broken.set()

    async with forwarded(expect) as to:
        local = await to.dial()
        await local.receive()
        local.reset()
        with anyio.fail_after(30):
            await broken.wait()


async def test_many_connections_leave_no_descriptor(forwarded: Open) -> None:
    count = 200
    async with forwarded() as to:
        await one(to, b"first")
        await to.told.until(Closed)
        before = descriptors()
        async with anyio.create_task_group() as tasks:
            for number in range(count):
                tasks.start_soon(one, to, f"message {number}".encode() * 1000)
        closed = await to.told.until(Closed, count + 1)
        assert {event.reason for event in closed if isinstance(event, Closed)} == {None}
        with anyio.fail_after(30):
            while len(to.relays):
                await anyio.lowlevel.checkpoint()
        # Pipes of the kernel that are kept for the next transfers.
        await anyio.to_thread.run_sync(wait_for_descriptors, before + 2 * 16)


async def one(to: Forward, data: bytes) -> None:
    async with await to.dial() as local:
        await local.send(data)
        await local.send_eof()
        assert await read_all(local) == data.upper()


async def test_connections_are_bounded(forwarded: Open) -> None:
    async with forwarded(limit=4) as to, await to.dial() as first:
        # A quarter for one agent.
        await to.told.until(Opened)
        async with await to.dial() as second:
            with pytest.raises(anyio.BrokenResourceError):
                await second.receive()
        (refused,) = await to.told.until(Refused)
        assert isinstance(refused, Refused)
        assert refused.code == "throttled"
        assert to.relays.refused == {"target_limit": 1}
        await first.send_eof()
        assert await read_all(first) == b""


async def test_a_silent_connection_is_reset(forwarded: Open) -> None:
    async with forwarded(idle=0.05) as to, await to.dial() as local:
        with anyio.fail_after(30), pytest.raises(anyio.BrokenResourceError):
            await local.receive()
        assert await to.told.until(Closed) == [Closed(1, 0, 0, "idle")]


async def test_a_port_that_nobody_listens_on_resets_the_connection(a: Driver) -> None:
    told = Told()
    async with Relays(10) as relays, anyio.create_task_group() as tasks:
        with _serving.listen("127.0.0.1", 0) as listening:
            target = ("agent-b", 4999)
            carrier = Carrier(a, relays, told)
            tasks.start_soon(forward.forward_streams, listening, target, carrier)
            async with await connect(*listening.getsockname()) as local:
                with pytest.raises(anyio.BrokenResourceError):
                    await local.receive()
            (refused,) = await told.until(Refused)
            assert isinstance(refused, Refused)
            assert refused.code == "connection_failed"
            tasks.cancel_scope.cancel()


async def test_a_local_service_is_there_for_agents(a: Driver, b: Driver) -> None:
    told = Told()

    async def shout(local: LocalStream) -> None:
        await local.send((await read_all(local)).upper())
        await local.aclose()

    async with (
        await b.listen() as listener,
        Relays(10) as relays,
        anyio.create_task_group() as tasks,
    ):
        listening = _serving.listen("127.0.0.1", 0)
        port = listening.getsockname()[1]
        carrier = Carrier(b, relays, told)
        tasks.start_soon(forward.expose_streams, listener, "127.0.0.1", port, carrier)
        async with anyio.create_task_group() as service:
            service.start_soon(accept_forever, listening, shout)
            async with await a.dial(("agent-b", listener.port)) as stream:
                await stream.send(b"hello")
                await stream.send_eof()
                assert await read_all(stream) == b"HELLO"
            assert await told.until(Closed) == [Closed(1, 5, 5, None)]
            service.cancel_scope.cancel()
        listening.close()
        async with await a.dial(("agent-b", listener.port)) as stream:
            with pytest.raises(StreamBroken):
                await read_all(stream)
        (refused,) = await told.until(Refused)
        assert isinstance(refused, Refused)
        assert refused.code == "connection_failed"
        tasks.cancel_scope.cancel()


async def test_datagrams_go_there_and_back(a: Driver, b: Driver) -> None:
    with (
        forward.bind_datagrams("127.0.0.1", 0) as service,
        forward.bind_datagrams("127.0.0.1", 0) as entry,
        forward.bind_datagrams("127.0.0.1", 0) as one_client,
        forward.bind_datagrams("127.0.0.1", 0) as other_client,
    ):
        async with await b.datagram() as bound, anyio.create_task_group() as tasks:
            address = (await b.info()).address
            target = SocketAddress(address, bound.port)
            tasks.start_soon(forward.forward_datagrams, entry, target, a)
            tasks.start_soon(forward.expose_datagrams, bound, *service.getsockname())
            tasks.start_soon(echo_upper, service)
            for turn in range(3):
                for client in (one_client, other_client):
                    text = f"turn {turn}".encode()
                    assert await ask(client, entry, text) == text.upper()
            tasks.cancel_scope.cancel()


async def echo_upper(service: socket.socket) -> None:
    while True:
        await anyio.wait_readable(service)
        data, source = service.recvfrom(2000)
        service.sendto(data.upper(), source)


async def ask(client: socket.socket, entry: socket.socket, text: bytes) -> bytes:
    """Asks until there is an answer: datagrams may be lost."""
    with anyio.fail_after(30):
        while True:
            client.sendto(text, entry.getsockname())
            with anyio.move_on_after(1):
                while True:
                    await anyio.wait_readable(client)
                    answer = client.recv(2000)
                    if answer == text.upper():
                        return answer
