"""What local programs meet when descriptors run out, when there are too many of them, and when the
daemon dies."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

import anyio
import pytest

from pilotstack import Driver, Stream, StreamBroken, sync
from pilotstack.errors import NotFound, PermissionDenied, Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pilotstack.testing import Network, Node

pytestmark = pytest.mark.anyio

HELLO = bytes((0, 0, 0, 3, 0x60, 0, 1))
HELLO_OK, FAILURE, ERROR = 0x61, 0x64, 0x0A
CLOSE = 0x08


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def limit(node: Node, descriptors: int) -> None:
    _, hard = resource.prlimit(node.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(node.pid, resource.RLIMIT_NOFILE, (descriptors, hard))


def knock(node: Node, stack: ExitStack) -> socket.socket:
    program = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
    program.settimeout(20)
    program.connect(str(node.socket))
    # Who is refused at once can still read why.
    with suppress(BrokenPipeError):
        program.sendall(HELLO)
    return program


def frames(program: socket.socket) -> Iterator[tuple[int, bytes]]:
    with program.makefile("rb") as file:
        while head := file.read(4):
            body = file.read(int.from_bytes(head))
            yield body[0], body[1:]


async def dropped(driver: Driver, name: str) -> int:
    return int((await driver.call(0x0D))["dropped"][name])


async def fill(driver: Driver, kept: list[Stream]) -> None:
    while True:
        kept.append(await driver.dial("agent-a:7"))


async def test_a_connection_without_a_free_descriptor_is_served_later(network: Network) -> None:
    a = network.start("agent-a")
    _, hard = resource.prlimit(a.pid, resource.RLIMIT_NOFILE)
    async with Driver(a.socket) as driver:
        with ExitStack() as stack:
            limit(a, 5)
            waiting = [knock(a, stack) for _ in range(5)]
            with anyio.fail_after(20):
                while not await dropped(driver, "accepts"):
                    pass
            with pytest.raises(Unavailable, match="no descriptor"):
                await driver.dial("agent-a:7")
            # One stream is lost, nothing else.
            limit(a, hard)
            for program in waiting:
                assert next(frames(program))[0] == HELLO_OK
        async with await driver.dial("agent-a:7") as stream:
            await stream.send(b"hello")
            assert await stream.receive() == b"hello"


async def test_a_refused_program_gets_a_reason(network: Network) -> None:
    a = network.start("agent-a")
    limit(a, 100)
    with ExitStack() as stack:
        programs = []
        while True:
            program = knock(a, stack)
            answers = frames(program)
            command, body = next(answers)
            if command != HELLO_OK:
                break
            programs.append(program)
        assert 20 < len(programs) <= 50
        failure = json.loads(body[4:])
        assert (command, body[:4], failure["code"]) == (FAILURE, bytes(4), "unavailable")
        assert failure["message"]
        assert failure["hint"]
        command, body = next(answers)
        assert (command, body[2:].decode()) == (ERROR, failure["message"])
    # When they have gone, the next is served.
    while True:
        with ExitStack() as stack:
            if next(frames(knock(a, stack)))[0] == HELLO_OK:
                return


async def test_streams_leave_descriptors_to_programs(network: Network) -> None:
    a = network.start("agent-a")
    limit(a, 100)
    async with Driver(a.socket) as greedy:
        kept: list[Stream] = []
        with pytest.raises(Unavailable):
            await fill(greedy, kept)
        async with Driver(a.socket) as other:
            assert (await other.info()).node_id == a.node_id
        for stream in kept:
            await stream.aclose()


async def test_a_killed_daemon_is_no_end_of_a_stream(network: Network) -> None:
    a, b = network.start("agent-a"), network.start("agent-b")
    with (
        sync.Driver(a.socket) as driver,
        driver.dial("agent-b:7") as silent,
        driver.dial("agent-b:7") as used,
    ):
        used.sendall(b"x")
        used.settimeout(20)
        assert used.recv(1) == b"x"
        a.process.kill()
        for stream in (silent, used):
            stream.settimeout(20)
            with pytest.raises(ConnectionResetError):
                stream.recv(1)
    assert b.process.is_running


async def test_a_stream_of_another_program_is_left_alone(network: Network) -> None:
    a = network.start("agent-a")
    async with Driver(a.socket) as owner, Driver(a.socket) as other:
        async with await owner.dial("agent-a:7") as stream:
            with pytest.raises(PermissionDenied):
                await other.call(CLOSE, stream.connection_id.to_bytes(4))
            await stream.send(b"hello")
            assert await stream.receive() == b"hello"
            await other.disconnect(stream.connection_id)
            with pytest.raises(StreamBroken, match="reset"):
                await stream.receive()
        with pytest.raises(NotFound):
            await other.disconnect(4_000_000)


async def test_a_silent_registry_does_not_keep_programs_from_the_state(network: Network) -> None:
    a = network.start("agent-a")
    with ExitStack() as stack:
        os.kill(network.rendezvous.pid, signal.SIGSTOP)
        stack.callback(os.kill, network.rendezvous.pid, signal.SIGCONT)
        for _ in range(4):
            program = knock(a, stack)
            for number in range(1, 200):
                name = f"name-{number}".encode()
                body = bytes((0x62,)) + number.to_bytes(4) + bytes((0x11,)) + name
                program.sendall(len(body).to_bytes(4) + body)
        async with Driver(a.socket) as driver:
            with anyio.fail_after(20):
                assert (await driver.info()).node_id == a.node_id
