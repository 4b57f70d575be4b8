"""Networks: who may create, join, see and change them."""

from __future__ import annotations

from typing import Any

import pytest
from tests.support.registry import World, snapshot_of

from pilotstack.registry.model.creations import MAX_NETWORK, QUARANTINE
from pilotstack.registry.model.policy import Policy
from pilotstack.registry.model.rows import Member
from pilotstack.registry.model.source import Source
from pilotstack.registry.rules.paging import MAX_LISTED
from pilotstack.registry.rules.trust import INBOX_TTL
from pilotstack.registry.storage import snapshot


@pytest.fixture
def world() -> World:
    world = World()
    world.join("a", "b", "c")
    return world


def invite(world: World, inviter: str, target: str, network: int, **more: Any) -> dict[str, Any]:
    return world.ask(
        inviter,
        "invite_to_network",
        inviter_id=world.ids[inviter],
        network_id=network,
        target_node_id=world.ids[target],
        **more,
    )


def test_anybody_joins_an_open_network_and_its_members_know_each_other(world: World) -> None:
    network = world.create("a", "lab")
    assert "private" in world.resolve("b", "a")["error"]
    joined = world.about("b", "join_network", network_id=network)
    assert (joined["network_id"], joined["address"]) == (1, "1:0001.0000.0002")
    assert world.resolve("b", "a")["real_addr"] == "198.51.100.1:4000"
    assert world.run({"type": "lookup", "node_id": 2}).reply["networks"] == [0, 1]
    trust = world.about("a", "check_trust", requester_id=1, peer_id=2)
    assert trust["trusted"] is True
    assert "already in network 1" in world.about("b", "join_network", network_id=network)["error"]
    assert "error" not in world.about("b", "leave_network", network_id=network)
    assert "private" in world.resolve("b", "a")["error"]
    assert "not a member" in world.about("b", "leave_network", network_id=network)["error"]


def test_a_token_network_is_joined_with_the_token_of_which_a_hash_is_stored(world: World) -> None:
    network = world.create("a", "vip", join_rule="token", token="s3cret")
    wrong = world.about("b", "join_network", network_id=network, token="guess")
    assert wrong["error"] == "invalid token for network 1"
    assert "error" not in world.about("b", "join_network", network_id=network, token="s3cret")
    assert b"s3cret" not in b"".join(snapshot.View(world.state).chunks())
    none = world.about("a", "create_network", name="vip2", join_rule="token")
    assert "token" in none["error"]


def test_only_invited_nodes_join_an_invite_network(world: World) -> None:
    network = world.create("a", "club", join_rule="invite")
    uninvited = world.about("b", "join_network", network_id=network)
    assert "invite-only networks require" in uninvited["error"]
    assert "error" not in invite(world, "a", "b", network)
    assert invite(world, "a", "b", network)["status"] == "already_invited"
    invites = world.about("b", "poll_invites")["invites"]
    assert [(row["network_id"], row["inviter_id"]) for row in invites] == [(1, 1)]
    answer = world.about("b", "respond_invite", network_id=network, accept=True)
    assert (answer["accepted"], answer["address"]) == (True, "1:0001.0000.0002")
    # Members may invite; strangers may not.
    assert "not a member" in invite(world, "c", "a", network)["error"]
    assert "error" not in invite(world, "b", "c", network)
    turned = world.about("c", "respond_invite", network_id=network, accept=False)
    assert turned["accepted"] is False
    gone = world.about("c", "respond_invite", network_id=network, accept=True)
    assert "no pending invite for node 3 to network 1" in gone["error"]


def test_an_invitation_expires(world: World) -> None:
    network = world.create("a", "club", join_rule="invite")
    invite(world, "a", "b", network)
    world.now += INBOX_TTL + 1
    assert world.about("b", "poll_invites")["invites"] == []
    late = world.about("b", "respond_invite", network_id=network, accept=True)
    assert "has expired" in late["error"]


def test_in_an_enterprise_network_only_staff_invites_and_the_owner_stays(world: World) -> None:
    network = world.create("a", "corp", join_rule="invite", enterprise=True)
    invite(world, "a", "b", network)
    world.about("b", "respond_invite", network_id=network, accept=True)
    assert "requires role" in invite(world, "b", "c", network)["error"]
    promoted = world.about("a", "promote_member", network_id=network, target_node_id=2)
    assert promoted["role"] == "admin"
    assert "error" not in invite(world, "b", "c", network)
    left = world.about("a", "leave_network", network_id=network)
    assert left["error"] == "cannot leave network: owner must transfer ownership first"
    moved = world.about("a", "transfer_ownership", network_id=network, new_owner_id=2)
    assert (moved["old_owner"], moved["new_owner"]) == (1, 2)
    assert "error" not in world.about("a", "leave_network", network_id=network)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("", "network name required"),
        ("Lab", "must be lowercase"),
        ("-lab", "must be lowercase"),
        ("lab\n", "must be lowercase"),
        ("x" * 64, "too long (max 63 chars)"),
        ("backbone", 'network name "backbone" is reserved'),
        ("taken", 'network "taken" already exists'),
    ],
)
def test_a_name_is_checked(world: World, name: str, text: str) -> None:
    network = world.create("a", "taken")
    other = world.create("a", "other")
    assert text in world.about("a", "create_network", name=name)["error"]
    renamed = world.about("a", "rename_network", network_id=other, name=name)
    assert text in renamed["error"]
    assert "error" not in world.about("a", "rename_network", network_id=network, name="taken")


