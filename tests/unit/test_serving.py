"""What every server shares."""

from __future__ import annotations

import socket
from contextlib import ExitStack, suppress

import anyio
import anyio.abc
import anyio.lowlevel
import pytest

from pilotstack import _serving

pytestmark = pytest.mark.anyio


async def test_newcomers_do_not_wait_for_one_turn_of_the_loop_each() -> None:
    count = 100
    accepted = 0

    async def handle(stream: anyio.abc.SocketStream) -> None:
        nonlocal accepted
        async with stream:
            accepted += 1

    with ExitStack() as stack:
        listening = stack.enter_context(_serving.listen("127.0.0.1", 0, count))
        for _ in range(count):
            stack.enter_context(socket.create_connection(listening.getsockname()))
        turns = 0
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_serving.accept_forever, listening, handle)
            while accepted < count:
                await anyio.lowlevel.checkpoint()
                turns += 1
            tasks.cancel_scope.cancel()
    assert turns < count


async def test_connections_without_a_task_are_closed_at_the_end() -> None:
    async def handle(stream: anyio.abc.SocketStream) -> None:
        await stream.aclose()

    async with anyio.create_task_group() as tasks:
        with _serving.listen("127.0.0.1", 0) as listening:
            client = socket.create_connection(listening.getsockname())
            spied = _Spied(listening, tasks.cancel_scope)
            with client:
                await _serving.accept_forever(spied, handle)  # type: ignore[arg-type]
    assert [accepted.fileno() for accepted in spied.accepted] == [-1]


class _Spied:
    """A listening socket whose owner is cancelled when it has accepted one connection."""

    def __init__(self, listening: socket.socket, scope: anyio.CancelScope) -> None:
        self._listening = listening
        self._scope = scope
        self.accepted: list[socket.socket] = []

    def fileno(self) -> int:
        return self._listening.fileno()

    def accept(self) -> tuple[socket.socket, object]:
        accepted, address = self._listening.accept()
        self.accepted.append(accepted)
        self._scope.cancel()
        return accepted, address


async def test_connections_that_are_gone_again_end_nothing() -> None:
    greeted = anyio.Event()

    async def handle(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            with suppress(anyio.BrokenResourceError):
                await stream.send(b"hello")
                greeted.set()

    with _serving.listen("127.0.0.1", 0) as listening:
        for _ in range(10):
            with socket.create_connection(listening.getsockname()) as client:
                # A reset instead of a farewell.
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_serving.accept_forever, listening, handle)
            async with await anyio.connect_tcp(*listening.getsockname()) as client_stream:
                assert await client_stream.receive() == b"hello"
            await greeted.wait()
            tasks.cancel_scope.cancel()
