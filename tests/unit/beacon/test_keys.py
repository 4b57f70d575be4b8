"""A beacon whose nodes' keys are checked with a registry."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from pilotstack.beacon import Beacon
from pilotstack.beacon.keys import KeyCheck
from pilotstack.daemon.identity import Identity
from pilotstack.errors import ConnectionFailed

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.anyio
NODE = 42


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class World:
    """A beacon, and a registry that knows what the test says."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self.beacon = stack.enter_context(Beacon("127.0.0.1:0"))
        self.keys: dict[int, bytes] | None = {}
        self.asked: list[int] = []
        self.check = KeyCheck(self.beacon, self._key_of)

    async def _key_of(self, node: int) -> bytes | None:
        self.asked.append(node)
        if self.keys is None:
            raise ConnectionFailed("no registry answers")
        return self.keys.get(node)

    def node(self, identity: Identity) -> None:
        """A socket that announces the node with a signature."""
        host, _, port = self.beacon.address.rpartition(":")
        own = self._stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        own.settimeout(20)
        own.connect((host, int(port)))
        announcement = b"\x01" + NODE.to_bytes(4) + identity.public_key
        own.send(announcement)
        cookie = own.recv(64)[-12:]
        signed = b"beacon" + NODE.to_bytes(4) + cookie.removeprefix(b"PILV")
        own.send(announcement + cookie + identity.sign(signed))
        own.recv(64)

    @property
    def nodes(self) -> int:
        """Nodes that have a place."""
        return self.beacon.report()["nodes"]

    @property
    def refused(self) -> int:
        """Announcements, and nodes, that were refused for their key."""
        return self.beacon.report()["dropped_key"]


@pytest.fixture
def world() -> Iterator[World]:
    with ExitStack() as stack:
        yield World(stack)


async def test_the_owner_of_a_node_gets_its_place_from_whoever_came_first(world: World) -> None:
    owner, thief = Identity.generate(), Identity.generate()
    world.keys = {NODE: owner.public_key}
    world.node(thief)
    assert (world.refused, world.nodes) == (0, 1)
    world.node(owner)
    early = world.refused
    assert early > 0
    await world.check.turn()
    assert world.asked == [NODE]
    assert (world.refused, world.nodes) == (early + 1, 0)
    world.node(owner)
    assert (world.refused, world.nodes) == (early + 1, 1)
    world.node(thief)
    assert world.refused > early + 1
    await world.check.turn()
    assert world.asked == [NODE]


async def test_without_an_answer_nothing_changes_and_the_question_is_asked_again(
    world: World,
) -> None:
    owner = Identity.generate()
    world.keys = None
    for count in (1, 2):
        world.node(owner)
        await world.check.turn()
        assert len(world.asked) == count
    assert world.nodes == 1
    world.keys = {}
    for _ in range(2):
        world.node(owner)
        await world.check.turn()
    assert len(world.asked) == 3
    assert world.nodes == 1
