"""Streams between two daemons, as an agent sees them, on every event loop."""

from __future__ import annotations

import gc
import hashlib
import os
import socket
from typing import TYPE_CHECKING

import anyio
import pytest
from tests.support.descriptors import descriptors

import pilotstack
from pilotstack import Driver, PilotAttribute, Stream, StreamBroken
from pilotstack.errors import AlreadyExists, ConnectionRefused, InvalidArgument, NotFound

if TYPE_CHECKING:
    from pilotstack.testing import Network
    from pilotstack.types import Congestion

pytestmark = pytest.mark.anyio


async def pair(a: Driver, b: Driver) -> tuple[Stream, Stream]:
    async with await b.listen() as listener:
        dialled = await a.dial(f"agent-b:{listener.port}")
        return dialled, await listener.accept()


async def read_all(stream: Stream) -> bytes:
    return b"".join([chunk async for chunk in stream])


async def test_partial_reads_give_every_byte_once(a: Driver, b: Driver) -> None:
    ours, theirs = await pair(a, b)
    async with ours, theirs:
        await ours.send(b"0123456789")
        got = b""
        while len(got) < 10:
            part = await theirs.receive(3)
            assert 1 <= len(part) <= 3
            got += part
        assert got == b"0123456789"


async def test_half_close_leaves_the_other_direction_open(a: Driver, b: Driver) -> None:
    ours, theirs = await pair(a, b)
    async with ours, theirs:
        await ours.send(b"question")
        await ours.send_eof()
        assert await read_all(theirs) == b"question"
        await theirs.send(b"answer")
        await theirs.send_eof()
        assert await read_all(ours) == b"answer"
        with pytest.raises(anyio.EndOfStream):
            await ours.receive()
        with pytest.raises(anyio.ClosedResourceError):
            await ours.send(b"more")


async def test_cancelling_a_read_loses_no_byte(a: Driver, b: Driver) -> None:
    ours, theirs = await pair(a, b)
    data = bytes(range(256)) * 400
    got = bytearray()

    async def send() -> None:
        for position in range(0, len(data), 1000):
            await ours.send(data[position : position + 1000])
        await ours.send_eof()

    async with ours, theirs, anyio.create_task_group() as tasks:
        tasks.start_soon(send)
        while True:
            with anyio.move_on_after(0.0005):
                try:
                    got += await theirs.receive(700)
                except anyio.EndOfStream:
                    break
    assert bytes(got) == data


async def test_large_writes_both_ways_at_once(a: Driver, b: Driver) -> None:
    ours, theirs = await pair(a, b)
    up, down = b"u" * 5_000_000, b"d" * 5_000_000
    results: dict[str, bytes] = {}

    async def read(name: str, stream: Stream) -> None:
        results[name] = await read_all(stream)

    async def write(stream: Stream, data: bytes) -> None:
        await stream.send(data)
        await stream.send_eof()

    async with ours, theirs, anyio.create_task_group() as tasks:
        tasks.start_soon(write, ours, up)
        tasks.start_soon(write, theirs, down)
        tasks.start_soon(read, "up", theirs)
        tasks.start_soon(read, "down", ours)
    assert results == {"up": up, "down": down}


async def test_what_was_sent_before_closing_arrives(a: Driver, b: Driver) -> None:
    ours, theirs = await pair(a, b)
    async with theirs:
        await ours.send(b"x" * 300_000)
        await ours.aclose()
        assert len(await read_all(theirs)) == 300_000
    with pytest.raises(anyio.ClosedResourceError):
        await ours.receive()


async def test_closing_with_unread_data_breaks_the_peer(a: Driver, b: Driver) -> None:
    ours, theirs = await pair(a, b)
    async with ours:
        await ours.send(b"x" * 1000)
        await theirs.receive(1)
        await theirs.aclose()
        with pytest.raises(StreamBroken) as broken:
            await ours.receive()
        assert broken.value.reason == "reset"


async def test_a_second_reader_is_refused(a: Driver, b: Driver) -> None:
    ours, theirs = await pair(a, b)
    async with ours, theirs, anyio.create_task_group() as tasks:
        tasks.start_soon(ours.receive)
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(anyio.BusyResourceError):
            await ours.receive()
        tasks.cancel_scope.cancel()


async def test_addresses_and_ids_are_typed_attributes(a: Driver, b: Driver) -> None:
    ours, theirs = await pair(a, b)
    async with ours, theirs:
        assert ours.extra(PilotAttribute.remote_address) == theirs.local_address
        assert theirs.extra(PilotAttribute.remote_address) == ours.local_address
        assert ours.extra(PilotAttribute.connection_id) == ours.connection_id
        assert isinstance(ours.extra(anyio.abc.SocketAttribute.raw_socket), socket.socket)


async def test_a_stream_becomes_a_plain_socket(a: Driver, b: Driver) -> None:
    ours, theirs = await pair(a, b)
    async with theirs:
        await theirs.send(b"hello")
        plain = ours.socket()
        with plain:
            assert await anyio.to_thread.run_sync(plain.recv, 100) == b"hello"


async def test_a_plain_socket_of_one_line_closes_what_is_behind_it(
    shared_network: Network,
) -> None:
    path = shared_network.nodes["agent-a"].socket

    def exchange(plain: socket.socket) -> bytes:
        with plain, plain.makefile("rb") as file:
            plain.sendall(b"x")
            plain.shutdown(socket.SHUT_WR)
            return file.read()

    opened = []
    before = descriptors()
    # Nothing is left to the collector.
    gc.disable()
    try:
        for _ in range(3):
            stream = await pilotstack.dial("agent-b:7", socket_path=path)
            opened.append(stream)
            assert await anyio.to_thread.run_sync(exchange, stream.socket()) == b"x"
        assert len(os.listdir("/proc/self/fd")) - before <= 1
        taken = (await pilotstack.dial("agent-b:7", socket_path=path)).socket()
        socket.socket(fileno=taken.detach()).close()
        assert len(os.listdir("/proc/self/fd")) - before <= 1
    finally:
        gc.enable()