def test_an_id_is_reused_only_after_all_others_and_a_day(world: World) -> None:
    network = world.create("a", "first")
    assert "error" not in world.about("a", "delete_network", network_id=network)
    assert world.create("a", "second") == 2
    world.state.next_network = MAX_NETWORK + 1
    full = world.about("a", "create_network", name="third")
    assert full["error"] == "network ID space exhausted (max 65535 networks)"
    world.state = snapshot.load(snapshot_of(world.state), world.now)
    assert "exhausted" in world.about("a", "create_network", name="third")["error"]
    world.now += QUARANTINE
    assert world.create("a", "third") == 1
    assert 1 not in world.state.retired


def test_a_network_with_a_used_id_inherits_nothing(world: World) -> None:
    network = world.create("a", "first", join_rule="invite")
    invite(world, "a", "b", network)
    world.state.unknown_rows["networks", network] = {"theirs": 1}
    world.about("a", "delete_network", network_id=network)
    world.state.next_network = MAX_NETWORK + 1
    world.now += QUARANTINE
    assert world.create("c", "next", join_rule="invite") == network
    assert world.about("b", "poll_invites")["invites"] == []
    taken = world.about("b", "respond_invite", network_id=network, accept=True)
    assert "no pending invite" in taken["error"]
    assert ("networks", network) not in world.state.unknown_rows
    # The next one's own invitation takes its place.
    assert "status" not in invite(world, "c", "b", network)
    assert "error" not in world.about("b", "respond_invite", network_id=network, accept=True)


def test_the_backbone_cannot_be_joined_left_or_changed(world: World) -> None:
    for kind in ("join_network", "leave_network", "delete_network", "rename_network"):
        reply = world.about("a", kind, network_id=0, name="x")
        assert reply["error"].startswith("cannot "), kind
        assert "backbone" in reply["error"]
    policy = world.run({"type": "get_network_policy", "network_id": 0}).reply
    assert (policy["max_members"], policy["allowed_ports"]) == (0, [])


def test_an_admin_token_is_required_to_create_and_accepted_elsewhere() -> None:
    world = World(Policy(admin_token="root"))
    world.join("a", "b")
    assert world.about("a", "create_network", name="x")["error"] == "invalid admin token"
    network = world.create("a", "x", admin_token="root", network_admin_token="ours")
    admin: dict[str, Any] = {"network_id": network, "admin_token": "root", "sign": False}
    assert "error" not in world.about("b", "join_network", **admin)
    for kind, role in (("promote_member", "admin"), ("demote_member", "member")):
        reply = world.ask("", kind, node_id=0, target_node_id=2, **admin)
        assert reply["role"] == role
    ours = admin | {"admin_token": "ours"}
    assert "error" not in world.ask("", "kick_member", node_id=0, target_node_id=2, **ours)
    wrong = admin | {"admin_token": "guess"}
    reply = world.ask("", "delete_network", node_id=0, **wrong)
    assert reply["error"] == "invalid admin token"
    assert "invalid admin token" in world.ask("", "set_network_enterprise", **ours)["error"]
    reply = world.ask("", "set_network_enterprise", enterprise=True, **admin)
    assert reply["enterprise"] is True


def test_roles_take_a_signature(world: World) -> None:
    network = world.create("a", "lab")
    for name in ("b", "c"):
        world.about(name, "join_network", network_id=network)
    target = {"network_id": network, "target_node_id": world.ids["c"]}
    # A bare id, somebody else's signature and a member without the role all fail.
    assert "signature" in world.about("a", "kick_member", sign=False, **target)["error"]
    assert "signature" in world.about("a", "kick_member", sign="b", **target)["error"]
    assert "requires role" in world.about("b", "kick_member", **target)["error"]
    owner = {"network_id": network, "target_node_id": world.ids["a"]}
    assert world.about("a", "kick_member", **owner)["error"] == "cannot kick the network owner"
    assert world.about("a", "promote_member", **owner)["error"] == "cannot promote the owner"
    assert "error" not in world.about("a", "kick_member", **target)
    role = world.run({"type": "get_member_role", **owner}).reply
    assert role["role"] == "owner"
    assert "not a member" in world.run({"type": "get_member_role", **target}).reply["error"]


