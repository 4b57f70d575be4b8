"""Names, visibility and lookups, as they are typed and shown."""

from __future__ import annotations

from typing import TYPE_CHECKING

from inline_snapshot import snapshot

if TYPE_CHECKING:
    from tests.support.pilotctl import Pilotctl


def test_find_shows_the_address_behind_a_hostname(agent_a: Pilotctl) -> None:
    assert agent_a("find", "agent-b") == snapshot(
        '{"data": {"address": "0:0000.0000.0002", "hostname": "agent-b", "node_id": 2, "public": true}, "status": "ok"}\n'
    )
    assert agent_a.table("find", "agent-b") == snapshot("""\
hostname  agent-b
node_id   2
address   0:0000.0000.0002
public    True
""")
    assert agent_a("find", "nobody") == snapshot("""\
{"code": "not_found", "hint": "check the spelling; a node that deregisters loses its name, and names of the nameserver last for five minutes", "message": "hostname \\"nobody\\" not found", "status": "error"}
--- exit 3 ---
""")
    assert agent_a.table("find", "nobody") == snapshot("""\
--- stderr ---
error: hostname "nobody" not found
hint:  check the spelling; a node that deregisters loses its name, and names of the nameserver last for five minutes
--- exit 3 ---
""")


def test_lookup_shows_what_the_registry_tells_of_a_node(agent_a: Pilotctl) -> None:
    assert agent_a("lookup", "2") == snapshot(
        '{"data": {"address": "0:0000.0000.0002", "endpoint": "[endpoint]", "hostname": "agent-b", "key_generation": 0, "last_seen_unix": [unix], "networks": [0], "node_id": 2, "polo_score": 0, "public": true, "public_key": "[key]", "real_addr": "[endpoint]", "type": "lookup_ok", "version": "0.1.0"}, "status": "ok"}\n'
    )
    assert agent_a.table("lookup", "agent-b") == snapshot("""\
node_id         2
address         0:0000.0000.0002
public_key      [key]
public          True
polo_score      0
key_generation  0
hostname        agent-b
version         0.1.0
last_seen_unix  [unix]
real_addr       [endpoint]
endpoint        [endpoint]
type            lookup_ok
""")
    assert agent_a("lookup", "99") == snapshot("""\
{"code": "not_found", "hint": "check the id; the node may have been deregistered", "message": "node 99: node not found", "status": "error"}
--- exit 3 ---
""")


def test_commands_without_a_daemon_say_how_to_start_one(alone: Pilotctl) -> None:
    assert alone("find", "agent-b") == snapshot("""\
{"code": "not_running", "hint": "start the daemon with: pilotctl daemon start", "message": "no daemon answers at /nowhere/pilot.sock", "status": "error"}
--- exit 8 ---
""")
    assert alone.table("find", "agent-b") == snapshot("""\
--- stderr ---
error: no daemon answers at /nowhere/pilot.sock
hint:  start the daemon with: pilotctl daemon start
--- exit 8 ---
""")
    assert alone("lookup", "2") == snapshot("""\
{"code": "connection_failed", "hint": "check that it runs and that --registry names it", "message": "the registry at 127.0.0.1:1 refused the connection: nothing listens there", "status": "error"}
--- exit 6 ---
""")


def test_usage_errors_name_the_help(alone: Pilotctl) -> None:
    assert alone("no-such-command") == snapshot("""\
{"code": "invalid_argument", "hint": "see: pilotctl --help", "message": "No such command 'no-such-command'", "status": "error"}
--- exit 2 ---
""")
    assert alone("find") == snapshot("""\
{"code": "invalid_argument", "hint": "see: pilotctl find --help", "message": "Missing argument 'HOSTNAME'", "status": "error"}
--- exit 2 ---
""")
