"""Joined streams, without a daemon."""

from __future__ import annotations

import os
import socket
from contextlib import ExitStack
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel
import pytest

from pilotstack.errors import Throttled
from pilotstack.services import relaying
from pilotstack.services.local import LocalStream
from pilotstack.services.relaying import Relays

if TYPE_CHECKING:
    from anyio.abc import ByteStream

pytestmark = pytest.mark.anyio


def pair() -> tuple[LocalStream, LocalStream]:
    left, right = socket.socketpair()
    return LocalStream(left), LocalStream(right)


async def read_all(stream: ByteStream) -> bytes:
    data = b""
    try:
        while True:
            data += await stream.receive()
    except anyio.EndOfStream:
        return data


@pytest.mark.parametrize("has_splice", [True, False])
async def test_all_bytes_arrive_whether_or_not_the_kernel_moves_them(
    has_splice: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not has_splice:
        monkeypatch.delattr(os, "splice")
    (near, left), (right, far) = pair(), pair()
    data = bytes(range(256)) * 20_000
    got: dict[str, bytes] = {}

    async def talk(name: str, stream: LocalStream) -> None:
        async with anyio.create_task_group() as both:

            async def listen() -> None:
                got[name] = await read_all(stream)

            both.start_soon(listen)
            await stream.send(data)
            await stream.send_eof()

    async with Relays(1) as relays, anyio.create_task_group() as tasks:
        with relays.admitted("far") as flow:
            tasks.start_soon(relays.join, flow, left, right)
            async with anyio.create_task_group() as ends:
                ends.start_soon(talk, "near", near)
                ends.start_soon(talk, "far", far)
    assert got == {"near": data, "far": data}
    assert (flow.sent, flow.received, flow.reason) == (len(data), len(data), None)
    for stream in (near, left, right, far):
        await stream.aclose()


async def test_without_a_descriptor_for_a_pipe_bytes_are_copied(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(pipes: relaying.Pipes) -> tuple[int, int]:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(relaying.Pipes, "take", refuse)
    (near, left), (right, far) = pair(), pair()
    async with Relays(1) as relays, anyio.create_task_group() as tasks:
        with relays.admitted("far") as flow:
            tasks.start_soon(relays.join, flow, left, right)
            await near.send(b"hello")
            await near.send_eof()
            await far.send_eof()
            assert await read_all(far) == b"hello"
    for stream in (near, left, right, far):
        await stream.aclose()


async def test_one_that_is_stopped_says_so() -> None:
    (near, left), (right, far) = pair(), pair()
    async with Relays(1) as relays, anyio.create_task_group() as tasks:
        with relays.admitted("far") as flow:
            async with anyio.create_task_group() as ends:
                ends.start_soon(relays.join, flow, left, right)
                await near.send(b"x")
                assert await far.receive() == b"x"
                ends.cancel_scope.cancel()
        tasks.cancel_scope.cancel()
    assert flow.reason == "stopped"
    for stream in (near, left, right, far):
        await stream.aclose()


async def test_who_is_cancelled_has_received_nothing() -> None:
    near, far = pair()
    await near.send(b"hello")
    with anyio.CancelScope() as scope:
        scope.cancel()
        await far.receive()
    assert scope.cancelled_caught
    received = []
    async with anyio.create_task_group() as tasks:

        async def receive() -> None:
            received.append(await far.receive())

        tasks.start_soon(receive)
        await anyio.lowlevel.checkpoint()
        tasks.cancel_scope.cancel()
    if not received:
        received.append(await far.receive())
    assert received == [b"hello"]
    for stream in (near, far):
        await stream.aclose()


async def test_connections_are_counted_in_all_and_by_target() -> None:
    async with Relays(8) as relays:
        with relays.admitted("a"), relays.admitted("a"):
            with pytest.raises(Throttled), relays.admitted("a"):
                pass
            others = ("b", "b", "c", "c", "d", "d")
            with ExitStack() as stack:
                for target in others:
                    stack.enter_context(relays.admitted(target))
                assert len(relays) == 8
                with pytest.raises(Throttled), relays.admitted("e"):
                    pass
        assert len(relays) == 0
        with relays.admitted("a"):
            pass
    assert relays.refused == {"target_limit": 1, "limit": 1}
