"""Crashes and outages: failures are reported, and unaffected parts keep working."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import closing
from typing import TYPE_CHECKING

import anyio
import pytest
from tests.support.registries import host_port

from pilotstack import Driver, Stream, StreamBroken
from pilotstack.daemon.identity import Identity
from pilotstack.errors import AlreadyExists, ConnectionFailed, NotFound, NotRunning, PilotError
from pilotstack.registry.client import RegistryClient
from pilotstack.registry.server.server import RegistryServer
from pilotstack.registry.storage.journal import FileStore
from pilotstack.registry.storage.store import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pilotstack.registry.model.rows import Change
    from pilotstack.testing import Network

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def registry_of(network: Network) -> RegistryClient:
    return RegistryClient([host_port(network.registry)], Identity.generate())


async def read_to_end(stream: Stream) -> None:
    while True:
        await stream.receive()


async def test_a_killed_peer_breaks_both_ends_and_is_reachable_after_its_restart(
    network: Network,
) -> None:
    a, b = network.start("agent-a"), network.start("agent-b")
    async with Driver(a.socket) as client:
        async with Driver(b.socket) as server:
            listener = await server.listen(1000)
            writing = await client.dial("agent-b:1000")
            reading = await client.dial("agent-b:1000")
            accepted = [await listener.accept(), await listener.accept()]
            await writing.send(b"x" * 1000)
            b.process.kill()
            for stream in accepted:
                with pytest.raises(StreamBroken) as broken:
                    await read_to_end(stream)
                assert broken.value.reason == "daemon_gone"
                await stream.aclose()
        again = network.start("agent-b")
        assert again.node_id == b.node_id
        async with Driver(again.socket) as server, await server.listen(1000) as listener:
            with anyio.fail_after(10):
                async with await client.dial("agent-b:1000") as stream:
                    await stream.send(b"hello")
                    async with await listener.accept() as other:
                        assert await other.receive() == b"hello"
        # The new process was heard, so the old streams are known to be lost.
        with pytest.raises(StreamBroken) as broken:
            await reading.receive()
        assert broken.value.reason == "peer_restarted"
        with pytest.raises(StreamBroken):
            await writing.send(b"x" * 10_000_000)
        await reading.aclose()
        await writing.aclose()


async def test_an_orderly_end_finishes_streams_and_leaves_nothing(network: Network) -> None:
    a, b = network.start("agent-a"), network.start("agent-b")
    async with Driver(a.socket) as client, await client.dial("agent-b:7") as stream:
        await stream.send(b"echo")
        assert await stream.receive() == b"echo"
        assert b.process.stop() == 0
        with pytest.raises(anyio.EndOfStream):
            await stream.receive()
    registry = registry_of(network)
    with pytest.raises(NotFound):
        await registry.lookup(b.node_id)
    await registry.aclose()
    assert not b.socket.exists()
    with pytest.raises(NotRunning) as error:
        await Driver(b.socket).__aenter__()
    assert error.value.hint


async def test_without_a_registry_tunnels_live_and_lookups_fail(network: Network) -> None:
    a, _ = network.start("agent-a"), network.start("agent-b")
    async with Driver(a.socket) as client:
        address = (await client.resolve("agent-b")).address
        async with await client.dial((address, 7)) as stream:
            network.rendezvous.kill()
            await stream.send(b"still here")
            assert await stream.receive() == b"still here"
            async with await client.dial((address, 7)) as second:
                await second.send(b"and again")
                assert await second.receive() == b"and again"
            with pytest.raises(ConnectionFailed) as error:
                await client.resolve("agent-c")
            assert (error.value.code, bool(error.value.hint)) == ("connection_failed", True)
            network.start_rendezvous()
            assert (await client.resolve("agent-a")).node_id == a.node_id


async def test_a_second_daemon_is_refused_and_a_stale_socket_taken_over(network: Network) -> None:
    a = network.start("agent-a")
    assert stat.S_IMODE(a.socket.stat().st_mode) == 0o600
    with pytest.raises(ConnectionFailed, match="already serves"):
        network.start("agent-x", "--socket", str(a.socket))
    async with Driver(a.socket) as client:
        assert (await client.info()).node_id == a.node_id
    a.process.kill()
    assert a.socket.exists()
    b = network.start("agent-x", "--socket", str(a.socket))
    async with Driver(a.socket) as client:
        assert (await client.info()).node_id == b.node_id


async def test_what_a_killed_registry_acknowledged_is_there_after_its_restart(
    network: Network,
) -> None:
    where = host_port(network.registry)
    acknowledged: dict[int, bytes] = {}
    enough = anyio.Event()

    async def register_many(worker: int) -> None:
        for number in range(100):
            identity = Identity.generate()
            client = RegistryClient([where], identity)
            try:
                name = f"node-{worker}-{number}"
                registration = await client.register("127.0.0.1:4000", hostname=name)
            except PilotError:
                return
            finally:
                await client.aclose()
            acknowledged[registration.node_id] = identity.public_key
            if len(acknowledged) >= 500:
                enough.set()

    async with anyio.create_task_group() as tasks:
        for worker in range(10):
            tasks.start_soon(register_many, worker)
        await enough.wait()
        network.rendezvous.kill()
    network.start_rendezvous()
    client = RegistryClient([where], Identity.generate())
    for node_id, key in acknowledged.items():
        assert (await client.record(node_id)).public_key == key
    await client.aclose()


async def test_a_taken_name_is_refused(network: Network) -> None:
    a, b = network.start("agent-a"), network.start("agent-b")
    async with Driver(a.socket) as client, Driver(b.socket) as other:
        with pytest.raises(AlreadyExists):
            await other.set_hostname("agent-a")
        await client.set_hostname("renamed")
        assert (await other.resolve("renamed")).node_id == a.node_id


class FullStore(MemoryStore):
    """A store on a disk that fills up."""

    is_full = False

    def append(self, changes: Sequence[Change]) -> None:
        if self.is_full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


async def test_a_full_disk_refuses_the_write_and_forgets_it() -> None:
    store = FullStore()
    async with RegistryServer("127.0.0.1", 0, store) as server:
        client = RegistryClient([server.address], Identity.generate())
        await client.register("127.0.0.1:4000", hostname="kept")
        store.is_full = True
        with pytest.raises(ConnectionFailed, match="cannot store"):
            await client.set_hostname("lost")
        with pytest.raises(PilotError, match="not found"):
            await client.resolve_hostname("lost")
        assert (await client.resolve_hostname("kept"))["node_id"] == 1
        store.is_full = False
        await client.set_hostname("later")
        await client.aclose()


async def test_a_cancelled_registry_leaves_its_store_whole_and_free(tmp_path: Path) -> None:
    path = tmp_path / "registry.json"
    with anyio.CancelScope() as scope:
        async with RegistryServer("127.0.0.1", 0, FileStore(path)) as server:
            client = RegistryClient([server.address], Identity.generate())
            await client.register("127.0.0.1:4000", hostname="kept")
            await client.aclose()
            scope.cancel()
            await anyio.sleep_forever()
    assert "kept" in path.read_text()
    with closing(FileStore(path)) as store:
        assert store.load(0.0).by_hostname == {"kept": 1}
