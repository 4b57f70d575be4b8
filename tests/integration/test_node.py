"""Nodes inside of a program, on every event loop and without one."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread
import pytest
from tests.support.descriptors import descriptors, wait_for_descriptors

import pilotstack
from pilotstack import Node, sync
from pilotstack.errors import (
    AlreadyExists,
    ConnectionFailed,
    ConnectionRefused,
    ForkedDriver,
    InvalidArgument,
    NotRunning,
)
from pilotstack.testing import network

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from pilotstack import Stream
    from pilotstack.testing import LocalNetwork

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]


@pytest.fixture
async def net() -> AsyncIterator[LocalNetwork]:
    async with network() as net:
        yield net


async def shout(stream: Stream) -> None:
    async with stream:
        async for chunk in stream:
            await stream.send(chunk.upper())


def threads() -> set[str]:
    return {each.name for each in threading.enumerate() if each.name.startswith("pilot")}


async def test_nodes_dial_listen_and_send_datagrams(net: LocalNetwork) -> None:
    async with net.node("agent-a") as a, net.node("agent-b") as b, b.listen(80) as listener:
        assert a.ready.hostname == "agent-a"
        assert (await a.info()).node_id == a.ready.node_id
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listener.serve, shout)
            async with a.dial("agent-b:80") as stream:
                await stream.send(b"hello")
                assert await stream.receive() == b"hello".upper()
                assert str(stream.remote_address.address) == b.ready.address
            tasks.cancel_scope.cancel()
        async with a.datagram() as sender, b.datagram(5) as receiver:
            await sender.send_to(b"a datagram", "agent-b:5")
            assert (await receiver.receive()).data == b"a datagram"
        with pytest.raises(ConnectionRefused):
            await a.dial("agent-b:81")


async def test_private_nodes_come_to_trust_each_other(net: LocalNetwork) -> None:
    async with net.node("agent-a", public=False) as a, net.node("agent-b", public=False) as b:
        # Names of private nodes are told to those that they trust only.
        await a.handshake(b.ready.node_id, "an introduction")
        while not (pending := await b.pending()):
            await anyio.lowlevel.checkpoint()
        assert pending[0].node_id == a.ready.node_id
        await b.approve(a.ready.node_id)
        await a.wait_for_trust(b.ready.node_id)
        async with b.listen(80) as listener, anyio.create_task_group() as tasks:
            tasks.start_soon(listener.serve, shout)
            async with a.dial((str(b.ready.node_id), 80)) as stream:
                await stream.send(b"x")
                assert await stream.receive() == b"X"
            tasks.cancel_scope.cancel()


async def test_a_node_keeps_its_identity_and_its_address(net: LocalNetwork, tmp_path: Path) -> None:
    identity = tmp_path / "identity.json"
    addresses = []
    for _ in range(2):
        async with net.node("agent-a", identity=identity) as node:
            addresses.append(node.ready.address)
            with pytest.raises(AlreadyExists):
                await net.node("agent-b", identity=str(identity)).__aenter__()
    assert addresses[0] == addresses[1]


async def test_nothing_is_left_behind(net: LocalNetwork) -> None:
    async with net.node("agent-a"):
        pass
    before = descriptors()
    for number in range(3):
        async with net.node(f"agent-{number}") as node, node.listen(80):
            assert "pilot-node" in threads()
    assert threads() == {"pilot-rendezvous"}
    await anyio.to_thread.run_sync(wait_for_descriptors, before)


async def test_a_stream_breaks_at_the_end_of_its_node(net: LocalNetwork) -> None:
    async with net.node("agent-a") as a, net.node("agent-b", has_echo=True):
        stream = await a.dial("agent-b:7")
        await a.aclose()
        with pytest.raises(pilotstack.StreamBroken):
            await stream.receive()
        with pytest.raises(NotRunning):
            await a.info()
        await stream.aclose()


async def test_why_a_node_does_not_start(net: LocalNetwork, tmp_path: Path) -> None:
    broken = tmp_path / "identity.json"
    broken.write_text("no identity")
    with pytest.raises(InvalidArgument, match="holds no identity"):
        await net.node(identity=broken).__aenter__()
    with pytest.raises(InvalidArgument, match="not an IP address"):
        await net.node(listen="nowhere:0").__aenter__()
    with pytest.raises(TypeError):
        net.node(no_such_setting=True)  # type: ignore[call-arg]
    with pytest.raises(anyio.ClosedResourceError):
        _ = net.node().ready
    assert threads() == {"pilot-rendezvous"}


async def test_a_cancelled_start_leaves_no_thread() -> None:
    with anyio.move_on_after(0.05) as scope:
        # Nobody answers there, and a node tries for a while.
        async with Node(registry="127.0.0.1:1", beacon=""):
            pass
    assert scope.cancelled_caught
    assert threads() == set()


async def test_adapters_take_a_node(net: LocalNetwork) -> None:
    import httpx

    import pilotstack.httpx

    async def answer(stream: Stream) -> None:
        async with stream:
            await stream.receive()
            await stream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    async with (
        net.node("agent-a") as a,
        net.node("agent-b") as b,
        b.listen(80) as listener,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(listener.serve, answer)
        transport = pilotstack.httpx.AsyncTransport(a)
        async with httpx.AsyncClient(transport=transport) as web:
            assert (await web.get("http://agent-b/")).text == "ok"
        tasks.cancel_scope.cancel()


def test_nodes_without_an_event_loop() -> None:
    def handle(stream: sync.Stream) -> None:
        with stream:
            while chunk := stream.recv(1000):
                stream.sendall(chunk.upper())

    with network() as net, net.sync_node("agent-a") as a, net.sync_node("agent-b") as b:
        listener = b.listen(80)
        serving = threading.Thread(target=listener.serve, args=(handle,))
        serving.start()
        with a.dial("agent-b:80") as stream:
            stream.sendall(b"hello")
            assert stream.recv(100) == b"HELLO"
            assert stream.getpeername() == (b.ready.address, 80)
        listener.close()
        serving.join()
    assert threads() == set()


def test_why_a_blocking_node_does_not_start() -> None:
    with network() as net, pytest.raises(InvalidArgument):
        net.sync_node(listen="nowhere:0")
    assert threads() == set()


def test_a_registry_that_refuses_is_named() -> None:
    with pytest.raises(ConnectionFailed, match="the registry at"):
        sync.Node(registry="127.0.0.1:1", beacon="")


FORKING = """
import os, sys
from pilotstack.testing import network

with network() as net, net.sync_node("agent-a") as node:
    child = os.fork()
    if child == 0:
        # The interpreter shuts down as after any program.
        sys.exit(0)
    print(os.waitpid(child, 0)[1], node.info().hostname)
"""


def test_a_forked_child_can_end() -> None:
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKING],
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )
    assert (ended.stdout, ended.returncode) == ("0 agent-a\n", 0), ended.stderr


def in_child(node: sync.Node, results: multiprocessing.Queue[str]) -> None:
    for call in (node.info, lambda: node._engine.place.attach()):
        try:
            call()
        except ForkedDriver as error:
            results.put(type(error).__name__)
    with suppress(Exception):
        node.close()
    results.put("closed")


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_node_is_not_a_forked_childs() -> None:
    context = multiprocessing.get_context("fork")
    with network() as net, net.sync_node("agent-a") as node:
        results: multiprocessing.Queue[str] = context.Queue()
        child = context.Process(target=in_child, args=(node, results))
        child.start()
        told = [results.get(timeout=30) for _ in range(3)]
        child.join()
        assert told == ["ForkedDriver", "ForkedDriver", "closed"]
        assert child.exitcode == 0
        assert node.info().hostname == "agent-a"