def test_a_policy_can_be_set_in_parts_and_limits_members(world: World) -> None:
    network = world.create("a", "lab")
    about = {"network_id": network}
    set_to = world.about("a", "set_network_policy", max_members=2, description="ours", **about)
    assert (set_to["max_members"], set_to["description"]) == (2, "ours")
    set_to = world.about("a", "set_network_policy", allowed_ports=[7, 80], **about)
    assert (set_to["max_members"], set_to["allowed_ports"]) == (2, [7, 80])
    assert "error" not in world.about("b", "join_network", **about)
    full = world.about("c", "join_network", **about)
    assert "membership limit reached" in full["error"]
    for members in (
        {"max_members": 10_001},
        {"max_members": True},
        {"allowed_ports": [0]},
        {"allowed_ports": list(range(1, 102))},
        {"description": "x" * 257},
    ):
        assert "error" in world.about("a", "set_network_policy", **about, **members), members


def test_rules_and_policies_are_validated_stored_and_returned(world: World) -> None:
    rules = '{"links":2,"cycle":"1h","prune_by":"age"}'
    reply = world.about("a", "create_network", name="managed", rules=rules)
    assert reply["managed"] is True
    assert world.about("b", "join_network", network_id=1)["rules"]["links"] == 2
    listed = world.run({"type": "list_networks"}, world.source("b")).reply["networks"][1]
    assert (listed["managed"], listed["rules"]["cycle"]) == (True, "1h")
    # Who is not in it does not carry them out.
    listed = world.run({"type": "list_networks"}).reply["networks"][1]
    assert (listed["managed"], listed.get("rules")) == (True, None)
    policy = {"version": 1, "rules": [{"name": "r"}]}
    assert "error" not in world.about("a", "set_expr_policy", network_id=1, expr_policy=policy)
    got = world.run({"type": "get_expr_policy", "network_id": 1}).reply
    assert got["expr_policy"] == policy
    cleared = world.about("a", "set_expr_policy", network_id=1, expr_policy="")
    assert cleared["cleared"] is True
    for bad in ('{"version":2}', {"version": 1, "rules": []}, "[", "[1]", {"x": "y" * 70_000}):
        reply = world.about("a", "set_expr_policy", network_id=1, expr_policy=bad)
        assert "expr_policy" in reply["error"]


def test_only_members_list_a_network_that_is_not_open(world: World) -> None:
    network = world.create("a", "club", join_rule="invite")
    asks = {"type": "list_nodes", "network_id": network}
    assert world.run(asks).reply["error"] == "network 1: network not found"
    signed = world.ask("c", "list_nodes", requester_id=3, network_id=network)
    assert signed["error"] == "network 1: network not found"
    fresh = Source("192.0.2.1", 1)
    signed = world.ask("a", "list_nodes", requester_id=1, network_id=network, source=fresh)
    assert [(row["node_id"], row["role"]) for row in signed["nodes"]] == [(1, "owner")]
    assert "real_addr" not in signed["nodes"][0]
    # Daemons of today do not sign this, but they did sign before on the same connection.
    assert "error" not in world.run(asks, world.source("a")).reply
    assert "network not found" in world.run(asks, world.source("c")).reply["error"]
    token = {"join_rule": "token", "token": "t"}
    vip = {"type": "list_nodes", "network_id": world.create("a", "vip", **token)}
    assert "not a member" in world.run(vip, world.source("c")).reply["error"]


def test_only_staff_sets_member_tags(world: World) -> None:
    network = world.create("a", "lab")
    world.about("b", "join_network", network_id=network)
    target = {"network_id": network, "target_node_id": 2}
    reply = world.about("a", "set_member_tags", tags=["#alpha", "beta", "alpha"], **target)
    assert reply["tags"] == ["alpha", "beta"]
    assert "requires role" in world.about("b", "set_member_tags", tags=[], **target)["error"]
    one = world.run({"type": "get_member_tags", **target}).reply
    assert one["tags"] == ["alpha", "beta"]
    everyone = world.run({"type": "get_member_tags", "network_id": 1, "target_node_id": 0}).reply
    assert everyone["members"] == {"2": ["alpha", "beta"]}
    eleven = [f"t{number}" for number in range(11)]
    reply = world.about("a", "set_member_tags", tags=eleven, **target)
    assert reply["error"] == "too many member tags (max 10)"


def test_a_long_list_of_members_is_paged(world: World) -> None:
    world.create("a", "big")
    for number in range(MAX_LISTED + 5):
        world.state.put("members", (1, 100_000 + number), Member())
    first = world.run({"type": "list_nodes", "network_id": 1}).reply
    assert (len(first["nodes"]), first["next_offset"]) == (MAX_LISTED, MAX_LISTED)
    rest = world.run({"type": "list_nodes", "network_id": 1, "offset": MAX_LISTED}).reply
    assert len(rest["nodes"]) == 6
    assert "next_offset" not in rest


def test_deregistering_ends_all_memberships(world: World) -> None:
    network = world.create("a", "lab")
    world.about("b", "join_network", network_id=network)
    world.about("b", "deregister")
    world.register("b")
    assert world.run({"type": "lookup", "node_id": 2}).reply["networks"] == [0]
    assert "private" in world.resolve("b", "a")["error"]
