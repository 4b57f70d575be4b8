"""``pilotctl network`` and ``broadcast``: three private agents, from nothing to a network of two and
back, in steps that go on where the one before ended."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

from inline_snapshot import snapshot

from pilotstack import sync

if TYPE_CHECKING:
    from tests.support.pilotctl import Pilotctl

    from pilotstack.testing import Network


def create(a: Pilotctl) -> None:
    assert a("network", "create", "lab", "--token", "open-sesame") == snapshot(
        '{"data": {"enterprise": false, "name": "lab", "network_id": 1, "type": "create_network_ok"}, "status": "ok"}\n'
    )
    assert a.table("network", "create", "--name", "club", "--join-rule", "invite") == snapshot(
        "network 2 is club\n"
    )
    assert a("network", "create", "lab") == snapshot("""\
{"code": "already_exists", "hint": "choose another name", "message": "network \\"lab\\" already exists", "status": "error"}
--- exit 4 ---
""")
    assert a.table("network", "create", "backbone") == snapshot("""\
--- stderr ---
error: network name "backbone" is reserved
--- exit 2 ---
""")
    assert a("network", "create", "No Such Name") == snapshot("""\
{"code": "invalid_argument", "hint": "use a to z, 0 to 9 and hyphens, with none at the beginning or end", "message": "network name must be lowercase alphanumeric with hyphens, start/end with alphanumeric", "status": "error"}
--- exit 2 ---
""")
    assert a("network", "create") == snapshot("""\
{"code": "invalid_argument", "hint": "pilotctl network create NAME", "message": "a network needs a name", "status": "error"}
--- exit 2 ---
""")


def list(b: Pilotctl) -> None:
    assert b("network", "list") == snapshot(
        '{"data": {"networks": [{"created": [unix], "enterprise": false, "id": 0, "join_rule": "open", "members": 3, "name": "backbone"}, {"created": [unix], "enterprise": false, "id": 1, "join_rule": "token", "name": "lab"}], "type": "list_networks_ok"}, "status": "ok"}\n'
    )
    assert b.table("network", "list") == snapshot("""\
networks
┏━━━━┳━━━━━━━━━━┳━━━━━━━━━━━━━━┳━━━━━━━━━┓
┃ id ┃ name     ┃ who may join ┃ members ┃
┡━━━━╇━━━━━━━━━━╇━━━━━━━━━━━━━━╇━━━━━━━━━┩
│ 0  │ backbone │ open         │ 3       │
│ 1  │ lab      │ token        │         │
└────┴──────────┴──────────────┴─────────┘
""")


def join(b: Pilotctl, c: Pilotctl) -> None:
    assert b("network", "join", 1, "--token", "wrong") == snapshot("""\
{"code": "permission_denied", "hint": "give the network's token with --token", "message": "invalid token for network 1", "status": "error"}
--- exit 5 ---
""")
    assert b.table("network", "join", 1, "--token", "open-sesame") == snapshot(
        "this node is 1:0001.0000.0002\n"
    )
    assert b("network", "join", 1, "--token", "open-sesame") == snapshot("""\
{"code": "already_exists", "message": "node 2 already in network 1", "status": "error"}
--- exit 4 ---
""")
    assert c("network", "join", 2) == snapshot("""\
{"code": "permission_denied", "hint": "ask a member to invite you, then: pilotctl network accept NETWORK", "message": "invite-only networks require invite_to_network + respond_invite flow", "status": "error"}
--- exit 5 ---
""")
    assert c.table("network", "join", 77) == snapshot("""\
