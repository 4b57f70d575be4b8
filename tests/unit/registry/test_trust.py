"""Trust pairs and the handshake relay."""

from __future__ import annotations

from typing import Any

import pytest
from tests.support.registry import World, snapshot_of

from pilotstack.registry.model.source import Source
from pilotstack.registry.model.transient import REOFFER
from pilotstack.registry.protocol.requests.trust import MAX_JUSTIFICATION
from pilotstack.registry.rules.reaper import reap
from pilotstack.registry.rules.trust import CLAIM_TTL, INBOX_TTL, MAX_INBOX
from pilotstack.registry.storage import snapshot


@pytest.fixture
def world() -> World:
    world = World()
    world.join("a", "b", "c")
    return world


def trusted(world: World, a: str, b: str) -> bool:
    about = {"requester_id": world.ids[a], "peer_id": world.ids[b]}
    return bool(world.about(a, "check_trust", **about)["trusted"])


def test_trust_needs_both_consents_in_any_form(world: World) -> None:
    assert world.trust("a", "b") == {"type": "report_trust_ok"}
    assert not trusted(world, "a", "b")
    assert "private" in world.resolve("a", "b")["error"]
    world.trust("b", "a")
    assert trusted(world, "b", "a")
    assert world.resolve("a", "b")["real_addr"] == "198.51.100.2:4000"
    # Asking and granting are the consents of a relayed handshake.
    world.request("a", "c")
    assert world.respond("c", "a", accept=True)["accept"] is True
    assert trusted(world, "a", "c")


def test_a_second_consent_wakes_both_and_a_request_its_receiver(world: World) -> None:
    a, b = world.ids["a"], world.ids["b"]
    seen = []

    def note(kind: str, name: str, **members: object) -> None:
        request = world.sign(name, {"type": kind, **members})
        seen.append(world.run(request, world.source(name)).wakes)

    note("request_handshake", "a", from_node_id=a, to_node_id=b)
    note("report_trust", "b", node_id=b, peer_id=a)
    note("respond_handshake", "b", node_id=b, peer_id=a, accept=True)
    assert seen == [(b,), (b, a), (a,)]


def test_either_side_revokes_both_consents(world: World) -> None:
    world.trust("a", "b")
    world.trust("b", "a")
    world.request("a", "b")
    peer = {"peer_id": world.ids["a"]}
    assert world.about("b", "revoke_trust", **peer) == {"type": "revoke_trust_ok"}
    assert not trusted(world, "a", "b")
    assert world.poll("b") == ([], [])
    assert world.about("b", "revoke_trust", **peer)["error"] == "no trust pair between 2 and 1"
    # One consent again is not enough: the other's went, too.
    world.trust("a", "b")
    assert not trusted(world, "a", "b")


def test_a_rejection_removes_the_consent_of_the_asker(world: World) -> None:
    world.request("a", "b")
    world.respond("b", "a", accept=False)
    world.trust("b", "a")
    assert not trusted(world, "a", "b")
    reply = world.about("a", "poll_handshakes")
    assert [row["accept"] for row in reply["responses"]] == [False]


def test_a_consent_without_counterpart_expires_and_a_pair_does_not(world: World) -> None:
    world.trust("a", "b")
    for pair in (("b", "c"), ("c", "b")):
        world.trust(*pair)
    world.now += CLAIM_TTL + 1
    world.trust("b", "a")
    assert not trusted(world, "a", "b")
    world.now += CLAIM_TTL + 1
    while changes := reap(world.state, world.now):
        assert [change.table for change in changes] == ["claims"]
        world.now += 20
    assert trusted(world, "b", "c")
    assert world.state.claims.of(world.ids["a"]) == {}
    assert world.ids["a"] not in world.state.claims.of(world.ids["b"])


def test_a_request_is_delivered_once_and_again_if_the_reply_was_lost(world: World) -> None:
    world.request("a", "b")
    assert world.poll("b") == ([1], [])
    assert world.poll("b") == ([], [])
    again = Source("198.51.100.2", 41_000)
    assert world.poll("b", again) == ([1], [])
    assert world.poll("b", again) == ([], [])
    world.now += REOFFER + 1
    assert world.poll("b", Source("198.51.100.2", 42_000)) == ([], [])
    # It stays until it is answered: another registry process offers it anew.
    other = World()
    other.ids = world.ids
    other.state = snapshot.load(snapshot_of(world.state), world.now)
    assert other.poll("b") == ([1], [])


def test_a_response_is_delivered_once_and_then_removed(world: World) -> None:
    world.request("a", "b")
    world.respond("b", "a", accept=True)
    assert world.poll("a") == ([], [2])
    assert world.poll("a", Source("198.51.100.1", 41_000)) == ([], [2])
    world.now += REOFFER + 1
    assert world.poll("a") == ([], [])
    assert len(world.state.responses) == 0


def test_a_repeated_request_is_accepted_and_a_different_one_refused(world: World) -> None:
    assert world.request("a", "b")["status"] == "delivered"
    assert world.request("a", "b")["status"] == "delivered"
    assert "already pending from node 1" in world.request("a", "b", "again")["error"]
    world.poll("b")
    assert world.request("a", "b", "again")["status"] == "delivered"
    assert world.poll("b") == ([1], [])


def test_a_held_poll_is_marked_and_counts_invitations(world: World) -> None:
    world.create("a", "net")
    invite: dict[str, Any] = {"inviter_id": 1, "network_id": 1, "target_node_id": 2}
    world.ask("a", "invite_to_network", **invite)
    reply = world.about("b", "poll_handshakes", wait=25)
    assert (reply["waited"], reply["invites"], reply["requests"]) == (True, 1, [])
    assert "waited" not in world.about("b", "poll_handshakes")


def test_the_inbox_is_bounded_in_number_length_and_time(world: World) -> None:
    long = "x" * (MAX_JUSTIFICATION + 1)
    assert "justification too large" in world.request("a", "b", long)["error"]
    names = [f"n{number}" for number in range(MAX_INBOX + 1)]
    world.join(*names)
    replies = [world.request(name, "b") for name in names]
    assert "handshake inbox full for node 2" in replies[-1]["error"]
    assert all("error" not in reply for reply in replies[:-1])
    world.now += INBOX_TTL + 1
    reap(world.state, world.now)
    assert world.poll("b") == ([], [])


def test_a_request_for_a_silent_node_waits_for_it(world: World) -> None:
    world.now += 10_000
    reap(world.state, world.now)
    world.now += 1
    world.about("a", "heartbeat")
    assert world.request("a", "b")["status"] == "delivered"
    assert world.poll("b") == ([1], [])


@pytest.mark.parametrize(
    ("kind", "members", "text"),
    [
        ("request_handshake", {"from_node_id": 1, "to_node_id": 2}, "handshake request requires"),
        ("respond_handshake", {"node_id": 1, "peer_id": 2}, "handshake response requires"),
        ("report_trust", {"node_id": 1, "peer_id": 2}, "signature required"),
        ("revoke_trust", {"node_id": 1, "peer_id": 2}, "signature required"),
        ("poll_handshakes", {"node_id": 1}, "signature required"),
    ],
)
def test_every_trust_request_needs_a_signature(
    world: World, kind: str, members: dict[str, Any], text: str
) -> None:
    assert text in world.ask("a", kind, sign=False, **members)["error"]
    assert "signature verification failed" in world.ask("a", kind, sign="c", **members)["error"]
