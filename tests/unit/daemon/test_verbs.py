"""Verbs of the daemon's socket, without a socket, a core or a registry."""

from __future__ import annotations

import json
import time
from collections import Counter
from typing import TYPE_CHECKING, Any, cast

import anyio
import anyio.lowlevel
import pytest
import trio.testing
from msgspec import UNSET
from tests.support.verbs import ask, ask_for

from pilotstack import Address
from pilotstack.daemon.identity import Identity
from pilotstack.daemon.names import CACHE, Names
from pilotstack.daemon.peers import Outcome
from pilotstack.daemon.policies import Policies
from pilotstack.daemon.public_endpoint import Announced
from pilotstack.daemon.records import OUTAGE, Records
from pilotstack.daemon.registrar import Registrar
from pilotstack.daemon.state import NodeState
from pilotstack.daemon.verbs.control import Control
from pilotstack.daemon.verbs.networks import BURST, NetworkVerbs
from pilotstack.daemon.verbs.node import MAX_ROWS, Handshakes, NodeVerbs
from pilotstack.daemon.verbs.routes import RouteVerbs
from pilotstack.daemon.verbs.table import Table
from pilotstack.errors import (
    ConnectionFailed,
    InvalidArgument,
    NotFound,
    NotRunning,
    PermissionDenied,
    Unavailable,
)
from pilotstack.ipc import codes
from pilotstack.ipc import network_requests as n
from pilotstack.ipc import requests as r
from pilotstack.ipc.answers import RegistryInfo, Relayed
from pilotstack.registry.client import Record, Registration

if TYPE_CHECKING:
    from pilotstack.daemon.rotation import Rotation
    from pilotstack.registry.client import RegistryClient

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    """Virtual time: a registry that hangs costs nothing."""
    return "trio", {"clock": trio.testing.MockClock(autojump_threshold=0)}


BEACON = "192.0.2.8:9001"


def connection(number: int, state: str = "ESTABLISHED") -> dict[str, object]:
    return {
        "id": number,
        "state": state,
        "local_port": 7,
        "remote_addr": "0:0000.0000.0002",
        "remote_port": 40_000,
        "srtt_ns": 1_234_567,
        "rttvar_ns": 0,
        "min_rtt_ns": 1_000_000,
    }


class Core:
    """Remembers what it is told, in order."""

    def __init__(self) -> None:
        self.told: list[tuple[object, ...]] = []
        self.peers = [
            {
                "node_id": 2,
                "endpoint": "192.0.2.1:4000",
                "encrypted": True,
                "authenticated": True,
                "path": "relay",
                "beacon": BEACON,
                "rtt": 0.0301,
                "mtu": 1400,
                "loss": 0.01,
                "path_age": 12.5,
                "candidates": [("192.0.2.1:4000", "reflexive", "failed", "no answer")],
            }
        ]
        self.connections = [connection(1)]
        #: Peers that answer when a tunnel to them is wanted.
        self.answering: set[int] = set()
        #: How lookups of peers end, and have ended.
        self.found: dict[int, Exception | None] = {}
        self.outcomes: dict[int, Outcome] = {}

    def set_address(self, network: int, node: int) -> None:
        self.told.append(("address", network, node))

    def set_identity(self, seed: bytes) -> None:
        self.told.append(("identity", seed))

    def set_private(self, is_private: bool) -> None:
        self.told.append(("private", is_private))

    def set_network_policy(self, network: int, ports: list[int]) -> None:
        self.told.append(("policy", network, ports))

    def set_networks(self, networks: list[int]) -> None:
        self.told.append(("networks", networks))

    def send_datagram(self, network: int, node: int, port: int, data: bytes) -> None:
        self.told.append(("datagram", network, node, port, data))

    def outcome(self, node: int) -> Outcome | None:
        return self.outcomes.get(node)

    def open_tunnel(self, node: int) -> None:
        self.told.append(("open", node))
        if node in self.found:
            self.outcomes[node] = Outcome(time.perf_counter(), self.found[node])
        if node in self.answering:
            self.peers.append(
                {"node_id": node, "endpoint": "192.0.2.3:1", "authenticated": True, "path": "lan"}
            )

    def snapshot(self) -> dict[str, object]:
        counters = (
            *("connections", "ports", "peers", "encrypted_peers", "bytes_sent", "bytes_recv"),
            *("pkts_sent", "pkts_recv", "opened", "ptb_recv", "recv_held", "send_held"),
            *("dropped_unauthentic", "dropped_replayed", "moved", "path_switches"),
        )
        numbers: dict[str, object] = {name: place for place, name in enumerate(counters)}
        return numbers | {"peer_list": self.peers, "conn_list": self.connections}


