"""Servers outlive their handlers, in both SDKs."""

from __future__ import annotations

import logging
import socket
import threading
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from pilotstack import Driver, Stream, StreamBroken, sync

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pilotstack.testing import Network


@pytest.fixture
def blocking_a(shared_network: Network) -> Iterator[sync.Driver]:
    with sync.Driver(shared_network.nodes["agent-a"].socket) as driver:
        yield driver


@pytest.fixture
def blocking_b(shared_network: Network) -> Iterator[sync.Driver]:
    with sync.Driver(shared_network.nodes["agent-b"].socket) as driver:
        yield driver


async def shout(stream: Stream) -> None:
    """Fails when it reads ``fail``, in whatever way the peer asks for."""
    async with stream:
        async for chunk in stream:
            if chunk == b"fail":
                raise ValueError("a defect of the program")
            if chunk == b"group":
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(stream.receive)
            else:
                await stream.send(chunk.upper())


async def fail_open(stream: Stream) -> None:
    """Fails and leaves the stream open."""
    if await stream.receive() == b"fail":
        raise ValueError("a defect of the program")
    await stream.aclose()


@pytest.mark.anyio
@pytest.mark.parametrize("has_group", [False, True])
async def test_one_reset_or_defect_ends_no_other_stream(
    a: Driver, b: Driver, caplog: pytest.LogCaptureFixture, has_group: bool
) -> None:
    async with b.listen() as listener, anyio.create_task_group() as tasks:
        target = f"agent-b:{listener.port}"
        if has_group:
            tasks.start_soon(listener.serve, shout, tasks)
        else:
            tasks.start_soon(listener.serve, shout)
        async with a.dial(target) as good:
            for word in (b"reset", b"group", b"fail"):
                async with a.dial(target) as bad:
                    await bad.send(word)
                    if word == b"fail":
                        # The handler leaves its stream by `async with`, which finishes it.
                        with pytest.raises(anyio.EndOfStream):
                            await bad.receive()
                    else:
                        if word == b"reset":
                            await bad.receive()
                        await a.abort(bad)
                await good.send(b"still")
                assert await good.receive() == b"STILL"
            async with a.dial(target) as new:
                await new.send(b"new")
                assert await new.receive() == b"NEW"
        tasks.cancel_scope.cancel()
    shown = [record for record in caplog.records if record.levelno > logging.DEBUG]
    assert [type(record.exc_info[1]) for record in shown if record.exc_info] == [ValueError]
    assert len(shown) == 1


@pytest.mark.anyio
async def test_a_hook_gets_the_defects_of_handlers_and_the_peer_a_reset(
    a: Driver, b: Driver, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[tuple[Exception, Stream]] = []
    is_told = anyio.Event()

    async def on_error(error: Exception, stream: Stream) -> None:
        told.append((error, stream))
        if len(told) == 3:
            is_told.set()
        if len(told) > 1:
            raise KeyError("a defect of the hook")

    async with b.listen() as listener, anyio.create_task_group() as tasks:

        async def serve() -> None:
            await listener.serve(fail_open, on_error=on_error)

        tasks.start_soon(serve)
        for _ in range(3):
            async with a.dial(("agent-b", listener.port)) as stream:
                await stream.send(b"fail")
                with pytest.raises(StreamBroken):
                    await stream.receive()
        with anyio.fail_after(20):
            await is_told.wait()
        tasks.cancel_scope.cancel()
    assert [type(error) for error, _ in told] == [ValueError] * 3
    assert all(repr(stream).endswith("closed>") for _, stream in told)
    assert len([record for record in caplog.records if "hook" in record.getMessage()]) > 0


def test_a_blocking_server_outlives_its_handlers(
    blocking_a: sync.Driver, blocking_b: sync.Driver, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[type[Exception]] = []
    is_told = threading.Event()

    def handle(stream: sync.Stream) -> None:
        while chunk := stream.recv(100):
            if chunk == b"fail":
                raise ValueError("a defect of the program")
            stream.sendall(chunk.upper())
        stream.close()

    def on_error(error: Exception, stream: sync.Stream) -> None:
        told.append(type(error))
        is_told.set()

    with blocking_b.listen() as listener:
        target = ("agent-b", listener.port)
        options: dict[str, Any] = {"on_error": on_error, "max_threads": 2}
        server = threading.Thread(target=listener.serve, args=(handle,), kwargs=options)
        server.start()
        with blocking_a.dial(target) as good:
            for word in (b"reset", b"fail"):
                with blocking_a.dial(target) as bad:
                    bad.sendall(word)
                    if word == b"reset":
                        assert bad.recv(100) == b"RESET"
                        blocking_a.abort(bad)
                    else:
                        with pytest.raises(ConnectionResetError):
                            bad.recv(100)
                good.sendall(b"still")
                assert good.recv(100) == b"STILL"
    server.join()
    assert is_told.wait(20)
    assert told == [ValueError]
    assert not [record for record in caplog.records if record.levelno > logging.DEBUG]


def test_a_blocking_driver_serves_and_forwards_unix_paths(
    blocking_a: sync.Driver, blocking_b: sync.Driver, tmp_path: Path
) -> None:
    served, forwarded = tmp_path / "served.sock", tmp_path / "forwarded.sock"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(served))
        server.listen()
        with blocking_b.listen(path=served) as listener:
            blocking_a.forward(forwarded, ("agent-b", listener.port))
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(forwarded))
                client.sendall(b"through")
                accepted, _ = server.accept()
                with accepted:
                    assert accepted.recv(100) == b"through"


@pytest.mark.anyio
async def test_datagrams_take_every_kind_of_target(a: Driver, b: Driver) -> None:
    async with a.datagram() as ours, b.datagram() as theirs:
        address = (await b.info()).address
        for target in (
            *(f"agent-b:{theirs.port}", ("agent-b", theirs.port), (address, theirs.port)),
            f"{address}:{theirs.port}",
        ):
            # Any buffer is taken, although the signature promises bytes alone.
            await ours.send_to(bytearray(b"x"), target)  # type: ignore[arg-type]
            assert (await theirs.receive()).data == b"x"
