"""Who is told where a node is: its endpoint, its host candidates, and nothing of either for a node
that takes relayed frames only."""

from __future__ import annotations

from typing import Any

import pytest
from tests.support.local_registry import LocalRegistry
from tests.support.registry import World, identity

from pilotstack.registry.model.source import Source
from pilotstack.registry.protocol.requests.identity import MAX_LAN_ADDRESSES
from pilotstack.registry.rules.beacons import BEACON_TTL
from pilotstack.registry.rules.call import changed

LAN = ["192.168.1.5:4000", "[2001:db8::5]:4000"]


@pytest.fixture
def world() -> World:
    """Alice is public, bob is private, and carol is public and behind a beacon."""
    world = World()
    world.register("alice", lan_addrs=LAN)
    world.register("bob", lan_addrs=LAN)
    world.register("carol", lan_addrs=LAN, relay_only=True)
    for name in ("alice", "carol"):
        world.about(name, "set_visibility", public=True)
    return world


def lookup(world: World, asker: str, target: str) -> dict[str, Any]:
    return world.ask(asker, "lookup", requester_id=world.ids[asker], node_id=world.ids[target])


def announce(world: World, beacon: int, host: str) -> str:
    request = {"type": "beacon_register", "beacon_id": beacon, "addr": f"{host}:9001"}
    assert "error" not in world.run(request, Source(host, 9001)).reply
    return f"{host}:9001"


def test_host_candidates_of_a_public_node_are_told_to_those_who_prove_who_they_are(
    world: World,
) -> None:
    assert lookup(world, "bob", "alice")["lan_addrs"] == LAN
    assert world.resolve("bob", "alice")["lan_addrs"] == LAN
    anonymous = world.run({"type": "lookup", "node_id": world.ids["alice"]}).reply
    assert "lan_addrs" not in anonymous
    assert anonymous["real_addr"]


def test_those_of_a_private_node_are_told_to_whom_it_trusts(world: World) -> None:
    assert "lan_addrs" not in lookup(world, "alice", "bob")
    assert "error" in world.resolve("alice", "bob")
    world.trust("alice", "bob")
    world.trust("bob", "alice")
    assert world.resolve("alice", "bob")["lan_addrs"] == LAN


def test_a_node_behind_a_beacon_has_the_beacons_endpoint(world: World) -> None:
    def asked() -> list[dict[str, Any]]:
        return [lookup(world, "bob", "carol"), world.resolve("bob", "carol")]

    for reply in asked():
        assert (reply["real_addr"], reply["relay_only"]) == ("", True)
        assert not reply.get("lan_addrs")
    first = announce(world, 3, "198.51.100.60")
    announce(world, 9, "198.51.100.61")
    assert [reply["real_addr"] for reply in asked()] == [first, first]
    bob, carol = world.ids["bob"], world.ids["carol"]
    told = world.ask("bob", "punch", requester_id=bob, node_a=bob, node_b=carol)
    assert told["node_b_addr"] == first
    assert told["node_a_addr"] == world.state.nodes[bob].endpoint
    world.now += BEACON_TTL + 1
    assert world.resolve("bob", "carol")["real_addr"] == ""


def test_its_endpoint_is_in_no_list_of_members_and_no_kept_candidate_is_told(
    world: World,
) -> None:
    lab = world.ask("carol", "create_network", node_id=world.ids["carol"], name="lab")
    network = lab["network_id"]
    world.ask("bob", "join_network", node_id=world.ids["bob"], network_id=network)
    bob = world.ids["bob"]
    listed = world.ask("bob", "list_nodes", requester_id=bob, network_id=network)
    endpoint = world.state.nodes[world.ids["carol"]].endpoint
    assert endpoint
    assert endpoint not in str(listed)
    # As in a snapshot of another registry.
    nodes = world.state.nodes
    nodes[world.ids["carol"]] = changed(nodes[world.ids["carol"]], lan_addrs=tuple(LAN))
    for reply in (lookup(world, "bob", "carol"), world.resolve("bob", "carol")):
        assert not reply.get("lan_addrs")
        assert endpoint not in str(reply)


def test_it_is_reached_directly_again_after_another_registration(world: World) -> None:
    world.register("carol", lan_addrs=LAN)
    reply = world.resolve("bob", "carol")
    assert reply["lan_addrs"] == LAN
    assert "relay_only" not in reply


def test_a_candidate_that_is_too_long_is_not_kept(world: World) -> None:
    world.register("alice", lan_addrs=["x" * 65, *LAN])
    assert world.resolve("bob", "alice")["lan_addrs"] == LAN


@pytest.mark.anyio
async def test_the_client_asks_once_for_a_public_node_and_twice_for_a_private_one(
    world: World,
) -> None:
    world.trust("alice", "bob")
    world.trust("bob", "alice")
    client = LocalRegistry(world.state, identity("alice"))
    client.node_id = world.ids["alice"]
    record = await client.record(world.ids["bob"])
    assert record.lan_addrs == tuple(LAN)
    assert record.endpoint
    carol = await client.record(world.ids["carol"])
    assert (carol.endpoint, carol.lan_addrs, carol.relay_only) == ("", (), True)
    assert [message["type"] for message in client.asked] == ["lookup", "resolve", "lookup"]
    anonymous = LocalRegistry(world.state, None)
    assert (await anonymous.record(world.ids["alice"])).lan_addrs == ()


@pytest.mark.anyio
async def test_the_client_bounds_what_a_registry_lists(world: World) -> None:
    class Liar(LocalRegistry):
        """Names more candidates than there may be, and one that is too long."""

        async def request(self, message: Any, *, wait: float = 0.0) -> Any:
            reply = await super().request(message, wait=wait)
            return reply | {"lan_addrs": ["x" * 1000, *(f"10.0.0.1:{n}" for n in range(1000))]}

    client = Liar(world.state, identity("bob"))
    client.node_id = world.ids["bob"]
    record = await client.record(world.ids["alice"])
    assert record.lan_addrs == tuple(f"10.0.0.1:{n}" for n in range(MAX_LAN_ADDRESSES))


def test_a_node_is_told_when_its_key_registers_elsewhere(world: World) -> None:
    world.now += 1
    first = world.register("alice")["announced_at"]
    assert world.about("alice", "heartbeat")["announced_at"] == first == int(world.now)
    world.now += 5
    second = world.register("alice", source=Source("203.0.113.77", 1))["announced_at"]
    assert world.about("alice", "heartbeat")["announced_at"] == second > first
    # An unsigned registration changes nothing, so it tells nothing.
    world.now += 5
    world.register("mallory", sign=False)
    assert "announced_at" not in world.register("mallory", sign=False)
    assert (
        "announced_at"
        not in world.run(
            {"type": "heartbeat", "node_id": world.ids["alice"]}, Source("203.0.113.9", 1)
        ).reply
    )