class Registry:
    """A registry that answers each request with what it is told to."""

    def __init__(self) -> None:
        self.asked: list[tuple[object, ...]] = []
        self.replies: dict[str, dict[str, object]] = {}
        self.error: Exception | None = None
        self.hangs = False
        self.registration = Registration(5, Address(0, 5), "agent-a", "")
        self.networks = frozenset({0, 3})
        self.latest = 0

    def __getattr__(self, name: str) -> Any:
        async def request(*arguments: object, **named: object) -> dict[str, object]:
            self.asked.append((name, *arguments, *named.values()))
            if self.hangs:
                await anyio.sleep_forever()
            if self.error:
                raise self.error
            return self.replies.get(name, {}) | {"type": f"{name}_ok"}

        return request

    async def register(self, endpoint: str, **named: object) -> Registration:
        self.asked.append(("register", endpoint, named["hostname"]))
        if self.error:
            raise self.error
        return self.registration

    async def heartbeat(self) -> int:
        self.asked.append(("heartbeat",))
        return self.latest

    async def profile(self, node: int) -> Record:
        return Record(node, b"\1" * 32, True, "", "", self.networks)

    async def set_visibility(self, *, public: bool) -> dict[str, object]:
        self.asked.append(("set_visibility", public))
        if self.error:
            raise self.error
        return {"node_id": 5, "visibility": "public" if public else "private", "extra": 1}


class Followers:
    """Remembers what it is told, in order."""

    def __init__(self) -> None:
        self.told: list[tuple[object, ...]] = []

    def identity_changed(self, identity: Identity) -> None:
        self.told.append(("identity", identity))

    def id_known(self, node_id: int, *, is_new: bool) -> None:
        self.told.append(("id", node_id, is_new))

    def networks_changed(self, networks: frozenset[int]) -> None:
        self.told.append(("networks", networks))

    def registered(self) -> None:
        self.told.append(("registered",))


class Node:
    """A node with nothing real around it."""

    def __init__(self) -> None:
        self.core, self.registry, self.followers = Core(), Registry(), Followers()
        self.state = NodeState(Identity.generate(), hostname="agent-a", owner="a@example.com")
        client = cast("RegistryClient", self.registry)
        self.registrar = Registrar(
            self.state,
            client,
            self.core,
            Records(client),
            cast("Rotation", None),
            lambda: Announced("192.0.2.9:4000", ("10.0.0.9:4000",)),
            self.followers,
        )
        self.names = Names(client)
        handshakes = Handshakes(
            lambda: 2, lambda: Relayed(1, 0), lambda: Counter(expired=3), lambda: {"busy": 4}
        )
        self.verbs = NodeVerbs(
            self.registrar,
            self.names,
            self.core,
            handshakes,
            beacons=lambda: [BEACON],
            is_kept=True,
            registry=RegistryInfo("192.0.2.1:9000"),
        )
        self.refreshed = 0
        self.policies = Policies(client, self.core)
        self.joined: set[int] = set()
        self.networks = NetworkVerbs(self.state, client, self.core, self, "")

    async def refresh_networks(self) -> None:
        self.refreshed += 1

    async def is_member(self, network: int) -> bool:
        return network in self.state.networks | self.joined


@pytest.fixture
def node() -> Node:
    return Node()


# This node


async def test_info_tells_what_core_and_registrar_know(node: Node) -> None:
    await node.registrar.register()
    info = await ask_for(node.verbs, r.GetInfo())
    assert (info["node_id"], info["address"]) == (5, "0:0000.0000.0005")
    assert info["endpoint"] == "192.0.2.9:4000"
    assert info["networks"] == [{"network_id": 3, "address": "3:0003.0000.0005"}]
    assert info["authenticated_peers"] == 1
    assert info["handshake_pending_count"] == 2
    assert info["dropped"] == {
        "unauthentic": 12,
        "replayed": 13,
        "handshake_expired": 3,
        "service_busy": 4,
    }
    assert info["tunnel_encryption_failure"] == 12
    assert info["conn_list"][0]["srtt_ms"] == 1.235
    assert "conn_list_truncated" not in info


