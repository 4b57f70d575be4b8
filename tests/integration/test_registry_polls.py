"""Long polls between processes, and the beacon's notification."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import anyio
import pytest
from tests.support.registries import host_port, signed

from pilotstack.daemon.identity import Identity
from pilotstack.registry.client import RegistryClient, parse_addresses

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from pilotstack.registry.protocol.framing import Message
    from pilotstack.testing import Network

pytestmark = pytest.mark.anyio

NOTIFY_HANDSHAKES = bytes([0x0A, 1])


class Node:
    """A registered identity that asks by itself."""

    def __init__(self, network: Network) -> None:
        self.identity = Identity.generate()
        self.client = RegistryClient(parse_addresses(network.registry), self.identity)
        self.node_id = 0

    async def register(self) -> Node:
        self.node_id = (await self.client.register("127.0.0.1:4000")).node_id
        return self

    async def poll(self, wait: int) -> Message:
        request = signed(
            self.identity,
            f"poll_handshakes:{self.node_id}",
            type="poll_handshakes",
            node_id=self.node_id,
            wait=wait,
        )
        return await self.client.request(request, wait=wait)

    async def request_handshake(self, other: Node) -> Message:
        request = signed(
            self.identity,
            f"handshake:{self.node_id}:{other.node_id}",
            type="request_handshake",
            from_node_id=self.node_id,
            to_node_id=other.node_id,
            justification="hello",
        )
        return await self.client.request(request)

    async def respond(self, other: Node, *, accept: bool) -> Message:
        request = signed(
            self.identity,
            f"respond:{self.node_id}:{other.node_id}",
            type="respond_handshake",
            node_id=self.node_id,
            peer_id=other.node_id,
            accept=accept,
        )
        return await self.client.request(request)


@pytest.fixture
async def pair(network: Network) -> AsyncIterator[tuple[Node, Node]]:
    nodes = (await Node(network).register(), await Node(network).register())
    yield nodes
    for node in nodes:
        await node.client.aclose()


async def test_a_request_and_its_answer_reach_whoever_waits(pair: tuple[Node, Node]) -> None:
    asker, asked = pair
    with anyio.fail_after(40):
        async with anyio.create_task_group() as tasks:
            heard: list[Message] = []

            async def wait() -> None:
                heard.append(await asked.poll(50))

            tasks.start_soon(wait)
            await asker.request_handshake(asked)
        assert [row["from_node_id"] for row in heard[0]["requests"]] == [asker.node_id]
        assert heard[0]["waited"] is True
        async with anyio.create_task_group() as tasks:
            answered: list[Message] = []

            async def wait_for_answer() -> None:
                answered.append(await asker.poll(50))

            tasks.start_soon(wait_for_answer)
            await asked.respond(asker, accept=True)
        assert answered[0]["responses"][0]["accept"] is True


async def test_the_beacon_notifies_a_node_that_does_not_wait(
    network: Network, pair: tuple[Node, Node]
) -> None:
    asker, asked = pair
    beacon = host_port(network.rendezvous.ready["beacon"])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as tunnel:
        tunnel.bind(("127.0.0.1", 0))
        tunnel.settimeout(30)
        # Announced twice: the reply to the second tells that the first is known.
        for _ in range(2):
            tunnel.sendto(b"\x01" + asked.node_id.to_bytes(4), beacon)
            assert tunnel.recv(64)[0] == 0x02
        await asker.request_handshake(asked)
        data, sender = await anyio.to_thread.run_sync(tunnel.recvfrom, 64)
        assert (data, sender) == (NOTIFY_HANDSHAKES, beacon)