--- stderr ---
error: network 77: network not found
hint:  see which networks there are: pilotctl network list
--- exit 3 ---
""")
    assert c("network", "join", 65_536) == snapshot("""\
{"code": "invalid_argument", "hint": "ids are 0 to 65,535", "message": "no such network: 65536", "status": "error"}
--- exit 2 ---
""")


def members(a: Pilotctl, c: Pilotctl) -> None:
    assert a("network", "members", 1) == snapshot(
        '{"data": {"nodes": [{"address": "1:0001.0000.0001", "hostname": "agent-a", "last_seen": "[time]", "node_id": 1, "public": false, "role": "owner", "version": "0.1.0"}, {"address": "1:0001.0000.0002", "hostname": "agent-b", "last_seen": "[time]", "node_id": 2, "public": false, "role": "member", "version": "0.1.0"}], "type": "list_nodes_ok"}, "status": "ok"}\n'
    )
    assert a.table("network", "members", 1) == snapshot("""\
members of network 1
┏━━━━━━┳━━━━━━━━━━━━━━━━━━┳━━━━━━━━━━┳━━━━━━━━┳━━━━━━━━┓
┃ node ┃ address          ┃ hostname ┃ role   ┃ online ┃
┡━━━━━━╇━━━━━━━━━━━━━━━━━━╇━━━━━━━━━━╇━━━━━━━━╇━━━━━━━━┩
│ 1    │ 1:0001.0000.0001 │ agent-a  │ owner  │ True   │
│ 2    │ 1:0001.0000.0002 │ agent-b  │ member │ True   │
└──────┴──────────────────┴──────────┴────────┴────────┘
""")
    assert c.table("network", "members", 1) == snapshot("""\
--- stderr ---
error: listing network 1 requires membership: not a member
hint:  a node joins with: pilotctl network join NETWORK
--- exit 5 ---
""")
    assert c("network", "members", 0) == snapshot("""\
{"code": "permission_denied", "message": "listing backbone nodes is not permitted (use lookup with a specific node_id)", "status": "error"}
--- exit 5 ---
""")


def invite(a: Pilotctl, b: Pilotctl) -> None:
    assert b("network", "invite", 2, 3) == snapshot("""\
{"code": "permission_denied", "hint": "a node joins with: pilotctl network join NETWORK", "message": "node 2 is not a member of network 2", "status": "error"}
--- exit 5 ---
""")
    assert a("network", "invite", 2, "agent-b") == snapshot(
        '{"data": {"network_id": 2, "target_node_id": 2, "type": "invite_to_network_ok"}, "status": "ok"}\n'
    )
    assert a("network", "invite", 2, "agent-b") == snapshot(
        '{"data": {"network_id": 2, "status": "already_invited", "target_node_id": 2, "type": "invite_to_network_ok"}, "status": "ok"}\n'
    )
    assert a.table("network", "invite", 2, "0:0000.0000.0003") == snapshot(
        "invited 0:0000.0000.0003\n"
    )
    assert a("network", "invite", 2, 1) == snapshot("""\
{"code": "invalid_argument", "message": "cannot invite yourself", "status": "error"}
--- exit 2 ---
""")


def invites(a: Pilotctl, b: Pilotctl) -> None:
    assert b("network", "invites") == snapshot(
        '{"data": {"invites": [{"inviter_id": 1, "network_id": 2, "timestamp": [unix]}], "type": "poll_invites_ok"}, "status": "ok"}\n'
    )
    assert b.table("network", "invites") == snapshot("""\
invites
┏━━━━━━━━━┳━━━━━━━━━━━━┳━━━━━━━━━━━━━━━━━━━━━┓
┃ network ┃ invited by ┃ when                ┃
┡━━━━━━━━━╇━━━━━━━━━━━━╇━━━━━━━━━━━━━━━━━━━━━┩
│ 2       │ 1          │ [time] │
└─────────┴────────────┴─────────────────────┘
""")
    assert a("network", "invites") == snapshot(
        '{"data": {"invites": [], "type": "poll_invites_ok"}, "status": "ok"}\n'
    )


def accept_and_reject(b: Pilotctl, c: Pilotctl) -> None:
    assert b("network", "accept", 2) == snapshot(
        '{"data": {"accepted": true, "address": "2:0002.0000.0002", "network_id": 2, "type": "respond_invite_ok"}, "status": "ok"}\n'
    )
    assert c("network", "reject", 2) == snapshot(
        '{"data": {"accepted": false, "network_id": 2, "type": "respond_invite_ok"}, "status": "ok"}\n'
    )
    assert c.table("network", "accept", 2) == snapshot("""\