async def test_info_shows_open_connections_first_and_says_when_it_shows_not_all(
    node: Node,
) -> None:
    node.core.connections = [connection(i, "TIME-WAIT") for i in range(MAX_ROWS)]
    node.core.connections.append(connection(9_999, "FIN-WAIT-2"))
    info = await ask_for(node.verbs, r.GetInfo())
    assert len(info["conn_list"]) == MAX_ROWS
    assert (info["conn_list"][0]["id"], info["conn_list"][0]["state"]) == (9_999, "FIN_WAIT")
    assert info["conn_list_truncated"] is True
    assert "peer_list_truncated" not in info


async def test_health_is_a_part_of_info(node: Node) -> None:
    health = await ask_for(node.verbs, r.GetHealth())
    assert health["status"] == "ok"
    info = await ask_for(node.verbs, r.GetInfo())
    for name in health.keys() & info.keys():
        assert health[name] == info[name]


async def test_registering_tells_core_and_followers_in_order(node: Node) -> None:
    node.state.tags = ("builder",)
    answer = await ask_for(node.verbs, r.Register())
    assert (answer["node_id"], answer["hostname"]) == (5, "agent-a")
    assert "hostname_error" not in answer
    assert node.followers.told == [
        ("id", 5, True),
        ("networks", frozenset({0, 3})),
        ("registered",),
    ]
    assert node.core.told == [
        ("address", 0, 5),
        ("private", True),
        ("private", True),
        ("policy", 3, []),
        ("networks", [3]),
    ]
    assert ("set_tags", ["builder"]) in node.registry.asked
    assert node.state.is_registered


async def test_a_refused_hostname_is_given_up(node: Node) -> None:
    node.registry.registration = Registration(5, Address(0, 5), "", "already in use")
    answer = await ask_for(node.verbs, r.Register())
    assert (answer["hostname"], answer["hostname_error"]) == ("", "already in use")
    assert node.state.hostname == ""


async def test_a_node_closes_before_the_registry_knows_and_opens_after_that(node: Node) -> None:
    node.registry.error = ConnectionFailed("no registry")
    with pytest.raises(ConnectionFailed):
        await ask_for(node.verbs, r.SetVisibility(True))
    assert node.core.told == []
    with pytest.raises(ConnectionFailed):
        await ask_for(node.verbs, r.SetVisibility(False))
    assert node.core.told == [("private", True)]


async def test_members_that_an_answer_does_not_have_are_not_passed_on(node: Node) -> None:
    answer = await ask_for(node.verbs, r.SetVisibility(True))
    assert answer == {"node_id": 5, "visibility": "public", "type": "set_visibility_ok"}


async def test_a_malformed_reply_of_the_registry_is_its_failure(node: Node) -> None:
    node.registry.replies["set_hostname"] = {"node_id": "five"}
    with pytest.raises(ConnectionFailed, match="malformed reply"):
        await ask_for(node.verbs, r.SetHostname("agent-b"))
    assert node.state.hostname == "agent-a"


async def test_heartbeats_of_a_deregistered_node_are_not_taken_for_a_loss(node: Node) -> None:
    await node.registrar.register()
    node.registry.error = ConnectionFailed("no registry")
    with pytest.raises(ConnectionFailed):
        await ask_for(node.verbs, r.Deregister())
    assert not node.state.is_registered


@pytest.mark.parametrize("latest", [0, 99, 100, 101])
async def test_a_node_whose_identity_was_started_elsewhere_leaves_that_one_registered(
    node: Node, latest: int
) -> None:
    node.registry.registration = Registration(5, Address(0, 5), "", "", announced_at=100)
    await node.registrar.register()
    node.registry.latest = latest
    await node.registrar.leave()
    has_left = "deregister" in [name for name, *_ in node.registry.asked]
    assert has_left is (latest <= 100)


async def test_a_node_has_three_tags_at_most(node: Node) -> None:
    with pytest.raises(InvalidArgument, match="maximum 3 tags"):
        await ask_for(node.verbs, r.SetTags(("a", "b", "c", "d")))
    node.registry.replies["set_tags"] = {"node_id": 5, "tags": ["a"]}
    await ask_for(node.verbs, r.SetTags(("a",)))
    assert node.state.tags == ("a",)


