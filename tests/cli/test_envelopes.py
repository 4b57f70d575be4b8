"""Signed requests, tags of members and the other commands that ask the daemon one question, as they
are typed and shown."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from inline_snapshot import snapshot

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.pilotctl import Pilotctl


def test_a_signed_request_is_verified_by_others(a: Pilotctl, b: Pilotctl, tmp_path: Path) -> None:
    signed = json.loads(a.run("sign-request", "--audience", "svc", "--body", "hello").stdout)[
        "data"
    ]
    assert signed.keys() == {"type", "envelope", "signature", "address"}
    version, address, _, nonce, digest, audience = signed["envelope"].split("|")
    assert (version, address, audience) == ("pilot-req-v1", "000000000001", "svc")
    assert (len(nonce), digest[:8]) == (16, "2cf24dba")
    proof = ("--envelope", signed["envelope"], "--signature", signed["signature"])
    assert b("verify-request", *proof) == snapshot(
        '{"data": {"address": "0:0000.0000.0001", "node_id": 1, "trusted": false, "type": "verify_envelope_ok", "valid": true, "verified_via": "registry"}, "status": "ok"}\n'
    )
    assert b.table("verify-request", *proof, "--standing") == snapshot(
        "signed by node 1 (0:0000.0000.0001), not trusted\n"
    )
    other = signed["envelope"].replace("svc", "other")
    forged = ("--envelope", other, "--signature", signed["signature"])
    assert b("verify-request", *forged) == snapshot("""\
{"code": "permission_denied", "data": {"reason": "reqsig: signature verification failed", "type": "verify_envelope_ok", "valid": false}, "hint": "do not act upon this request", "message": "the envelope is not authentic: reqsig: signature verification failed", "status": "error"}
--- exit 5 ---
""")
    assert b.table("verify-request", *forged) == snapshot("""\
--- stderr ---
error: the envelope is not authentic: reqsig: signature verification failed
hint:  do not act upon this request
--- exit 5 ---
""")
    (tmp_path / "body").write_bytes(b"hello")
    for body in (("--body-file", tmp_path / "body"), ("--body-hash", digest), ("--body", "-")):
        again = a.run("sign-request", "--audience", "svc", *body, stdin="hello")
        assert json.loads(again.stdout)["data"]["envelope"].split("|")[4] == digest
    (tmp_path / "body").write_bytes(b"x" * 100_000)
    assert a.run("sign-request", "--audience", "svc", "--body-file", tmp_path / "body").stdout
    assert a("sign-request", "--audience", "svc") == snapshot("""\
{"code": "invalid_argument", "hint": "give --body, --body-file or --body-hash", "message": "a body is missing", "status": "error"}
--- exit 2 ---
""")


def test_health_is_what_monitors_look_at(a: Pilotctl) -> None:
    health = json.loads(a.run("health").stdout)["data"]
    assert health["status"] == "ok"
    assert health.keys() == {
        *("status", "uptime_seconds", "beacon_addr", "connections", "peers", "encrypted_peers"),
        *("authenticated_peers", "bytes_sent", "bytes_recv", "relay_peer_count"),
        *("handshake_pending_count", "accept_queue_drops"),
        *("webhook_queue_dropped", "webhook_circuit_skips"),
    }


def test_prefer_direct_asks_the_registry_anew(a: Pilotctl) -> None:
    assert a("prefer-direct", 2) == snapshot(
        '{"data": {"had_tunnel": false, "node_id": 2, "pila_pushed": true, "resolve_error": "", "was_relay_active": false, "was_relay_pinned": false}, "status": "ok"}\n'
    )
    assert a.table("prefer-direct", 2) == snapshot(
        "node 2: asked the registry anew; no relay was in use\n"
    )
    assert a("prefer-direct", 99) == snapshot(
        '{"data": {"had_tunnel": false, "node_id": 99, "pila_pushed": false, "resolve_error": "node 99: node not found", "was_relay_active": false, "was_relay_pinned": false}, "status": "ok"}\n'
    )


def test_tags_of_members(a: Pilotctl, b: Pilotctl) -> None:
    assert json.loads(a.run("network", "create", "tagged").stdout)["status"] == "ok"
    assert json.loads(b.run("network", "join", "tagged").stdout)["status"] == "ok"
    assert a(
        "member-tags", "set", "--net", "tagged", "--node", 2, "--tags", "gpu,fast"
    ) == snapshot(
        '{"data": {"network_id": 1, "tags": ["gpu", "fast"], "target_node_id": 2, "type": "set_member_tags_ok"}, "status": "ok"}\n'
    )
    assert a("member-tags", "get", "--net", "tagged") == snapshot(
        '{"data": {"members": {"2": ["gpu", "fast"]}, "network_id": 1, "target_node_id": 0, "type": "get_member_tags_ok"}, "status": "ok"}\n'
    )
    assert a.table("member-tags", "get", "--net", "tagged") == snapshot("""\
tags in network 1
┏━━━━━━┳━━━━━━━━━━┓
┃ node ┃ tags     ┃
┡━━━━━━╇━━━━━━━━━━┩
│ 2    │ gpu fast │
└──────┴──────────┘
""")
    assert a("member-tags", "get", "--net", "tagged", "--node", 2) == snapshot(
        '{"data": {"network_id": 1, "tags": ["gpu", "fast"], "target_node_id": 2, "type": "get_member_tags_ok"}, "status": "ok"}\n'
    )
    assert a("policy", "get", "--net", "tagged") == snapshot(
        '{"data": {"engine": "none", "network_id": 1, "type": "managed_policy_ok"}, "status": "ok"}\n'
    )
    assert a.table("policy", "get", "--net", "tagged") == snapshot("""\
engine      none
network_id  1
type        managed_policy_ok
""")
    assert a("policy", "get") == snapshot("""\
{"code": "invalid_argument", "hint": "see: pilotctl policy get --help", "message": "Missing option '--net'", "status": "error"}
--- exit 2 ---
""")


def test_the_first_steps(alone: Pilotctl) -> None:
    assert alone.table("quickstart") == snapshot("""\
1. be a node of a network
   pilotctl daemon start --registry HOST:9000
2. see who you are
   pilotctl info
3. find another agent
   pilotctl find agent-b
4. be let in by it
   pilotctl handshake agent-b "want to collaborate"
5. see that it answers
   pilotctl ping agent-b
6. send it something
   pilotctl send-message agent-b --data hello
7. read what came
   pilotctl inbox
8. see all commands
   pilotctl context
""")
    assert alone("version") == snapshot('{"data": {"version": "0.1.0"}, "status": "ok"}\n')
    assert alone.table("version") == snapshot("0.1.0\n")


def test_extras_of_existing_programs_are_ordinary_commands(a: Pilotctl) -> None:
    assert a("extras", "clear-tags") == a("clear-tags")
    assert a("extras", "member-tags", "get") == a("member-tags", "get")
    assert a.run("extras").returncode == 2
