"""Registration, key and tags, as they are typed and shown. Each test goes on where the one before it
ended."""

from __future__ import annotations

from typing import TYPE_CHECKING

from inline_snapshot import snapshot

if TYPE_CHECKING:
    from tests.support.pilotctl import Pilotctl

    from pilotstack.testing import Network


def test_a_deregistered_node_is_unknown_until_it_registers(a: Pilotctl, b: Pilotctl) -> None:
    assert a("deregister") == snapshot('{"data": {"type": "deregister_ok"}, "status": "ok"}\n')
    assert b("lookup", 1) == snapshot("""\
{"code": "not_found", "hint": "check the id; the node may have been deregistered", "message": "node 1: node not found", "status": "error"}
--- exit 3 ---
""")
    assert a("register") == snapshot(
        '{"data": {"address": "0:0000.0000.0001", "hostname": "agent-a", "node_id": 1, "public_key": "[key]", "type": "register_ok"}, "status": "ok"}\n'
    )
    assert b("lookup", 1) == snapshot(
        '{"data": {"address": "0:0000.0000.0001", "hostname": "agent-a", "key_generation": 0, "networks": [0], "node_id": 1, "polo_score": 0, "public": false, "public_key": "[key]", "type": "lookup_ok", "version": "0.1.0"}, "status": "ok"}\n'
    )
    assert a.table("deregister") == snapshot("deregistered\n")
    assert b.table("lookup", "agent-a") == snapshot("""\
--- stderr ---
error: hostname "agent-a" not found
hint:  check the spelling; a node that deregisters loses its name
--- exit 3 ---
""")
    assert a.table("register") == snapshot("this node is 0:0000.0000.0001\n")
    assert b.table("lookup", "agent-a") == snapshot("""\
node_id         1
address         0:0000.0000.0001
public_key      [key]
public          False
polo_score      0
key_generation  0
hostname        agent-a
version         0.1.0
type            lookup_ok
""")


def test_only_a_node_itself_rotates_its_key(a: Pilotctl, b: Pilotctl) -> None:
    assert b("rotate-key") == snapshot(
        '{"data": {"address": "0:0000.0000.0002", "node_id": 2, "public_key": "[key]", "type": "rotate_key_ok"}, "status": "ok"}\n'
    )
    assert b.table("rotate-key") == snapshot("node 2 has the key [key]\n")
    assert b.table("rotate-key", 2, "agent-b@pilot") == snapshot("node 2 has the key [key]\n")
    assert a("rotate-key", 2, "agent-b@pilot") == snapshot("""\
{"code": "permission_denied", "hint": "give --recovery-secret (see: pilotctl recovery enroll) or --admin-token", "message": "the key of node 2 is not held here, and being agent-b@pilot proves nothing", "status": "error"}
--- exit 5 ---
""")
    assert a.table("rotate-key", 2, "agent-b@pilot", "--recovery-secret", "guess") == snapshot("""\
--- stderr ---
error: recovery denied: invalid recovery secret
hint:  give the secret that was enrolled
--- exit 5 ---
""")


def test_the_enrolled_secret_replaces_a_lost_key(
    private_network: Network, c: Pilotctl, alone: Pilotctl
) -> None:
    secret = "correct horse battery staple"
    assert c("recovery", "enroll", "--recovery-secret", secret) == snapshot(
        '{"data": {"enrolled": true, "node_id": 3, "type": "enroll_recovery_ok"}, "status": "ok"}\n'
    )
    path = private_network.path / "new.json"
    somewhere = c.with_environment(PILOT_SOCKET="/nowhere/pilot.sock", PILOT_RECOVERY_SECRET=secret)
    recover = ("rotate-key", 3, "agent-c@pilot", "--identity", path)
    assert somewhere(*recover) == snapshot(
        '{"data": {"address": "0:0000.0000.0003", "identity": "[dir]/new.json", "node_id": 3, "public_key": "[key]", "type": "recover_identity_ok"}, "status": "ok"}\n'
    )
    assert path.stat().st_mode & 0o777 == 0o600
    # A secret that was shown is spent.
    assert somewhere.table(*recover) == snapshot("""\
--- stderr ---
error: recovery denied: invalid recovery secret
hint:  give the secret that was enrolled
--- exit 5 ---
""")


def test_a_made_secret_is_shown_once(b: Pilotctl) -> None:
    shown = b.run("recovery", "enroll").stdout
    assert '"recovery_secret": "' in shown
    assert b("recovery", "withdraw") == snapshot(
        '{"data": {"enrolled": false, "node_id": 2, "type": "enroll_recovery_ok"}, "status": "ok"}\n'
    )
    assert b.table("recovery", "withdraw") == snapshot("withdrawn\n")


def test_tags_are_set_and_cleared(a: Pilotctl) -> None:
    assert a("set-tags", "web", "ai") == snapshot(
        '{"data": {"node_id": 1, "tags": ["web", "ai"]}, "status": "ok"}\n'
    )
    assert a.table("set-tags", "web") == snapshot("web\n")
    assert a("set-tags", "a", "b", "c", "d") == snapshot("""\
{"code": "invalid_argument", "message": "set_tags: maximum 3 tags allowed", "status": "error"}
--- exit 2 ---
""")
    assert a("set-tags", "No Tag") == snapshot("""\
{"code": "invalid_argument", "hint": "use a to z, 0 to 9 and hyphens, with none at the beginning or end", "message": "invalid tag \\"No Tag\\": must be lowercase alphanumeric with hyphens, start/end with alphanumeric", "status": "error"}
--- exit 2 ---
""")
    assert a("set-tags") == snapshot("""\
{"code": "invalid_argument", "hint": "see: pilotctl set-tags --help", "message": "Missing argument 'TAGS...'", "status": "error"}
--- exit 2 ---
""")
    assert a("clear-tags") == snapshot('{"data": {"tags": []}, "status": "ok"}\n')
    assert a.table("clear-tags") == snapshot("no tags\n")
