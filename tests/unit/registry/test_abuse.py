"""Budgets, bounds and replays: what one node or one source can use up, and what it cannot."""

from __future__ import annotations

from typing import Any

import pytest
from tests.support.registry import World, challenge_of, identity, key_text, snapshot_of

from pilotstack.registry.model import auth, creations, guesses
from pilotstack.registry.model.creations import (
    ALL_RATE,
    MAX_NETWORK,
    QUARANTINE,
    Creations,
    max_owned,
)
from pilotstack.registry.model.guesses import WRONG_BURST, Guesses
from pilotstack.registry.model.rows import Network, Response
from pilotstack.registry.model.source import Source
from pilotstack.registry.model.transient import RecentSignatures
from pilotstack.registry.protocol import framing, values
from pilotstack.registry.protocol.errors import Denied
from pilotstack.registry.protocol.requests.base import NOT_NOW
from pilotstack.registry.rules.freshness import MAX_PLAIN, WINDOW
from pilotstack.registry.rules.networks import MAX_JOINED
from pilotstack.registry.rules.paging import MAX_LISTED, MAX_REPLY, page
from pilotstack.registry.rules.trust import MAX_INBOX
from pilotstack.registry.storage import snapshot


def plain(name: str, request: dict[str, object]) -> dict[str, object]:
    """A request that is signed without the time."""
    signature = identity(name).sign(challenge_of(request).encode())
    return request | {"signature": values.encode_base64(signature)}


# Ids of networks


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


def test_lists_are_paged_by_bytes() -> None:
    world = World()
    world.join("a", "b")
    rules = {"links": 1, "x": "y" * 60_000}
    for number in range(60):
        world.create("a", f"n{number}", rules=rules, description="d" * 200)
    for name in ("a", "b"):
        reply = world.ask(name, "list_networks", requester_id=world.ids[name])
        assert len(framing.encode(reply)) <= MAX_REPLY
        # Nobody's rules crowd out another's network.
        assert len(reply["networks"]) == 61


def test_a_page_names_the_offset_of_the_next() -> None:
    world = World()
    world.join("a", "b")
    for number in range(1, 4000):
        row = Network(network_id=number, name=f"n{number}", description="d" * 200)
        world.state.put("networks", number, row)
    seen, offset = [], 0
    while True:
        request = {"type": "list_networks", "offset": offset}
        reply = world.run(request).reply
        assert len(framing.encode(reply)) < MAX_REPLY + 1000
        seen += [row["id"] for row in reply["networks"]]
        if not (offset := reply.get("next_offset", 0)):
            break
    assert seen == list(range(4000))


def test_a_row_longer_than_a_page_is_a_page_of_its_own() -> None:
    assert page(["x" * 100, "y"], room=10) == (["x" * 100], True)
    assert page([], room=0) == ([], False)
    assert page(range(MAX_LISTED + 1))[1] is True


def test_member_tags_are_paged() -> None:
    world = World()
    world.join("a")
    network = world.create("a", "lab")
    tags = tuple(f"{'t' * 30}-{number}" for number in range(10))
    member = world.state.members.of(network)[1]
    for node_id in range(2, 3000):
        world.state.put("members", (network, node_id), type(member)("member", tags))
    about = {"type": "get_member_tags", "network_id": network, "target_node_id": 0}
    found: dict[str, object] = {}
    offset = 0
    while True:
        reply = world.run(about | {"offset": offset}).reply
        assert len(framing.encode(reply)) < MAX_REPLY * 2
        found |= reply["members"]
        if not (offset := reply.get("next_offset", 0)):
            break
    assert len(found) == 2998


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


def test_wrong_tokens_are_limited_cheap_and_logged() -> None:
    world = World()
    world.join("a")
    made = {"join_rule": "token", "token": "right", "network_admin_token": "secret"}
    network = world.create("a", "n", **made)
    guess = {"type": "kick_member", "node_id": 99, "network_id": network, "admin_token": "no"}
    source = Source("203.0.113.5", 1)
    first = world.run(guess, source)
    assert first.reply["error"] == "invalid admin token"
    assert (first.wrong_secrets, first.delay > 0) == (("admin_token",), True)
    replies = [world.run(guess, source).reply["error"] for _ in range(100)]
    assert replies.count("invalid admin token") == WRONG_BURST - 1
    assert all("rate limited: too many wrong tokens" in text for text in replies[-80:])
    # Who guesses too much does not even learn when he is right.
    right = guess | {"admin_token": "secret", "target_node_id": 1}
    assert "rate limited" in world.run(right, source).reply["error"]
    assert "rate limited" not in world.run(right, Source("203.0.113.6", 1)).reply["error"]
    world.now += 11
    assert "rate limited" not in world.run(right, source).reply["error"]
    join = {"network_id": network, "token": "wrong"}
    texts = [world.about("a", "join_network", **join)["error"] for _ in range(30)]
    assert "rate limited" in texts[-1]


def test_guesses_of_the_admin_token_are_limited() -> None:
    world = World()
    world.state.policy = type(world.state.policy)(admin_token="root")
    world.join("a")
    source = Source("203.0.113.5", 1)
    request = {"type": "set_hostname", "node_id": 1, "hostname": "x", "admin_token": "no"}
    texts = [world.run(request, source).reply["error"] for _ in range(30)]
    assert "rate limited" in texts[-1]
    assert "error" not in world.about("a", "set_hostname", hostname="x", admin_token="root")