--- stderr ---
error: no pending invite for node 3 to network 2 (not found)
hint:  see what you are invited to: pilotctl network invites
--- exit 3 ---
""")


def members_reach_each_other(a: Pilotctl, b: Pilotctl, c: Pilotctl) -> None:
    assert a("send", "1:0001.0000.0002", 7, "--data", "hello") == snapshot(
        '{"data": {"port": 7, "response": "hello", "sent": "hello", "target": "1:0001.0000.0002"}, "status": "ok"}\n'
    )
    assert a("send", "agent-b", 7, "--data", "hello") == snapshot(
        '{"data": {"port": 7, "response": "hello", "sent": "hello", "target": "agent-b"}, "status": "ok"}\n'
    )
    assert b("send", "1:0001.0000.0001", 7, "--data", "hello") == snapshot(
        '{"data": {"port": 7, "response": "hello", "sent": "hello", "target": "1:0001.0000.0001"}, "status": "ok"}\n'
    )
    assert c("send", "1:0001.0000.0002", 7, "--data", "hello") == snapshot("""\
{"code": "connection_failed", "hint": "it is offline, or private: see pilotctl lookup NODE, or ask for its trust with pilotctl handshake NODE", "message": "the node cannot be reached: node 2 is private, and does not trust this one", "status": "error"}
--- exit 6 ---
""")
    assert json.loads(a.run("info").stdout)["data"]["networks"] == snapshot(
        [
            {"address": "1:0001.0000.0001", "network_id": 1},
            {"address": "2:0002.0000.0001", "network_id": 2},
        ]
    )


def broadcast(private_network: Network, a: Pilotctl, c: Pilotctl) -> None:
    with (
        sync.Driver(private_network.nodes["agent-b"].socket) as driver,
        driver.datagram(1000) as datagrams,
    ):
        assert a("broadcast", 1, "hello") == snapshot(
            '{"data": {"bytes": 5, "members": 1, "network_id": 1, "port": 1000}, "status": "ok"}\n'
        )
        assert datagrams.receive(30).data == b"hello"
        assert a.table("broadcast", 1, "again", "--port", 2000) == snapshot(
            "sent 5 bytes to 1 member\n"
        )
    assert c("broadcast", 1, "hello") == snapshot("""\
{"code": "permission_denied", "hint": "join it first: pilotctl network join 1", "message": "broadcast: broadcast denied: not a member of network 1", "status": "error"}
--- exit 5 ---
""")
    assert a.table("broadcast", 0, "hello") == snapshot("""\
--- stderr ---
error: broadcast: broadcast denied: the backbone is everybody
hint:  make a network for those who should hear: pilotctl network create NAME
--- exit 5 ---
""")


def roles(a: Pilotctl, b: Pilotctl) -> None:
    assert b.table("network", "rename", 1, "ours") == snapshot("""\
--- stderr ---
error: rename_network requires role admin or owner
hint:  ask who owns the network, or give its admin token
--- exit 5 ---
""")
    assert a("network", "promote", 1, "agent-b") == snapshot(
        '{"data": {"network_id": 1, "role": "admin", "target_node_id": 2, "type": "promote_member_ok"}, "status": "ok"}\n'
    )
    assert b.table("network", "rename", 1, "ours") == snapshot("network 1 is ours\n")
    assert a.table("network", "demote", 1, 2) == snapshot("2 is a member\n")
    assert a("network", "kick", 2, 2) == snapshot(
        '{"data": {"network_id": 2, "target_node_id": 2, "type": "kick_member_ok"}, "status": "ok"}\n'
    )
    assert a.table("network", "transfer", 1, 2) == snapshot("2 is the owner\n")
    assert a.table("network", "members", 1) == snapshot("""\
