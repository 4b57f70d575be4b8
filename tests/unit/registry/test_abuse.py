"""Budgets and bounds: what one node or one source can use up, and what it cannot."""

from __future__ import annotations

from typing import Any

import pytest
from tests.support.registry import World, snapshot_of

from pilotstack.registry.model import creations
from pilotstack.registry.model.creations import (
    ALL_RATE,
    MAX_NETWORK,
    QUARANTINE,
    Creations,
    max_owned,
)
from pilotstack.registry.model.rows import Network, Response
from pilotstack.registry.model.source import Source
from pilotstack.registry.protocol.errors import Denied
from pilotstack.registry.rules.networks import MAX_JOINED
from pilotstack.registry.rules.trust import MAX_INBOX
from pilotstack.registry.storage import snapshot


def test_a_node_uses_up_no_ids_by_making_and_ending_networks() -> None:
    world = World()
    world.join("a", "b")
    made = 0
    for number in range(200):
        reply = world.about("a", "create_network", name=f"n{number}")
        if "error" in reply:
            assert reply["error"].startswith("too many new networks of node 1")
            continue
        made += 1
        assert "error" not in world.about("a", "delete_network", network_id=reply["network_id"])
    assert made == creations.NODE_BURST
    assert "error" not in world.about("b", "create_network", name="honest")


def test_one_source_and_all_together_have_budgets_for_networks() -> None:
    budget = Creations()
    for node in range(int(creations.SOURCE_BURST)):
        budget.spend(node, "192.0.2.1", 0.0)
    with pytest.raises(Denied, match="new networks from"):
        budget.spend(999, "192.0.2.1", 0.0)
    for node in range(1000, 1000 + int(creations.ALL_BURST - creations.SOURCE_BURST)):
        budget.spend(node, f"198.51.{node % 256}.{node // 256}", 0.0)
    with pytest.raises(Denied, match="in all"):
        budget.spend(9999, "203.0.113.1", 0.0)
    budget.spend(9000, "203.0.113.1", 10.0)
    # However hard they try, some id is free again before the last is used.
    assert creations.ALL_BURST + ALL_RATE * QUARANTINE < MAX_NETWORK
    budget.sweep(1e9)


@pytest.mark.parametrize(
    ("networks", "owned"), [(0, 64), (32_767, 64), (32_768, 16), (50_000, 4), (65_534, 1)]
)
def test_the_fewer_ids_are_left_the_fewer_networks_one_node_may_own(
    networks: int, owned: int
) -> None:
    assert max_owned(networks) == owned


def test_ids_of_deleted_networks_that_an_old_store_lost_are_reused() -> None:
    world = World()
    world.join("a")
    world.state.put("networks", 7, Network(network_id=7, name="seven"))
    rows = snapshot_of(world.state) | {"next_network": MAX_NETWORK + 1}
    del rows["retired_networks"]
    world.state = snapshot.load(rows, world.now)
    world.now += QUARANTINE
    assert world.create("a", "x") == 1


# Lists


# Unsigned registrations


def test_an_unsigned_registration_of_a_known_key_changes_nothing() -> None:
    world = World()
    world.register("bank", sign=False, hostname="bank", version="1", owner="o")
    world.about("bank", "heartbeat")
    node = world.state.nodes[1]
    attacker = Source("203.0.113.66", 6666)
    for more in (
        {"hostname": "loser"},
        {"version": "evil", "lan_addrs": ["10.6.6.6:666"], "relay_only": True, "owner": "evil"},
        {"listen_addr": ":6666"},
    ):
        reply = world.register("bank", sign=False, source=attacker, **more)
        assert (reply["node_id"], reply.get("hostname")) == (1, None)
        assert world.state.nodes[1] is node
    world.register("mallory", hostname="bank", source=attacker)
    assert world.state.by_hostname["bank"] == 1
    # Nor from its own address, while a connection of its own speaks for it.
    neighbour = Source(world.source("bank").host, 6666)
    world.register("bank", sign=False, source=neighbour, listen_addr=":6666")
    assert world.state.nodes[1] is node
    world.about("bank", "deregister")
    world.register("bank", sign=False, source=attacker)
    assert "not found" in world.run({"type": "lookup", "node_id": 1}, attacker).reply["error"]


def test_a_first_generation_node_is_restored_by_its_first_signature_or_its_address() -> None:
    world = World()
    world.register("a", sign=False)
    world.about("a", "set_tags", tags=["t"])
    world.about("a", "deregister")
    moved = Source("192.0.2.50", 50_000)
    world.register("a", sign=False, source=moved, listen_addr=":4001", version="1")
    assert not world.state.is_live(1)
    assert "error" not in world.about("a", "heartbeat", source=moved)
    node = world.state.nodes[1]
    assert (node.endpoint, node.version, node.gone_at) == ("192.0.2.50:4001", "1", 0)
    # Killed and started again at another port: its connections are gone.
    for source in (world.source("a"), moved):
        world.state.left(source)
    again = Source("192.0.2.50", 50_001)
    world.register("a", sign=False, source=again, listen_addr=":4002", hostname="other")
    node = world.state.nodes[1]
    assert (node.endpoint, node.hostname) == ("192.0.2.50:4002", "")
    world.about("a", "heartbeat", source=again)
    assert world.state.nodes[1].hostname == "other"
    assert not world.state.speaking[2]