async def test_a_name_outlives_an_outage_of_the_registry(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr("pilotstack.daemon.names.time.monotonic", lambda: now)
    node.registry.replies["resolve_hostname"] = {"node_id": 2, "address": "0:0000.0000.0002"}
    found = await ask_for(node.verbs, r.ResolveHostname("agent-b"))
    assert found["address"] == "0:0000.0000.0002"
    await ask_for(node.verbs, r.ResolveHostname("agent-b"))
    assert len(node.registry.asked) == 1
    node.registry.error = ConnectionFailed("no registry")
    now += CACHE
    assert await ask_for(node.verbs, r.ResolveHostname("agent-b")) == found
    now += OUTAGE + 1
    with pytest.raises(ConnectionFailed):
        await ask_for(node.verbs, r.ResolveHostname("agent-b"))


async def test_a_driver_that_enrolls_in_another_way_is_told_so(node: Node) -> None:
    with pytest.raises(Unavailable, match="only commitments"):
        await ask(node.verbs, codes.ENROLL_RECOVERY, b'{"email":"a@example.com"}')
    node.registry.replies["enroll_recovery"] = {"node_id": 5, "enrolled": False}
    answer = await ask_for(node.verbs, r.EnrollRecovery(""))
    assert answer["enrolled"] is False
    assert node.registry.asked == [("enroll_recovery", "")]


# Networks


async def test_a_change_of_membership_is_followed_by_a_look_at_it(node: Node) -> None:
    node.registry.replies["join_network"] = {"network_id": 3, "address": "3:0003.0000.0005"}
    answer = await ask_for(node.networks, n.JoinNetwork(3, "secret"))
    assert answer["address"] == "3:0003.0000.0005"
    assert node.registry.asked == [("join_network", 3, "secret")]
    assert node.refreshed == 1


async def test_a_broadcast_goes_to_members_that_are_online_and_leaves_in_bursts(
    node: Node,
) -> None:
    node.state.node_id, node.state.networks = 5, frozenset({0, 3})
    rows = [{"node_id": number, "offline": number == 7} for number in range(1, BURST + 10)]
    node.registry.replies["list_nodes"] = {"nodes": [*rows, "no row", {"offline": False}]}
    begin = anyio.current_time()
    answer = await ask_for(node.networks, n.Broadcast(3, 1000, "", b"news"))
    assert answer == {"network_id": 3, "port": 1000, "bytes": 4, "members": BURST + 7}
    assert len(node.core.told) == BURST + 7
    assert {told[2] for told in node.core.told}.isdisjoint({5, 7})
    assert anyio.current_time() > begin


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        (n.Broadcast(0, 1000, "", b"x"), PermissionDenied),
        (n.Broadcast(4, 1000, "", b"x"), PermissionDenied),
        (n.Broadcast(3, 0, "", b"x"), InvalidArgument),
    ],
)
async def test_a_broadcast_needs_a_network_of_ours_and_a_port(
    node: Node, request_: n.Broadcast, error: type[Exception]
) -> None:
    node.state.networks = frozenset({0, 3})
    with pytest.raises(error):
        await ask_for(node.networks, request_)
    assert node.core.told == []


async def test_a_membership_made_aside_counts_for_a_broadcast(node: Node) -> None:
    node.joined.add(8)
    node.registry.replies["list_nodes"] = {"nodes": []}
    assert (await ask_for(node.networks, n.Broadcast(8, 1000, "", b"x")))["members"] == 0


async def test_a_broadcast_to_a_port_that_the_network_does_not_allow_is_refused(
    node: Node,
) -> None:
    node.state.networks = frozenset({0, 3})
    node.registry.replies["get_network_policy"] = {"allowed_ports": [7]}
    await node.policies.refresh(3)
    with pytest.raises(PermissionDenied, match="does not allow port 1000"):
        await ask_for(node.networks, n.Broadcast(3, 1000, "", b"x"))
    node.registry.replies["list_nodes"] = {"nodes": []}
    assert (await ask_for(node.networks, n.Broadcast(3, 7, "", b"x")))["members"] == 0


# Policies of networks


