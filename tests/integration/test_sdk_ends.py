"""Ends of streams and loss of the daemon, in both SDKs over real daemons."""

from __future__ import annotations

import os
import signal
import socket
import threading
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import anyio
import pytest

import pilotstack
from pilotstack import Driver, StreamBroken, sync
from pilotstack.errors import NotRunning, TimedOut

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pilotstack.testing import Network

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def stop(daemon: int) -> None:
    """Returns when the process does nothing any more."""
    os.kill(daemon, signal.SIGSTOP)
    os.waitid(os.P_PID, daemon, os.WSTOPPED | os.WNOWAIT)


def read_all(stream: socket.socket) -> bytes:
    return b"".join(iter(lambda: stream.recv(65_536), b""))


async def test_a_dead_daemon_breaks_streams(network: Network) -> None:
    a = network.start("agent-a")
    network.start("agent-b")
    async with (
        Driver(a.socket) as driver,
        driver.dial("agent-b:7") as whole,
        driver.dial("agent-b:7") as handed,
        Driver(a.socket, framed=True) as framed,
        framed.dial("agent-b:7") as old,
    ):
        plain = handed.socket()
        with (
            plain,
            sync.Driver(a.socket) as blocking,
            blocking.dial("agent-b:7") as theirs,
            sync.dial("agent-b:7", socket_path=a.socket) as one_line,
        ):
            for stream in (whole, old):
                await stream.send(b"x")
                assert await stream.receive() == b"x"
            a.process.kill()
            for stream in (whole, old):
                for _ in range(2):
                    with pytest.raises(StreamBroken, match="daemon_gone"):
                        await stream.receive()
            for sockets in (plain, theirs, one_line):
                with pytest.raises(ConnectionResetError):
                    read_all(sockets)
            with pytest.raises(NotRunning):
                await driver.info()
            with pytest.raises(NotRunning):
                blocking.info()


async def test_a_reset_is_told_to_every_kind_of_reader(shared_network: Network) -> None:
    a, b = (shared_network.nodes[name].socket for name in ("agent-a", "agent-b"))
    async with Driver(a) as driver, Driver(b) as server, server.listen() as listener:
        target = f"agent-b:{listener.port}"

        async def reset() -> None:
            async with await listener.accept() as accepted:
                await accepted.send(b"half")
                await accepted.receive()
                await server.abort(accepted)

        async def judge(drain: Callable[[], bytes]) -> None:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(reset)
                with pytest.raises(ConnectionResetError):
                    await anyio.to_thread.run_sync(drain)

        def drain_sync() -> bytes:
            with sync.dial(target, socket_path=a) as stream:
                stream.sendall(b"x")
                return read_all(stream)

        plain = (await driver.dial(target)).socket()

        def drain_plain() -> bytes:
            with plain:
                plain.sendall(b"x")
                return read_all(plain)

        await judge(drain_plain)
        await judge(drain_sync)


async def test_an_orderly_stop_is_no_end_of_what_a_program_still_writes(network: Network) -> None:
    a, b = network.start("agent-a"), network.start("agent-b")
    async with (
        Driver(a.socket) as driver,
        Driver(b.socket) as server,
        server.listen() as listener,
        driver.dial(f"agent-b:{listener.port}") as cut,
        await listener.accept() as unfinished,
        driver.dial(f"agent-b:{listener.port}") as whole,
        await listener.accept() as finished,
    ):
        await unfinished.send(b"half")
        assert await cut.receive() == b"half"
        await finished.send(b"everything")
        await finished.send_eof()
        await anyio.to_thread.run_sync(b.process.stop)
        assert await whole.receive() == b"everything"
        with pytest.raises(anyio.EndOfStream):
            await whole.receive()
        with pytest.raises(StreamBroken):
            await cut.receive()


async def test_fin_is_an_end_although_the_connection_broke_later(shared_network: Network) -> None:
    a, b = (shared_network.nodes[name].socket for name in ("agent-a", "agent-b"))
    async with (
        Driver(a) as driver,
        Driver(b) as server,
        server.listen() as listener,
        driver.dial(f"agent-b:{listener.port}") as stream,
        AsyncExitStack() as stack,
    ):
        accepted = await stack.enter_async_context(await listener.accept())
        await accepted.send(b"all")
        await accepted.send_eof()
        assert await stream.receive() == b"all"
        # Wait for FIN, then break what is left.
        await anyio.wait_readable(stream.extra(anyio.abc.SocketAttribute.raw_socket))
        await server.abort(accepted)
        with anyio.fail_after(20):
            while any(row.id == stream.connection_id for row in await driver.connections()):
                await anyio.lowlevel.checkpoint()
        with pytest.raises(anyio.EndOfStream):
            await stream.receive()


async def test_a_hanging_daemon_times_out(network: Network) -> None:
    a = network.start("agent-a")
    stop(a.pid)
    try:
        with pytest.raises(TimedOut):
            async with Driver(a.socket, timeout=0.1):
                pass
        with pytest.raises(TimedOut):
            await anyio.to_thread.run_sync(lambda: sync.Driver(a.socket, timeout=0.1))
    finally:
        os.kill(a.pid, signal.SIGCONT)
    async with Driver(a.socket) as driver, Driver(a.socket) as other:
        blocking = await anyio.to_thread.run_sync(lambda: sync.Driver(a.socket))
        stop(a.pid)
        try:
            with pytest.raises(TimedOut):
                await driver.dial("agent-a:7", timeout=0.1)
            with blocking, pytest.raises(TimedOut):
                blocking.dial("agent-a:7", timeout=0.1)
        finally:
            os.kill(a.pid, signal.SIGCONT)
        for each in (driver, other):
            assert (await each.info()).node_id == a.node_id
            async with each.dial("agent-a:7") as stream:
                await stream.send(b"x")
                assert await stream.receive() == b"x"


