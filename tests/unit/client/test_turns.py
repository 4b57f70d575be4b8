"""Tasks that share one reader: who reads, who is woken, and that nobody is forgotten."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import anyio
import pytest

from pilotstack.client._turns import SharedReader, Waiter
from pilotstack.errors import NotRunning

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.anyio


class Reader(SharedReader):
    """Marks the waiter of each byte that arrives as done."""

    def __init__(self, end: socket.socket, count: int) -> None:
        super().__init__()
        self.end: socket.socket | None = end
        self.waiters = [Waiter() for _ in range(count)]

    def _open(self) -> socket.socket:
        if self.end is None:
            raise NotRunning("closed")
        return self.end

    def _pump(self, *, until_answered: bool = False) -> None:
        del until_answered
        try:
            data = self._open().recv(1000)
        except BlockingIOError:
            return
        for number in data:
            self.waiters[number].done()


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with ours, theirs:
        yield ours, theirs


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]])
async def test_every_task_gets_what_it_waits_for(
    ends: tuple[socket.socket, socket.socket], order: list[int]
) -> None:
    reader = Reader(ends[0], 4)
    async with anyio.create_task_group() as tasks:
        for waiter in reader.waiters:
            tasks.start_soon(reader.until, waiter)
        for number in order:
            await anyio.wait_all_tasks_blocked()
            ends[1].send(bytes((number,)))


async def test_all_at_once(ends: tuple[socket.socket, socket.socket]) -> None:
    reader = Reader(ends[0], 100)
    async with anyio.create_task_group() as tasks:
        for waiter in reader.waiters:
            tasks.start_soon(reader.until, waiter)
        await anyio.wait_all_tasks_blocked()
        ends[1].send(bytes(range(1, 100)))
        await anyio.wait_all_tasks_blocked()
        ends[1].send(b"\0")
    assert not reader._sleepers


async def test_when_the_reader_is_cancelled_another_task_reads(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    reader = Reader(ends[0], 3)
    scopes = [anyio.CancelScope() for _ in range(3)]

    async def wait(number: int) -> None:
        with scopes[number]:
            await reader.until(reader.waiters[number])

    async with anyio.create_task_group() as tasks:
        for number in range(3):
            tasks.start_soon(wait, number)
            await anyio.wait_all_tasks_blocked()
        # The one that reads, and the one that would read next.
        scopes[0].cancel()
        scopes[1].cancel()
        await anyio.wait_all_tasks_blocked()
        ends[1].send(b"\2")
    assert reader.waiters[2].is_done


async def test_a_task_aside_takes_what_the_reader_waits_for(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    reader = Reader(ends[0], 2)
    async with anyio.create_task_group() as tasks:
        for waiter in reader.waiters:
            tasks.start_soon(reader.until, waiter)
            await anyio.wait_all_tasks_blocked()
        ends[1].send(b"\0\1")
        reader._pump_aside()
    assert not reader._is_reading


async def test_when_the_socket_is_closed_every_task_is_told(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    reader = Reader(ends[0], 3)

    async def wait(waiter: Waiter) -> None:
        with pytest.raises(NotRunning):
            await reader.until(waiter)

    async with anyio.create_task_group() as tasks:
        for waiter in reader.waiters:
            tasks.start_soon(wait, waiter)
        await anyio.wait_all_tasks_blocked()
        reader.end = None
        anyio.notify_closing(ends[0])
        reader.wake_all()