async def test_the_core_is_told_the_policies_before_the_networks(node: Node) -> None:
    node.registry.replies["get_network_policy"] = {"allowed_ports": [80, 7, "x", -1, 70_000, True]}
    await node.registrar.register()
    told = [row for row in node.core.told if row[0] in {"policy", "networks"}]
    assert told == [("policy", 3, [7, 80]), ("networks", [3])]


async def test_a_policy_that_cannot_be_asked_for_stays_and_the_core_is_answered(
    node: Node,
) -> None:
    node.registry.replies["get_network_policy"] = {"allowed_ports": [7]}
    await node.policies.refresh(3)
    node.registry.error = ConnectionFailed("away")
    node.policies._known[3] = (-9.0, (7,))
    await node.policies.refresh(3)
    assert node.core.told == [("policy", 3, [7])] * 2


async def test_a_policy_is_not_asked_for_again_at_once(node: Node) -> None:
    for _ in range(3):
        await node.policies.refresh(3)
    assert node.registry.asked == [("get_network_policy", 3)]


async def test_a_caller_on_a_network_that_we_were_added_to_is_let_in(node: Node) -> None:
    await node.registrar.register()
    node.registry.networks = frozenset({0, 3, 8})
    # A flood of calls costs one question a second.
    assert not await node.registrar.may_call(8)
    node.registrar._learned_at = -9.0
    assert await node.registrar.may_call(8)
    assert node.state.memberships == [3, 8]


async def test_limits_of_a_network_are_shown_and_set(node: Node) -> None:
    limits = {"network_id": 3, "max_members": 0, "allowed_ports": [7], "description": ""}
    node.registry.replies["set_network_policy"] = limits
    answer = await ask_for(node.networks, n.SetLimits(3, allowed_ports=(7,)))
    assert answer == limits | {"type": "set_network_policy_ok"}
    assert node.registry.asked == [("set_network_policy", 3, UNSET, (7,), UNSET, "")]
    node.registry.replies["get_member_role"] = {
        "network_id": 3,
        "target_node_id": 2,
        "role": "admin",
    }
    assert (await ask_for(node.networks, n.GetRole(3, 2)))["role"] == "admin"


async def test_a_daemon_with_a_token_broadcasts_for_those_who_know_it(node: Node) -> None:
    client = cast("RegistryClient", node.registry)
    verbs = NetworkVerbs(node.state, client, node.core, node, "secret")
    node.state.networks = frozenset({3})
    with pytest.raises(PermissionDenied, match="invalid admin token"):
        await ask_for(verbs, n.Broadcast(3, 1000, "guess", b"x"))
    node.registry.replies["list_nodes"] = {"nodes": []}
    assert (await ask_for(verbs, n.Broadcast(3, 1000, "secret", b"x")))["members"] == 0


# Ways


async def test_preferring_the_direct_way_asks_anew(node: Node) -> None:
    found: list[int] = []

    async def find_again(peer: int) -> None:
        if peer == 9:
            raise NotFound("no such node")
        found.append(peer)

    verbs = RouteVerbs(find_again, node.core, node.core.open_tunnel, node.core.outcome)
    assert await ask_for(verbs, r.PreferDirect(2)) == {
        "had_tunnel": True,
        "node_id": 2,
        "pila_pushed": True,
        "resolve_error": "",
        "was_relay_active": True,
        "was_relay_pinned": False,
    }
    assert found == [2]
    answer = await ask_for(verbs, r.PreferDirect(9))
    assert (answer["had_tunnel"], answer["resolve_error"]) == (False, "no such node")
    with pytest.raises(InvalidArgument):
        await ask(verbs, codes.PREFER_DIRECT, b"\0\0")


async def nothing(_: int) -> None:
    await anyio.lowlevel.checkpoint()


async def test_peers_are_listed_with_the_ways_that_were_considered(node: Node) -> None:
    node.core.peers.append({"node_id": 3})
    verbs = RouteVerbs(nothing, node.core, node.core.open_tunnel, node.core.outcome)
    answer = await ask_for(verbs, r.ListPeers())
    assert (answer["total"], [row["node_id"] for row in answer["peers"]]) == (2, [2, 3])
    (row,) = (await ask_for(verbs, r.ListPeers(2)))["peers"]
    assert (row["path"], row["relay"], row["beacon"], row["rtt_ms"]) == (
        *("relay", True, BEACON),
        30.1,
    )
    assert row["candidates"] == [
        {
            "endpoint": "192.0.2.1:4000",
            "kind": "reflexive",
            "state": "failed",
            "reason": "no answer",
        }
    ]
    info = await ask_for(node.verbs, r.GetInfo())
    assert all("candidates" not in row for row in info["peer_list"])
    assert (info["paths"], info["relay_peer_count"]) == ({"relay": 1}, 1)
    assert info["path_events"] == {"path_switches": 15}