members of network 1
┏━━━━━━┳━━━━━━━━━━━━━━━━━━┳━━━━━━━━━━┳━━━━━━━┳━━━━━━━━┓
┃ node ┃ address          ┃ hostname ┃ role  ┃ online ┃
┡━━━━━━╇━━━━━━━━━━━━━━━━━━╇━━━━━━━━━━╇━━━━━━━╇━━━━━━━━┩
│ 1    │ 1:0001.0000.0001 │ agent-a  │ admin │ True   │
│ 2    │ 1:0001.0000.0002 │ agent-b  │ owner │ True   │
└──────┴──────────────────┴──────────┴───────┴────────┘
""")


def leave(a: Pilotctl, b: Pilotctl) -> None:
    assert a("network", "leave", 1) == snapshot(
        '{"data": {"network_id": 1, "type": "leave_network_ok"}, "status": "ok"}\n'
    )
    assert a.table("network", "leave", 1) == snapshot("""\
--- stderr ---
error: node 1 is not a member of network 1
hint:  a node joins with: pilotctl network join NETWORK
--- exit 5 ---
""")
    assert b("network", "leave", 0) == snapshot("""\
{"code": "invalid_argument", "message": "cannot leave the backbone network", "status": "error"}
--- exit 2 ---
""")


def delete(a: Pilotctl, b: Pilotctl) -> None:
    assert a("network", "delete", 1) == snapshot("""\
{"code": "permission_denied", "hint": "ask who owns the network, or give its admin token", "message": "delete_network requires role owner", "status": "error"}
--- exit 5 ---
""")
    assert b("network", "delete", 1) == snapshot(
        '{"data": {"network_id": 1, "type": "delete_network_ok"}, "status": "ok"}\n'
    )
    assert a.table("network", "delete", 2) == snapshot("deleted network 2\n")
    assert a.table("network", "list") == snapshot("""\
networks
┏━━━━┳━━━━━━━━━━┳━━━━━━━━━━━━━━┳━━━━━━━━━┓
┃ id ┃ name     ┃ who may join ┃ members ┃
┡━━━━╇━━━━━━━━━━╇━━━━━━━━━━━━━━╇━━━━━━━━━┩
│ 0  │ backbone │ open         │ 3       │
└────┴──────────┴──────────────┴─────────┘
""")


def test_networks_from_nothing_to_two_and_back(
    private_network: Network, a: Pilotctl, b: Pilotctl, c: Pilotctl
) -> None:
    create(a)
    list(b)
    join(b, c)
    members(a, c)
    invite(a, b)
    invites(a, b)
    accept_and_reject(b, c)
    members_reach_each_other(a, b, c)
    broadcast(private_network, a, c)
    roles(a, b)
    leave(a, b)
    delete(a, b)


def test_the_group_explains_itself(alone: Pilotctl) -> None:
    assert alone("network", "list") == snapshot("""\
{"code": "not_running", "hint": "start the daemon with: pilotctl daemon start", "message": "no daemon answers at /nowhere/pilot.sock", "status": "error"}
--- exit 8 ---
""")


def test_a_token_that_ends_and_one_that_replaces_it(a: Pilotctl, b: Pilotctl) -> None:
    made = json.loads(a.run("network", "create", "gated", "--token", "first").stdout)["data"]
    network = made["network_id"]
    renewed = json.loads(a.run("network", "token", network, "--ttl", "24h").stdout)["data"]
    assert renewed["expires"] > time.time() + 86_000
    refused = json.loads(b.run("network", "join", network, "--token", "first").stdout)
    assert refused["code"] == "permission_denied"
    assert b.run("network", "token", network).returncode == 5
    joined = b.run("network", "join", network, "--token", renewed["token"])
    assert joined.returncode == 0
    shown = a.table("network", "token", "gated")
    assert shown.startswith(f"pilotctl network join {network} --token ")
    a.run("network", "delete", network)
