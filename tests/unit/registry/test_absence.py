"""Memberships of nodes that deregister, for a while or for good."""

from __future__ import annotations

import pytest
from tests.support.local_registry import NOW, LocalRegistry
from tests.support.registry import World, key_text, snapshot_of

from pilotstack.daemon.identity import Identity
from pilotstack.errors import NotFound
from pilotstack.registry.client import error_of
from pilotstack.registry.model.state import State
from pilotstack.registry.storage import snapshot

pytestmark = pytest.mark.anyio


async def members(registry: LocalRegistry, network: int) -> list[tuple[int, bool]]:
    rows = (await registry.list_nodes(network))["nodes"]
    return [(row["node_id"], row.get("offline", False)) for row in rows]


@pytest.mark.parametrize("is_loaded", [False, True])
@pytest.mark.parametrize("keeps", [False, True])
async def test_memberships_survive_an_announced_absence_only(keeps: bool, is_loaded: bool) -> None:
    state = State()
    owner, other = (LocalRegistry(state, Identity.generate()) for _ in range(2))
    for node in (owner, other):
        await node.register("127.0.0.1:4000")
    network = (await owner.create_network("lab", join_rule="token", token="secret"))["network_id"]
    await other.join_network(network, token="secret")
    await owner.deregister(keep_memberships=keeps)
    with pytest.raises(NotFound):
        await other.lookup(owner.node_id)
    offline = [(owner.node_id, True)] if keeps else []
    assert await members(other, network) == [*offline, (other.node_id, False)]
    if is_loaded:
        owner.state = other.state = snapshot.load(snapshot_of(state), NOW)
    await owner.register("127.0.0.1:4000")
    here = [(owner.node_id, False)] if keeps else []
    assert sorted(await members(other, network)) == [*here, (other.node_id, False)]
    role = (await other.get_member_role(network, other.node_id))["role"]
    assert role == "member"
    if keeps:
        await owner.rename_network(network, "lab2")


async def test_a_heartbeat_for_the_id_of_another_key_is_refused_as_not_found() -> None:
    """As after a registry came back from an old backup."""
    world = World()
    world.join("first")
    reply = world.ask("second", "heartbeat", node_id=1, public_key=key_text("second"))
    assert reply["error"] == "node 1: node not found: the id belongs to another key"
    assert isinstance(error_of(reply["error"]), NotFound)
    right = world.about("first", "heartbeat", public_key=key_text("first"))
    assert "error" not in right