async def test_an_answer_about_peers_fits_a_frame(node: Node) -> None:
    way = ("[2001:db8:1111:2222:3333:4444:5555:6666]:65535", "peer_reflexive", "failed", "x" * 80)
    row = node.core.peers[0] | {"candidates": [way] * 100}
    node.core.peers = [row | {"node_id": 4_000_000_000 + n} for n in range(2000)]
    verbs = RouteVerbs(nothing, node.core, node.core.open_tunnel, node.core.outcome)
    answer = await ask_for(verbs, r.ListPeers())
    assert answer["total"] == 2000
    assert len(json.dumps(answer, separators=(",", ":"))) < codes.MAX_FRAME
    info = await ask_for(node.verbs, r.GetInfo())
    assert len(json.dumps(info["peer_list"], separators=(",", ":"))) < codes.MAX_FRAME / 2


async def test_a_trace_tells_what_each_step_took(node: Node) -> None:
    node.core.answering = {6, 7}
    node.core.found = {7: None, 8: None, 9: NotFound("no such node"), 10: OSError("no name")}
    verbs = RouteVerbs(nothing, node.core, node.core.open_tunnel, node.core.outcome)
    answer = await ask_for(verbs, r.Trace(7))
    assert not answer["is_warm"]
    assert [(phase["name"], phase["detail"]) for phase in answer["phases"]] == [
        ("resolve", "asked the registry"),
        ("tunnel", "direct to 192.0.2.3:1"),
    ]
    assert all(phase["ms"] >= 0 for phase in answer["phases"])
    assert (await ask_for(verbs, r.Trace(7)))["is_warm"]
    assert node.core.told == [("open", 7)]
    assert (await ask_for(verbs, r.Trace(6)))["phases"][0]["detail"] == "known"
    with pytest.raises(ConnectionFailed, match="does not answer"):
        await ask_for(verbs, r.Trace(8))
    with pytest.raises(NotFound):
        await ask_for(verbs, r.Trace(9))
    with pytest.raises(ConnectionFailed, match="no name"):
        await ask_for(verbs, r.Trace(10))


# All


async def test_verbs_that_nobody_answers_are_unknown(node: Node) -> None:
    with pytest.raises(Unavailable, match="unknown command: 0x7F"):
        await ask(node.verbs, 0x7F)
    with pytest.raises(Unavailable, match="unknown command: 0x1F"):
        await ask_for(node.verbs, n.ListNetworks())


async def test_a_registry_that_hangs_is_named_before_drivers_give_up(node: Node) -> None:
    node.registry.hangs = True
    begin = anyio.current_time()
    with pytest.raises(ConnectionFailed, match="did not answer in time"):
        await ask_for(node.verbs, r.SetHostname("agent-b"))
    assert anyio.current_time() - begin == 25.0


async def test_existing_drivers_know_the_answer_to_a_broadcast_without_content(
    node: Node,
) -> None:
    node.state.networks = frozenset({3})
    node.registry.replies["list_nodes"] = {"nodes": []}
    table = Table()
    node.networks.add_to(table)
    payload = n.Broadcast(3, 1000, "", b"x").pack()
    control = Control(table)
    assert await control.answer(codes.BROADCAST, payload, has_id=False) == b"\x2a"
    assert len(await control.answer(codes.BROADCAST, payload, has_id=True)) > 1


async def test_nothing_is_answered_before_the_node_is_registered(node: Node) -> None:
    is_starting = True
    table = Table()
    node.verbs.add_to(table)
    control = Control(table, lambda: is_starting)
    for command in (codes.INFO, codes.HEALTH, codes.SET_TAGS):
        with pytest.raises(NotRunning, match="starting"):
            await control.answer(command, b"", has_id=False)
    await node.registrar.register()
    is_starting = False
    assert await control.answer(codes.INFO, b"", has_id=False)
