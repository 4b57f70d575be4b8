"""Key rotation succeeds or fails as a whole; a crash leaves a working key."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from tests.support.local_registry import LocalRegistry

from pilotstack.daemon import identity as identities
from pilotstack.daemon.rotation import KeyFiles, Rotation
from pilotstack.errors import AlreadyExists, ConnectionFailed, InvalidArgument, PilotError
from pilotstack.registry.model.state import State

if TYPE_CHECKING:
    from pathlib import Path

    from pilotstack.daemon.identity import Identity
    from pilotstack.registry.protocol.framing import Message

pytestmark = pytest.mark.anyio
ENDPOINT = "127.0.0.1:4000"


class Node:
    """A daemon's key files and its registry, without the daemon."""

    def __init__(self, path: Path, state: State) -> None:
        self.path = path
        self.next = path.with_name(path.name + ".next")
        self.files = KeyFiles(path)
        self.identity = identities.load_or_create(path)
        self.registry = LocalRegistry(state, self.identity)
        self.rotation = Rotation(self.files, self.registry)

    async def registered_key(self) -> bytes:
        found = await self.registry.lookup(self.registry.node_id)
        return base64.b64decode(found["public_key"])

    async def check(self, identity: Identity) -> None:
        """Everybody agrees that this is the key, and it works."""
        assert identities.load(self.path) == identity
        assert not self.next.exists()
        assert await self.registered_key() == identity.public_key
        assert self.registry.signer == identity
        await self.registry.heartbeat()


@pytest.fixture
async def node(tmp_path: Path) -> Node:
    node = Node(tmp_path / "identity.json", State())
    await node.registry.register(ENDPOINT)
    return node


async def test_the_key_is_replaced_in_the_registry_and_the_file(node: Node) -> None:
    new, reply = await node.rotation.rotate()
    assert new != node.identity
    assert reply["node_id"] == node.registry.node_id
    await node.check(new)
    assert node.path.stat().st_mode & 0o777 == 0o600


async def test_a_lost_reply_is_not_a_lost_key(node: Node) -> None:
    node.registry.loses_reply = {"rotate_key"}
    new, reply = await node.rotation.rotate()
    assert base64.b64decode(reply["public_key"]) == new.public_key
    await node.check(new)


async def test_a_lost_request_leaves_the_old_key(node: Node) -> None:
    node.registry.loses_request = {"rotate_key"}
    with pytest.raises(ConnectionFailed):
        await node.rotation.rotate()
    await node.check(node.identity)


async def test_a_refusal_leaves_the_old_key(node: Node) -> None:
    other = LocalRegistry(node.registry.state, KeyFiles(node.path).prepare(node.registry.node_id))
    await other.register(ENDPOINT)
    with pytest.raises(AlreadyExists):
        await node.rotation.rotate()
    await node.check(node.identity)


@pytest.mark.parametrize("has_happened", [False, True])
async def test_an_unknown_outcome_keeps_both_keys_until_it_is_known(
    node: Node, has_happened: bool
) -> None:
    lost = {"rotate_key", "lookup"}
    if has_happened:
        node.registry.loses_reply = lost
    else:
        node.registry.loses_request = lost
    with pytest.raises(ConnectionFailed, match="not known") as caught:
        await node.rotation.rotate()
    assert "both keys" in (caught.value.hint or "")
    pending = node.files.pending()
    assert pending is not None
    assert identities.load(node.path) == node.identity
    node.registry.loses_reply = node.registry.loses_request = set()
    # The next attempt goes on with the same key, whatever happened to the first.
    new, _ = await node.rotation.rotate()
    assert new == pending.identity
    await node.check(new)


@pytest.mark.parametrize("is_offline", [False, True])
@pytest.mark.parametrize("has_happened", [False, True])
async def test_the_next_start_finds_out_what_a_crash_left(
    node: Node, has_happened: bool, is_offline: bool
) -> None:
    node_id = node.registry.node_id
    new = node.files.prepare(node_id)
    if has_happened:
        await node.registry.rotate_key(new)
    if is_offline:
        node.registry.signer = new if has_happened else node.identity
        await node.registry.deregister()
    again = Node(node.path, node.registry.state)
    assert again.identity == node.identity
    settled = await again.rotation.settle(again.identity, ENDPOINT)
    assert settled == (new if has_happened else node.identity)
    registration = await again.registry.register(ENDPOINT)
    assert registration.node_id == node_id
    await again.check(settled)


async def test_nothing_is_decided_while_the_registry_cannot_be_asked(node: Node) -> None:
    node.files.prepare(node.registry.node_id)
    node.registry.loses_request = {"lookup"}
    with pytest.raises(ConnectionFailed):
        await node.rotation.settle(node.identity, ENDPOINT)
    assert node.next.exists()


async def test_a_start_without_a_rotation_asks_nothing(node: Node) -> None:
    node.registry.asked.clear()
    assert await node.rotation.settle(node.identity, ENDPOINT) is node.identity
    assert node.registry.asked == []


@pytest.mark.parametrize("content", [b"", b"{}", b'{"private_key": 7}', b"[]", b"\xff"])
async def test_a_damaged_file_of_the_next_key_is_left_alone(node: Node, content: bytes) -> None:
    node.next.write_bytes(content)
    with pytest.raises(InvalidArgument):
        await node.rotation.rotate()
    assert node.next.read_bytes() == content
    assert await node.registered_key() == node.identity.public_key


async def test_an_identity_without_a_file_rotates_too() -> None:
    identity = identities.Identity.generate()
    registry = LocalRegistry(State(), identity)
    await registry.register(ENDPOINT)
    new, _ = await Rotation(KeyFiles(None), registry).rotate()
    assert registry.signer == new != identity
    await registry.heartbeat()


class FirstGeneration(LocalRegistry):
    """Knows the signature that does not cover the new key only, and never says why not."""

    async def request(self, message: Message, *, wait: float = 0.0) -> Message:
        if message["type"] != "rotate_key":
            return await super().request(message, wait=wait)
        self.asked.append(message)
        node = self.state.nodes[message["node_id"]]
        key = Ed25519PublicKey.from_public_bytes(node.public_key)
        try:
            key.verify(base64.b64decode(message["signature"]), b"rotate:%d" % node.node_id)
        except Exception as error:
            raise ConnectionFailed("registry: request failed") from error
        return {"type": "rotate_key_ok", "node_id": node.node_id}


async def test_a_registry_of_the_first_generation_is_asked_in_its_way() -> None:
    registry = FirstGeneration(State(), identities.Identity.generate())
    await registry.register(ENDPOINT)
    reply = await registry.rotate_key(identities.Identity.generate())
    assert reply["type"] == "rotate_key_ok"
    assert [message["type"] for message in registry.asked].count("rotate_key") == 2


async def test_a_refusal_with_a_reason_is_not_retried(node: Node) -> None:
    other = LocalRegistry(node.registry.state, identities.Identity.generate())
    await other.register(ENDPOINT)
    assert other.signer is not None
    with pytest.raises(PilotError, match="already registered"):
        await node.registry.rotate_key(other.signer)
    assert [message["type"] for message in node.registry.asked].count("rotate_key") == 1