async def test_every_failure_of_a_dial_has_a_type_and_a_code(
    a: Driver, b: Driver, shared_network: Network
) -> None:
    with pytest.raises(ConnectionRefused) as refused:
        await a.dial("agent-b:4999")
    assert (refused.value.code, bool(refused.value.hint)) == ("connection_failed", True)
    with pytest.raises(NotFound):
        await a.dial("nobody:80")
    for target in ("agent-b", "agent-b:0", "agent-b:70000", ":80"):
        with pytest.raises(InvalidArgument):
            await a.dial(target)
    async with await b.listen(4321):
        with pytest.raises(AlreadyExists):
            async with Driver(shared_network.nodes["agent-b"].socket) as other:
                await other.listen(4321)
    # The port is free again.
    async with await b.listen(4321):
        pass


async def test_two_lines_are_a_client_and_two_a_server(shared_network: Network) -> None:
    async def shout(stream: Stream) -> None:
        async with stream:
            async for chunk in stream:
                await stream.send(chunk.upper())

    sockets = {name: node.socket for name, node in shared_network.nodes.items()}
    async with (
        await pilotstack.listen(4400, socket_path=sockets["agent-b"]) as listener,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(listener.serve, shout)
        async with await pilotstack.dial("agent-b:4400", socket_path=sockets["agent-a"]) as stream:
            await stream.send(b"hello")
            assert await stream.receive() == b"HELLO"
        tasks.cancel_scope.cancel()


async def test_datagrams_reach_the_port_and_can_be_answered(a: Driver, b: Driver) -> None:
    async with await a.datagram() as ours, await b.datagram(4500) as theirs:
        await ours.send_to(b"ping", "agent-b:4500")
        datagram = await theirs.receive()
        assert datagram.data == b"ping"
        await theirs.send_to(b"pong", datagram.source)
        assert (await ours.receive()).data == b"pong"
        with pytest.raises(InvalidArgument):
            await ours.send_to(b"", "agent-b:4500")


async def test_a_node_dials_itself(a: Driver) -> None:
    async with (
        await a.listen(4600) as listener,
        await a.dial("agent-a:4600") as ours,
        await listener.accept() as theirs,
    ):
        await ours.send(b"me")
        assert await theirs.receive() == b"me"


@pytest.mark.parametrize("count", [20, 1000])
async def test_simultaneous_connections_carry_their_own_payloads(
    a: Driver, b: Driver, count: int
) -> None:
    port = 5000 + count
    digests: set[tuple[bytes, bytes]] = set()

    async def answer(stream: Stream) -> None:
        async with stream:
            got = await read_all(stream)
            await stream.send(hashlib.sha256(got).digest() * 40)
            await stream.send_eof()

    async def ask(number: int) -> None:
        async with await a.dial(f"agent-b:{port}") as stream:
            question = number.to_bytes(4) * 500
            await stream.send(question)
            await stream.send_eof()
            digests.add((await read_all(stream), hashlib.sha256(question).digest() * 40))

    async with await b.listen(port) as listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, answer)
        async with anyio.create_task_group() as dials:
            for number in range(count):
                dials.start_soon(ask, number)
        tasks.cancel_scope.cancel()
    assert len(digests) == count
    assert all(got == expected for got, expected in digests)
    # However many there were, what the daemon tells about them fits a frame.
    assert (await a.info()).node_id > 0


async def test_the_end_is_seen_although_it_came_with_the_last_bytes(a: Driver, b: Driver) -> None:
    for _ in range(20):
        ours, theirs = await pair(a, b)
        async with ours, theirs:
            await ours.send(b"x" * 500_000)
            await ours.send_eof()
            with anyio.fail_after(20):
                assert len(await read_all(theirs)) == 500_000


@pytest.mark.parametrize("congestion", ["reno", "cubic", "bbr"])
async def test_the_dialler_chooses_its_congestion_controller(
    a: Driver, b: Driver, congestion: Congestion
) -> None:
    async with (
        await b.listen() as listener,
        await a.dial(f"agent-b:{listener.port}", congestion=congestion) as stream,
        await listener.accept() as accepted,
    ):
        data = bytes(range(256)) * 4096
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(stream.send, data)
            received = b""
            while len(received) < len(data):
                received += await accepted.receive()
        assert received == data
        row = next(row for row in await a.connections() if row.id == stream.connection_id)
        assert row.congestion == congestion
        assert row.delivery_rate > 0
        assert row.pacing_rate > 0
        assert 0 < row.min_rtt_ms <= row.srtt_ms * 1.5
        assert [
            row.congestion for row in await b.connections() if row.local_port == listener.port
        ] == ["cubic"]


async def test_an_unknown_congestion_controller_is_refused_by_name(a: Driver) -> None:
    with pytest.raises(InvalidArgument, match="vegas") as caught:
        await a.dial("agent-b:7", congestion="vegas")  # type: ignore[arg-type]
    assert "cubic" in (caught.value.hint or "")


async def test_an_aborted_stream_breaks_at_once(a: Driver, b: Driver) -> None:
    async with (
        await b.listen() as listener,
        await a.dial(f"agent-b:{listener.port}") as stream,
        await listener.accept() as accepted,
    ):
        await a.abort(stream)
        with pytest.raises(StreamBroken, match="reset"):
            await accepted.receive()