async def test_a_driver_reconnects_and_binds_again_when_asked(
    network: Network, tmp_path: Path
) -> None:
    a = network.start("agent-a")
    b = network.start("agent-b")
    told: list[str] = []
    back = anyio.Event()

    async def on_reconnect() -> None:
        told.append("back")
        back.set()

    def on_disconnect() -> None:
        told.append("gone")
        raise ValueError("hooks may fail")

    async with (
        Driver(
            b.socket, reconnect=True, on_disconnect=on_disconnect, on_reconnect=on_reconnect
        ) as server,
        server.listen() as listener,
        server.datagram() as datagrams,
        Driver(a.socket) as client,
    ):
        forwarded = tmp_path / "f.sock"
        await server.forward(forwarded, "agent-a:7")
        async with (
            client.dial(f"agent-b:{listener.port}") as ours,
            await listener.accept() as theirs,
            anyio.create_task_group() as tasks,
        ):
            accepted: list[pilotstack.Stream] = []
            received: list[bytes] = []
            is_accepted, is_received = anyio.Event(), anyio.Event()

            async def accept() -> None:
                accepted.append(await listener.accept())
                is_accepted.set()

            async def receive() -> None:
                received.append((await datagrams.receive()).data)
                is_received.set()

            # Those who wait now go on waiting over the restart.
            tasks.start_soon(accept)
            tasks.start_soon(receive)
            await anyio.wait_all_tasks_blocked()
            b.process.kill()
            with pytest.raises(StreamBroken):
                await theirs.receive()
            await anyio.to_thread.run_sync(network.start, "agent-b")
            with anyio.fail_after(20):
                await back.wait()
            assert told == ["gone", "back"]
            assert (await server.info()).node_id == b.node_id
            async with client.dial(f"agent-b:{listener.port}") as again:
                with anyio.fail_after(20):
                    await is_accepted.wait()
                await again.send(b"hello")
                assert await accepted[0].receive() == b"hello"
                await accepted[0].aclose()
            with anyio.fail_after(20):
                while not received:
                    await send_one(client, datagrams.port, is_received)
            with socket.socket(socket.AF_UNIX) as plain:
                plain.connect(str(forwarded))
                plain.sendall(b"echo")
                assert await anyio.to_thread.run_sync(plain.recv, 10) == b"echo"
            await ours.aclose()


async def send_one(client: Driver, port: int, is_received: anyio.Event) -> None:
    """Sends what may be lost, and waits a while for its arrival."""
    async with client.datagram() as socket:
        await socket.send_to(b"datagram", ("agent-b", port))
    with anyio.move_on_after(0.2):
        await is_received.wait()


async def test_without_reconnect_the_end_is_told(network: Network) -> None:
    a = network.start("agent-a")
    async with Driver(a.socket) as driver, driver.listen() as listener:
        a.process.kill()
        with pytest.raises(NotRunning):
            await listener.accept()
        with pytest.raises(NotRunning):
            await driver.info()
        with pytest.raises(NotRunning):
            await listener.serve(lambda stream: stream.aclose())


async def test_an_error_of_ones_own_is_not_wrapped(shared_network: Network) -> None:
    with pytest.raises(KeyError):
        async with Driver(shared_network.nodes["agent-a"].socket, reconnect=True):
            raise KeyError


def test_a_blocking_driver_reconnects_and_binds_again_when_asked(
    network: Network, tmp_path: Path
) -> None:
    a = network.start("agent-a")
    b = network.start("agent-b")
    told: list[str] = []
    are_back = threading.Event()

    def on_reconnect() -> None:
        told.append("back")
        if told.count("back") == 2:
            are_back.set()

    with (
        sync.Driver(
            b.socket,
            reconnect=True,
            on_disconnect=lambda: told.append("gone"),
            on_reconnect=on_reconnect,
        ) as server,
        server.listen() as listener,
        sync.Driver(a.socket) as client,
    ):
        forwarded = tmp_path / "f.sock"
        server.forward(forwarded, "agent-a:7")
        accepted: list[bytes] = []

        def serve() -> None:
            with listener.accept(timeout=60) as stream:
                accepted.append(read_all(stream))

        thread = threading.Thread(target=serve)
        thread.start()
        b.process.kill()
        network.start("agent-b")
        assert server.info().node_id == b.node_id
        # The listener's thread binds again by itself.
        assert are_back.wait(30)
        with client.dial(f"agent-b:{listener.port}") as stream:
            stream.sendall(b"hello")
            stream.shutdown(socket.SHUT_WR)
            thread.join()
        assert accepted == [b"hello"]
        assert sorted(told) == ["back", "back", "gone", "gone"]
        with socket.socket(socket.AF_UNIX) as plain:
            plain.connect(str(forwarded))
            plain.sendall(b"echo")
            assert plain.recv(10) == b"echo"