def test_guesses_of_recovery_secrets_are_limited() -> None:
    world = World()
    world.join("a")
    world.about("a", "enroll_recovery", commitment="0" * 64)
    request = {"type": "recover_identity", "node_id": 1, "new_public_key": key_text("m")}
    source = Source("203.0.113.5", 1)
    replies = [
        world.run(request | {"recovery_secret": f"s{number}"}, source).reply["error"]
        for number in range(30)
    ]
    assert replies[0] == "recovery denied: invalid recovery secret"
    assert "rate limited" in replies[-1]


def test_a_right_token_costs_one_hash_and_a_wrong_one_none(monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[str] = []
    real = auth.matches_token

    def matches_token(given: str, stored: str) -> bool:
        hashed.append(given)
        return real(given, stored)

    monkeypatch.setattr(auth, "matches_token", matches_token)
    stored = auth.hash_token("right", bytes(16))
    tried = Guesses()
    assert [tried.matches(token, stored, "192.0.2.1", 0.0) for token in ("no", "right")] == [
        False,
        True,
    ]
    assert len(hashed) == 2
    for token, is_right in (("no", False), ("right", True), ("", False)):
        assert tried.matches(token, stored, "192.0.2.1", 0.0) is is_right
    assert len(hashed) == 2
    # What is not known yet costs all sources together no more than a share.
    others = [auth.hash_token("x", number.to_bytes(16)) for number in range(300)]
    for number in range(int(guesses.ALL_BURST) - 2):
        tried.matches("no", others[number], f"192.0.{number % 200}.1", 0.0)
    with pytest.raises(guesses.TooManyGuesses):
        tried.matches("no", others[-1], "203.0.113.1", 0.0)
    assert len(hashed) == guesses.ALL_BURST


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


@pytest.fixture
def club() -> World:
    world = World()
    world.join("owner", "member", "other")
    network = world.create("owner", "club")
    for name in ("member", "other"):
        world.about(name, "join_network", network_id=network)
    return world


CAPTURED: dict[str, dict[str, Any]] = {
    "promote_member": {"target_node_id": 2},
    "demote_member": {"target_node_id": 2},
    "kick_member": {"target_node_id": 3},
    "transfer_ownership": {"new_owner_id": 2},
    "set_member_tags": {"target_node_id": 2, "tags": ["x"]},
    "set_network_policy": {"max_members": 100},
    "set_expr_policy": {"expr_policy": {"version": 1, "rules": [1]}},
    "rename_network": {"name": "renamed"},
    "create_network": {"name": "second"},
    "delete_network": {},
}


@pytest.mark.parametrize("kind", CAPTURED)
@pytest.mark.parametrize("is_timed", [True, False])
def test_a_captured_request_cannot_be_sent_again(club: World, kind: str, is_timed: bool) -> None:
    request = {"type": kind, "node_id": 1, "network_id": 1, **CAPTURED[kind]}
    if kind == "demote_member":
        club.about("owner", "promote_member", network_id=1, target_node_id=2)
    signed = club.sign("owner", request) if is_timed else plain("owner", request)
    assert "error" not in club.run(signed, club.source("owner")).reply
    club.state = snapshot.load(snapshot_of(club.state), club.now)
    stranger = Source("203.0.113.9", 1)
    club.run(signed | {"max_members": 1, "tags": []}, stranger)
    again = club.run(
        {name: value for name, value in signed.items() if name[-3:] != "_at"}, stranger
    )
    if kind not in {"delete_network", "create_network"}:
        assert "already used" in again.reply["error"]
    assert "error" in again.reply
    assert not stranger.proven
    # Whoever has the key can ask again.
    if kind == "set_network_policy":
        assert "error" not in club.about("owner", kind, network_id=1, max_members=5)


def test_a_refused_request_cannot_succeed_later(club: World) -> None:
    about = {"network_id": 1, "target_node_id": 2}
    request = plain("owner", {"type": "demote_member", "node_id": 1, **about})
    assert "already a member" in club.run(request).reply["error"]
    club.about("owner", "promote_member", **about)
    assert "already used" in club.run(request).reply["error"]


def test_a_timed_signature_covers_the_request_and_the_time(club: World) -> None:
    request = {"type": "set_network_policy", "node_id": 1, "network_id": 1, "max_members": 9}
    signed = club.sign("owner", request)
    for changed in (
        {"max_members": 1},
        {"description": "x"},
        {"signed_at": signed["signed_at"] + 1},
    ):
        reply = club.run(signed | changed).reply
        assert reply["error"] == "signature verification failed"
    for away in (-WINDOW - 400, WINDOW + 400):
        club.now += away
        stale = club.run(signed).reply["error"]
        assert stale.startswith(NOT_NOW)
        assert int(stale.removeprefix(NOT_NOW)) == int(club.now)
        club.now -= away
    # What a connection adds is not covered.
    assert "error" not in club.run(signed | {"cluster": "c", "term": 2}).reply


def test_plain_signatures_are_remembered_in_bounded_memory(club: World) -> None:
    for number in range(MAX_PLAIN + 5):
        name = {"type": "rename_network", "node_id": 1, "network_id": 1, "name": f"n{number}"}
        reply = club.run(plain("owner", name)).reply
    assert "without a time" in reply["error"]
    assert len(club.state.rotations.of(1)) == club.state.used_signatures == MAX_PLAIN
    assert "error" not in club.about("owner", "rename_network", network_id=1, name="timed")
    # Rotations are counted apart.
    moments = RecentSignatures(limit=2)
    assert moments.add(b"a", 10.0, 0.0)
    assert not moments.add(b"a", 10.0, 0.0)
    assert moments.add(b"b", 10.0, 0.0)
    assert not moments.add(b"c", 10.0, 0.0)
    assert moments.add(b"c", 20.0, 11.0)
    assert len(moments) == 1


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
