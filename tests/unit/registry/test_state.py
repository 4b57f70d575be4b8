"""The registry's rules, without sockets or files."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from tests.support.registry import World, apply, snapshot_of

from pilotstack.daemon.identity import Identity
from pilotstack.registry.model.rows import Node
from pilotstack.registry.model.source import Source
from pilotstack.registry.model.state import State
from pilotstack.registry.protocol.values import encode_base64
from pilotstack.registry.storage import snapshot
from pilotstack.types import Address

ALICE, BOB = Identity(b"a" * 32), Identity(b"b" * 32)
HOME = Source("198.51.100.7", 50_000)


def signed(identity: Identity, challenge: str) -> str:
    return encode_base64(identity.sign(challenge.encode()))


def register(
    state: State, identity: Identity, *, sign: bool = True, **members: Any
) -> dict[str, Any]:
    key = encode_base64(identity.public_key)
    listen = members.pop("listen_addr", "0.0.0.0:4000")
    source = members.pop("source", HOME)
    request = {"type": "register", "public_key": key, "listen_addr": listen, **members}
    if sign:
        request["signature"] = signed(identity, f"register:{listen}:{key}")
    return apply(state, request, source, 100.0).reply


def ask(
    state: State, kind: str, identity: Identity, challenge: str, **members: Any
) -> dict[str, Any]:
    request = {"type": kind, "signature": signed(identity, challenge), **members}
    return apply(state, request, HOME, 100.0).reply


def test_a_key_keeps_its_id() -> None:
    state = State()
    assert register(state, ALICE)["node_id"] == 1
    assert register(state, BOB)["node_id"] == 2
    again = register(state, ALICE)
    assert (again["node_id"], again["address"]) == (1, "0:0000.0000.0001")
    ask(state, "deregister", ALICE, "deregister:1", node_id=1)
    assert "not found" in apply(state, {"type": "lookup", "node_id": 1}, HOME, 0).reply["error"]
    assert register(state, ALICE)["node_id"] == 1


def test_the_endpoint_is_where_the_request_came_from_unless_a_public_one_is_named() -> None:
    state = State()
    register(state, ALICE, listen_addr="0.0.0.0:4000")
    assert state.nodes[1].endpoint == "198.51.100.7:4000"
    register(state, ALICE, listen_addr="8.8.8.8:4001")
    assert state.nodes[1].endpoint == "8.8.8.8:4001"


@pytest.mark.parametrize(
    "port", ["9" * 5000, "0" * 4999 + "1", "65536", "0", "-1", "", "\u0661", "1e3"]
)
def test_a_text_that_is_no_port_counts_as_the_port_of_the_request(port: str) -> None:
    state = State()
    assert register(state, ALICE, listen_addr=f"8.8.8.8:{port}")["node_id"] == 1
    assert state.nodes[1].endpoint == "198.51.100.7:50000"
    beacon = {"type": "beacon_register", "beacon_id": 1, "addr": f"198.51.100.7:{port}"}
    assert "error" not in apply(state, beacon, HOME, 100.0).reply
    assert state.beacons[1].addr == "198.51.100.7:50000"


def test_an_unsigned_registration_cannot_move_a_node() -> None:
    state = State()
    register(state, ALICE, sign=False)
    elsewhere = Source("203.0.113.9", 1)
    register(state, ALICE, sign=False, source=elsewhere)
    assert state.nodes[1].endpoint == "198.51.100.7:4000"
    # A signed request on the same connection is the proof.
    request = {"type": "heartbeat", "node_id": 1, "signature": signed(ALICE, "heartbeat:1")}
    apply(state, request, elsewhere, 101.0)
    assert state.nodes[1].endpoint == "203.0.113.9:4000"
    register(state, ALICE)
    assert "unsigned" in register(state, ALICE, sign=False)["error"]


def test_names_are_unique_valid_and_refused_without_failing_the_registration() -> None:
    state = State()
    assert register(state, ALICE, hostname="agent")["hostname"] == "agent"
    taken = register(state, BOB, hostname="agent")
    assert (taken["node_id"], "already in use" in taken["hostname_error"]) == (2, True)
    for name in ("Agent", "-a", "a" * 64, "localhost", "abc\n"):
        assert "hostname_error" in register(state, BOB, hostname=name)
    assert (
        ask(state, "set_hostname", BOB, "set_hostname:2", node_id=2, hostname="bob")["hostname"]
        == "bob"
    )
    assert ask(state, "resolve_hostname", BOB, "", hostname="bob")["node_id"] == 2


def test_a_private_endpoint_is_not_disclosed() -> None:
    state = State()
    register(state, ALICE)
    register(state, BOB)
    found = apply(state, {"type": "lookup", "node_id": 2}, HOME, 0).reply
    assert "real_addr" not in found
    denied = ask(state, "resolve", ALICE, "resolve:1:2", node_id=2, requester_id=1)
    assert "private" in denied["error"]
    ask(state, "set_visibility", BOB, "set_visibility:2", node_id=2, public=True)
    told = ask(state, "resolve", ALICE, "resolve:1:2", node_id=2, requester_id=1)
    assert told["real_addr"] == "198.51.100.7:4000"
    forged = ask(state, "resolve", BOB, "resolve:1:2", node_id=2, requester_id=1)
    assert forged["error"] == "signature verification failed"


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        ({}, 'unknown message type: ""'),
        ({"type": "fly"}, 'unknown message type: "fly"'),
        ({"type": "register"}, "registration requires public_key"),
        ({"type": "register", "public_key": "@@@"}, "invalid public key"),
        ({"type": "heartbeat", "node_id": 9}, "node 9: node not found"),
        ({"type": "lookup", "node_id": True}, "node 0: node not found"),
        ({"type": "heartbeat", "node_id": 1}, "signature required for authenticated node"),
        ({"type": "heartbeat", "node_id": 1, "signature": "x"}, "invalid signature encoding"),
        ({"type": "list_nodes", "network_id": 0}, "listing backbone nodes is not permitted"),
    ],
)
def test_refusals_have_the_texts_that_clients_search(request_: dict[str, Any], text: str) -> None:
    state = State()
    register(state, ALICE)
    reply = apply(state, request_, HOME, 0).reply
    assert reply["type"] == "error"
    assert text in reply["error"]


def test_an_undone_change_leaves_no_trace() -> None:
    state = State()
    register(state, ALICE, hostname="first")
    before = (dict(state.nodes), dict(state.by_key), dict(state.by_hostname))
    key = encode_base64(BOB.public_key)
    request = {"type": "register", "public_key": key, "listen_addr": ":1", "hostname": "second"}
    rename = {"type": "set_hostname", "node_id": 1, "hostname": "renamed"}
    rename["signature"] = signed(ALICE, "set_hostname:1")
    outcomes = [apply(state, request, HOME, 0), apply(state, rename, HOME, 0)]
    for outcome in reversed(outcomes):
        for change in reversed(outcome.changes):
            state.undo(change)
    assert (state.nodes, state.by_key, state.by_hostname) == before


@pytest.mark.parametrize("node_id", [0, 1, 42, 0xFFFF, 0x1_0000, 0xDEAD_BEEF, 0xFFFF_FFFF])
def test_a_node_knows_its_address(node_id: int) -> None:
    assert Node(node_id=node_id, public_key=b"").address == str(Address(0, node_id))


def test_a_node_that_shares_the_key_of_an_older_one_does_not_take_it_over() -> None:
    """Registries that index keys by their text left such nodes."""
    world = World()
    world.join("a")
    rows = snapshot_of(world.state)
    rows["nodes"]["2"] = rows["nodes"]["1"] | {"id": 2}
    state = snapshot.load(rows, 0.0)
    key = state.nodes[1].public_key
    state.put("nodes", 2, msgspec.structs.replace(state.nodes[2], hostname="other"))
    assert (state.by_key, state.shadowed) == ({key: 1}, {2})
    state.put("nodes", 2, msgspec.structs.replace(state.nodes[2], public_key=b"n" * 32))
    assert (state.by_key, state.shadowed) == ({key: 1, b"n" * 32: 2}, set())
