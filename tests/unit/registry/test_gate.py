"""No request discloses what another one refuses: registries that differ in one private fact give
the same answers to whoever may not know it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from tests.support.registry import CHALLENGES, NAMES, World, key_text

from pilotstack.registry.model.source import Source
from pilotstack.registry.model.transient import MAX_ADDRESSES, MAX_NEIGHBOURS, RECENT, Neighbours
from pilotstack.registry.rules.reaper import PASS_EVERY, reap

if TYPE_CHECKING:
    from collections.abc import Callable

    Fact = Callable[[World], object]


def base() -> World:
    """Alice and bob are private, and mallory has nothing to do with them. Alice has a network by
    invitation and one by token."""
    world = World()
    world.join("alice", "bob", "mallory")
    world.create("alice", "club", join_rule="invite")
    world.create("alice", "vip", join_rule="token", token="t0ken")
    return world


def admit(world: World, network: int) -> None:
    if network == 2:
        world.about("bob", "join_network", network_id=2, token="t0ken")
        return
    about: dict[str, Any] = {"inviter_id": 1, "network_id": network, "target_node_id": 2}
    world.ask("alice", "invite_to_network", **about)
    world.about("bob", "respond_invite", network_id=network, accept=True)


def befriend(world: World) -> None:
    world.trust("alice", "bob")
    world.trust("bob", "alice")


def move(world: World) -> None:
    world.register("bob", listen_addr="0.0.0.0:4999")


def promote(world: World) -> None:
    world.about("alice", "promote_member", network_id=1, target_node_id=2)


def tag(world: World) -> None:
    world.about("alice", "set_member_tags", network_id=1, target_node_id=2, tags=["x"])


def go(world: World) -> None:
    """Bob falls silent, and the others do not."""
    for _ in range(3):
        world.now += 400
        world.about("alice", "heartbeat")
        world.about("mallory", "heartbeat")
        reap(world.state, world.now)
        world.now += PASS_EVERY
        reap(world.state, world.now)


def stay(world: World) -> None:
    """As before, and bob is there."""
    for _ in range(3):
        world.now += 400
        for name in ("alice", "mallory", "bob"):
            world.about(name, "heartbeat")
        reap(world.state, world.now)
        world.now += PASS_EVERY
        reap(world.state, world.now)


def nothing(world: World) -> None:
    del world


#: What is in both registries, and what in one of them.
FACTS: dict[str, tuple[Fact, Fact, Fact]] = {
    "trust": (nothing, befriend, nothing),
    "one-sided trust": (nothing, lambda world: world.trust("alice", "bob"), nothing),
    "membership by invitation": (nothing, lambda world: admit(world, 1), nothing),
    "membership by token": (nothing, lambda world: admit(world, 2), nothing),
    "role": (lambda world: admit(world, 1), promote, nothing),
    "member tags": (lambda world: admit(world, 1), tag, nothing),
    "endpoint": (nothing, move, nothing),
    "presence": (nothing, go, stay),
    "presence of a member": (lambda world: admit(world, 2), go, stay),
    "a request for trust": (nothing, lambda w: w.request("alice", "bob"), nothing),
}


def members_of(kind: str, *, claims: bool) -> dict[str, Any]:
    """All members that any request has. Who asks is mallory, or claims to be bob."""
    asker = 2 if claims else 3
    return {
        "type": kind,
        **dict.fromkeys(("node_id", "requester_id", "from_node_id", "inviter_id", "node_a"), asker),
        **dict.fromkeys(("target_node_id", "to_node_id", "node_b", "new_owner_id"), 2),
        "peer_id": 1 if claims else 2,
        **{"hostname": "other", "name": "other", "tags": ["t"], "public": False, "enabled": True},
        **{"justification": "j", "accept": True, "token": "guess", "join_rule": "open"},
        **{"public_key": key_text("mallory"), "new_public_key": key_text("mallory2")},
        **{"listen_addr": "0.0.0.0:4000", "commitment": "0" * 64, "recovery_secret": "guess"},
        **{"beacon_id": 1, "addr": "198.51.100.3:1", "delta": 1, "polo_score": 1},
        **{"max_members": 1, "allowed_ports": [1], "description": "d", "wait": 1},
        "expr_policy": {"version": 1, "rules": [1]},
    }


def questions() -> list[tuple[str, dict[str, Any], str]]:
    """Every request, by nobody, by mallory as himself and by mallory as bob."""
    found = []
    # Who is deregistered can ask nothing more.
    kinds = sorted(NAMES - {"deregister", "rotate_key"})
    for kind in [*kinds, "rotate_key", "deregister"]:
        for network in (1, 2):
            for label, claims, signer in (
                ("nobody", False, ""),
                ("nobody as bob", True, ""),
                ("mallory", False, "mallory"),
                ("mallory as bob", True, "mallory"),
            ):
                request = members_of(kind, claims=claims) | {"network_id": network}
                if kind in {"lookup", "get_key_info", "get_polo_score", "resolve"}:
                    request["node_id"] = 2
                if kind in {"resolve_hostname"}:
                    request["hostname"] = "bob"
                found.append((f"{kind} of {network} by {label}", request, signer))
    return found


@pytest.mark.parametrize("fact", FACTS)
def test_a_stranger_cannot_tell_two_registries_apart(fact: str) -> None:
    common, first_only, second_only = FACTS[fact]
    worlds = base(), base()
    for world in worlds:
        world.about("bob", "set_hostname", hostname="bob")
        common(world)
    first_only(worlds[0])
    second_only(worlds[1])
    for number, (label, request, signer) in enumerate(questions()):
        replies = []
        for world in worlds:
            # Without the limits of one address, and at the same time.
            world.now = max(world.now for world in worlds) + 0.01
            source = Source(f"192.0.2.{number % 200}", 1)
            message = world.sign(signer, request) if signer else request
            replies.append(world.run(message, source).reply)
        assert replies[0] == replies[1], label


def test_every_request_is_tried() -> None:
    asked = {request["type"] for _, request, _ in questions()}
    assert asked == NAMES
    assert set(CHALLENGES) <= NAMES


def test_trusted_peers_and_members_are_told_the_endpoint() -> None:
    world = base()
    admit(world, 1)
    go_seen = world.run({"type": "lookup", "node_id": 2}).reply
    assert "last_seen_unix" not in go_seen
    assert go_seen["networks"] == [0]
    for asker in (1, 2):
        name = ("alice", "bob")[asker - 1]
        source = Source("192.0.2.9", asker)
        reply = world.ask(name, "lookup", requester_id=asker, node_id=2, source=source)
        assert reply["last_seen_unix"] == int(world.now)
        assert reply["networks"] == [0, 1]
        about = {"network_id": 1, "target_node_id": 2}
        # The connection speaks for the node from then on.
        assert world.run({"type": "get_member_role", **about}, source).reply["role"] == "member"
        listed = world.run({"type": "list_networks"}, source).reply["networks"]
        assert [row["name"] for row in listed] == ["backbone", "club", "vip"]
    stranger = world.run({"type": "list_networks"}).reply["networks"]
    assert [(row["name"], row.get("members")) for row in stranger] == [
        ("backbone", 3),
        ("vip", None),
    ]


def test_an_invited_node_may_see_the_network() -> None:
    world = base()
    about: dict[str, Any] = {"inviter_id": 1, "network_id": 1, "target_node_id": 2}
    assert "error" not in world.ask("alice", "invite_to_network", **about)
    seen = world.ask("bob", "list_networks", requester_id=2)["networks"]
    assert [row["name"] for row in seen if "members" not in row] == ["club", "vip"]
    policy = world.ask("bob", "get_network_policy", requester_id=2, network_id=1)
    assert "error" not in policy
    assert "not a member" in world.ask("bob", "list_nodes", requester_id=2, network_id=1)["error"]


def test_an_admin_token_replaces_a_signature() -> None:
    world = World()
    world.join("alice")
    made = {"join_rule": "invite", "network_admin_token": "ours"}
    network = world.create("alice", "club", **made)
    about = {"network_id": network, "target_node_id": 1, "admin_token": "ours"}
    assert world.run({"type": "get_member_role", **about}).reply["role"] == "owner"
    nodes = world.run({"type": "list_nodes", **about}).reply["nodes"]
    assert [row["node_id"] for row in nodes] == [1]
    wrong = about | {"admin_token": "guess"}
    assert "not found" in world.run({"type": "list_nodes", **wrong}).reply["error"]


def test_unsigned_questions_of_old_daemons_are_answered_at_their_address() -> None:
    world = base()
    befriend(world)
    other = Source(world.source("bob").host, 50_000)
    check = {"type": "check_trust", "node_id": 2, "peer_id": 1}
    assert world.run(check, other).reply["trusted"] is True
    # Who has said who he is, is that.
    mine = Source(other.host, 50_002)
    assert "error" not in world.about("mallory", "heartbeat", source=mine)
    assert world.run(check, mine).reply["trusted"] is False
    # An address that others speak from, too, proves nothing; nor does one of long ago.
    shared = Source(other.host, 50_001, is_shared=True)
    assert world.run(check, shared).reply["trusted"] is False
    world.now += RECENT + 1
    assert world.run(check, other).reply["trusted"] is False
    # Whether somebody is there is not told by the address.
    assert "last_seen_unix" not in world.run({"type": "lookup", "node_id": 2}, other).reply


def test_neighbours_are_bounded() -> None:
    neighbours = Neighbours()
    for number in range(MAX_NEIGHBOURS + 5):
        neighbours.add("here", number, 1.0)
    assert len(list(neighbours.at("here", 1.0))) == MAX_NEIGHBOURS
    for number in range(MAX_ADDRESSES + 5):
        neighbours.add(f"host-{number}", 1, 1.0)
    assert len(neighbours) == MAX_ADDRESSES
    assert list(neighbours.at("here", 1.0)) == []


def test_a_wrong_signature_is_refused_before_the_role() -> None:
    world = base()
    for claimed in (1, 2):
        kick = {"type": "kick_member", "node_id": claimed, "network_id": 1, "target_node_id": 2}
        reply = world.run(kick).reply
        assert reply["error"] == "signature required for authenticated node"
