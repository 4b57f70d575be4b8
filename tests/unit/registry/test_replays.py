"""A captured request cannot be sent again, in bounded memory."""

from __future__ import annotations

from typing import Any

import pytest
from tests.support.registry import World, challenge_of, identity, snapshot_of

from pilotstack.registry.model.source import Source
from pilotstack.registry.model.transient import RecentSignatures
from pilotstack.registry.protocol import values
from pilotstack.registry.protocol.requests.base import NOT_NOW
from pilotstack.registry.rules.freshness import MAX_PLAIN, WINDOW
from pilotstack.registry.storage import snapshot


def plain(name: str, request: dict[str, object]) -> dict[str, object]:
    """A request that is signed without the time."""
    signature = identity(name).sign(challenge_of(request).encode())
    return request | {"signature": values.encode_base64(signature)}


CAPTURED: dict[str, dict[str, Any]] = {
    "promote_member": {"target_node_id": 2},
    "demote_member": {"target_node_id": 2},
    "kick_member": {"target_node_id": 3},
    "transfer_ownership": {"new_owner_id": 2},
    "set_member_tags": {"target_node_id": 2, "tags": ["x"]},
    "set_network_policy": {"max_members": 100},
    "set_expr_policy": {"expr_policy": {"version": 1, "rules": [1]}},
    "rename_network": {"name": "renamed"},
    "set_join_token": {"token": "sesame", "ttl": 60},
    "create_network": {"name": "second"},
    "delete_network": {},
}


@pytest.fixture
def club() -> World:
    world = World()
    world.join("owner", "member", "other")
    network = world.create("owner", "club", join_rule="token", token="known")
    for name in ("member", "other"):
        world.about(name, "join_network", network_id=network, token="known")
    return world


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