def test_a_pending_hostname_is_applied_only_if_it_is_still_free() -> None:
    world = World()
    world.register("a", sign=False)
    world.register("a", sign=False, hostname="name")
    world.register("b", hostname="name")
    world.about("a", "heartbeat")
    assert world.state.nodes[1].hostname == ""
    assert world.state.by_hostname["name"] == 2


# Guesses


# Inboxes


def test_only_responses_to_pending_requests_are_kept() -> None:
    world = World()
    world.join("b", "friend")
    names = [f"n{number}" for number in range(MAX_INBOX + 20)]
    world.join(*names)
    world.request("b", "friend")
    for name in names:
        assert "error" not in world.respond(name, "b", accept=False)
    assert "error" not in world.respond("friend", "b", accept=True)
    assert world.poll("b") == ([], [2])
    # An approval that nobody asked for here stands as a consent.
    world.respond("n0", "b", accept=True)
    check = world.about("b", "check_trust", requester_id=1, peer_id=world.ids["n0"])
    assert (check["trusted"], check["claimed"], check["granted"]) == (False, False, True)


@pytest.mark.parametrize(
    ("table", "refusal"),
    [
        ("requests", "handshake inbox full for node 1"),
        ("invites", "too many invites for node 1"),
    ],
)
def test_many_nodes_of_one_source_cannot_fill_an_inbox(table: str, refusal: str) -> None:
    world = World()
    world.join("b")
    crowd = Source("203.0.113.9", 1)
    names = [f"n{number}" for number in range(MAX_INBOX + 5)]
    for name in names:
        world.register(name, source=crowd)
    world.join("honest")

    def knock(name: str, number: int) -> dict[str, object]:
        if table == "requests":
            return world.request(name, "b")
        network = world.create(name, f"net{number}", join_rule="invite")
        about: dict[str, Any] = {
            "inviter_id": world.ids[name],
            "network_id": network,
            "target_node_id": 1,
        }
        return world.ask(name, "invite_to_network", **about)

    replies = [knock(name, number) for number, name in enumerate(names)]
    assert sum("error" in reply for reply in replies) == 5
    assert "error" not in knock("honest", 999)
    assert len(world.state.tables[table].of(1)) == MAX_INBOX
    # Who has most of it gets no more.
    assert knock(names[-1], 1000)["error"] == refusal


def test_responses_that_do_not_fit_one_reply_are_in_the_next() -> None:
    world = World()
    world.join("b")
    count = 12_000
    for number in range(2, 2 + count):
        world.state.put("responses", (1, number), Response(True, 1))
    seen: list[int] = []
    while True:
        source = world.source("b")
        _, answers = world.poll("b", source)
        if not answers:
            break
        seen += answers
    assert sorted(seen) == list(range(2, 2 + count))


# Signatures that serve once


# Revocations


def test_the_other_side_is_told_of_a_revocation_and_cannot_undo_it() -> None:
    world = World()
    world.join("a", "b")
    world.trust("a", "b")
    world.trust("b", "a")
    assert world.about("a", "revoke_trust", peer_id=2) == {"type": "revoke_trust_ok"}
    # b registers again before it hears of it, and reports whom it trusts.
    assert "has revoked" in world.trust("b", "a")["error"]
    world.request("a", "b", "anew")
    world.state = snapshot.load(snapshot_of(world.state), world.now)
    inbox = world.about("b", "poll_handshakes")
    assert [row["from_node_id"] for row in inbox["requests"]] == [1]
    assert [(row["accept"], row["revoked"]) for row in inbox["responses"]] == [(False, True)]
    assert not world.state.is_trusted(1, 2)
    # Now it knows, and may trust again.
    assert "error" not in world.trust("b", "a")
    assert world.state.is_trusted(1, 2)


def test_a_withdrawn_consent_wakes_nobody() -> None:
    world = World()
    world.join("a", "b")
    world.trust("a", "b")
    request = world.sign("a", {"type": "revoke_trust", "node_id": 1, "peer_id": 2})
    outcome = world.run(request)
    assert outcome.wakes == ()
    assert world.poll("b") == ([], [])


def test_memberships_of_a_node_are_bounded() -> None:
    world = World()
    world.join("a")
    for number in range(1, MAX_JOINED + 2):
        world.state.put("networks", number, Network(network_id=number, name=f"n{number}"))
        reply = world.about("a", "join_network", network_id=number)
    assert "too many networks" in reply["error"]
