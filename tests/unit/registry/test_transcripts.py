"""What an existing registry answered, request by request, and what this one answers.

Every recorded entry is accounted for: replayed with the same result, replayed with a difference
that is listed here with its reason, or listed as the business of another layer.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.support.registry import READS, apply, snapshot_of

from pilotstack.registry.model.policy import Policy
from pilotstack.registry.model.source import Source
from pilotstack.registry.model.state import State
from pilotstack.registry.protocol import framing
from pilotstack.registry.storage import snapshot

VECTORS = Path(__file__).parents[2] / "vectors" / "registry-transcripts.json"
ENTRIES: list[dict[str, Any]] = json.loads(VECTORS.read_text())["data"]
NOW = 1_795_381_328.0
#: Members that are times of the recording.
TIMES = {"time", "timestamp"}

ERROR = {"type": "error"}


def group(word: str) -> list[dict[str, Any]]:
    return [entry for entry in ENTRIES if word in entry.get("group", "main")]


#: Entries of the main run that are answered differently: why, and what is answered instead.
DIFFERENCES: dict[str, tuple[str, dict[str, Any]]] = {
    "register new C hostname already taken": (
        "a name that is taken comes back as hostname_error",
        {"node_id": 3, "hostname_error": 'hostname "bob" already in use'},
    ),
    "set_tags duplicate kept": ("each tag once", {"tags": ["x"]}),
    "update_polo_score unsigned": ("nobody may change a score unsigned", ERROR),
    "set_polo_score unsigned": ("nobody may change a score unsigned", ERROR),
    "get_polo_score": ("the score was not changed above", {"polo_score": 0}),
    "lookup public with tags, task_exec, polo": (
        "the score was not changed above",
        {"polo_score": 0, "tags": ["web", "ai-agent"], "task_exec": True},
    ),
    "punch ok (discloses private endpoint!)": (
        "a private endpoint is as private here as in resolve",
        {"error": "punch denied: node 1 is private (establish mutual trust first)"},
    ),
    "resolve private after one-sided trust": (
        "trust takes both sides",
        {"error": "resolve denied: node 1 is private (establish mutual trust first)"},
    ),
    "check_trust (G2 only) on G1": (
        "answered; one side's claim is no trust",
        {"type": "check_trust_ok", "trusted": False},
    ),
    "report_trust self pair": ("nobody trusts himself", ERROR),
    "create_network open": (
        "networks work",
        {"type": "create_network_ok", "network_id": 1, "name": "net-open"},
    ),
    "create_network token": ("networks work", {"type": "create_network_ok", "network_id": 2}),
    "create_network invite": ("networks work", {"type": "create_network_ok", "network_id": 3}),
    "join_network": (
        "networks work; the admin token stands in for the signature",
        {"type": "join_network_ok", "network_id": 1, "address": "1:0001.0000.0002"},
    ),
    "list_networks (after)": ("networks work", {"type": "list_networks_ok"}),
    "resolve private after trust": (
        "it registered relay_only, so it has a beacon's endpoint",
        {"type": "resolve_ok", "node_id": 1, "real_addr": "", "relay_only": True},
    ),
    "beacon_register ok (unauthenticated)": (
        "with an admin token configured, it takes that",
        {"error": "invalid admin token"},
    ),
    "beacon_list": ("no beacon was registered above", {"beacons": []}),
    "rotate_key G2 challenge form on G1": (
        "the challenge that covers the new key is the better one",
        {"type": "rotate_key_ok", "public_key": "UWXg0/bNvkCuBK9/G+bkQGCBk1T2PSq2VSq3GIr0bgM="},
    ),
    "rotate_key signature path": ("the entry before has rotated the key already", ERROR),
    "lookup after rotate": (
        "the score was not changed above; networks were joined",
        {"public_key": "UWXg0/bNvkCuBK9/G+bkQGCBk1T2PSq2VSq3GIr0bgM=", "networks": [0, 1]},
    ),
    "register B with OLD key + same owner after rotation (owner key update = takeover)": (
        "an owner's name takes over nothing: another key is another node",
        {"type": "register_ok", "node_id": 5},
    ),
    "register E with bob's owner string (hijack)": (
        "an owner's name takes over nothing: another key is another node",
        {"type": "register_ok", "node_id": 6},
    ),
    "lookup hijacked node 2": (
        "it is not hijacked",
        {
            "public_key": "UWXg0/bNvkCuBK9/G+bkQGCBk1T2PSq2VSq3GIr0bgM=",
            "real_addr": "127.0.0.2:4001",
        },
    ),
    "G2-only type get_network_policy": (
        "answered",
        {"network_id": 1, "max_members": 0, "allowed_ports": [], "description": ""},
    ),
    "G2-only type get_expr_policy": ("answered", {"network_id": 1}),
    "G2-only type get_key_info": ("answered", {"rotate_count": 0, "key_age_days": 0}),
    "G2-only type get_member_tags": (
        "answered: an open network may be listed by all",
        {"members": {}},
    ),
}

#: Entries of the main run that are about the connection, and tested where that is served.
SHELL = {
    "subscribe_replication not configured",
    "pipelined two requests",
    "12 registrations from one IP",
    "known key bypasses exhausted limiter",
}


def matches(expected: Any, actual: Any) -> bool:
    """Whether everything expected is there; more members are fine, times are not compared."""
    if isinstance(expected, dict):
        return isinstance(actual, dict) and all(
            name in actual and (name in TIMES or matches(value, actual[name]))
            for name, value in expected.items()
        )
    if isinstance(expected, list):
        return (
            isinstance(actual, list)
            and len(expected) == len(actual)
            and all(map(matches, expected, actual))
        )
    return bool(expected == actual) and type(expected) is type(actual)


def check(entry: dict[str, Any], reply: dict[str, Any], expected: dict[str, Any]) -> None:
    if expected.get("error") == "request failed":
        assert reply["type"] == "error", entry["name"]
        assert reply["error"] not in {"", "request failed"}, entry["name"]
        return
    if expected is ERROR:
        assert reply["type"] == "error", entry["name"]
    assert matches(expected, reply), (entry["name"], expected, reply)
    if "error" not in expected and expected is not ERROR:
        assert "error" not in reply, entry["name"]


def test_the_recorded_run_is_answered_alike_except_for_listed_differences() -> None:
    state = State(Policy(admin_token="secret"))
    sources = {host: Source(host, 40_000) for host in ("127.0.0.1", "127.0.0.2")}
    answered = set()
    for entry in group("main"):
        request = entry["request"]
        if not isinstance(request, dict) or "_raw_hex" in request or entry["name"] in SHELL:
            continue
        source = sources["127.0.0.2" if "spoofed IP" in entry["name"] else "127.0.0.1"]
        reply = apply(state, request, source, NOW).reply
        expected = DIFFERENCES.get(entry["name"], ("", entry["response"]))[1]
        check(entry, reply, expected)
        if entry["name"] in DIFFERENCES:
            old = entry["response"]
            is_same = matches(old, reply) and matches(expected, old)
            assert not is_same, f"no difference: {entry['name']}"
        answered.add(entry["name"])
    assert set(DIFFERENCES) <= answered
    rest = {entry["name"] for entry in group("main")} - answered - SHELL
    assert all(name.startswith("frame: ") for name in rest)


@pytest.mark.parametrize(
    "entry",
    [entry for entry in ENTRIES if entry["name"].startswith("frame: ")],
    ids=lambda entry: entry["name"],
)
def test_a_malformed_message_ends_the_connection(entry: dict[str, Any]) -> None:
    framer = framing.Framer()
    framer.feed(bytes.fromhex(entry["request"]["_raw_hex"]))
    if entry["name"] == "frame: JSON null":
        body = framer.next_body()
        assert body is not None
        reply = apply(State(), framing.decode(body), Source("127.0.0.1", 1), NOW).reply
        assert reply["type"] == "error"
        return

    def read() -> None:
        body = framer.next_body()
        assert body is not None, "the frame would be waited for"
        framing.decode(body)

    with pytest.raises(framing.ProtocolError):
        read()


def test_the_store_of_an_existing_registry_is_continued() -> None:
    entries = {entry["name"]: entry for entry in group("restart")}
    state = snapshot.load(entries["[store file after SIGTERM]"]["response"], NOW)
    source = Source("127.0.0.1", 40_000)
    after = [name for name in entries if name.startswith("[after restart]")]
    assert len(after) == 5
    for name in after:
        reply = apply(state, entries[name]["request"], source, NOW).reply
        check(entries[name], reply, entries[name]["response"])


def test_a_standby_answers_reads_and_keeps_what_old_standbys_dropped() -> None:
    entries = [entry for entry in group("restart") if entry["name"].startswith("[standby]")]
    by_name = {entry["name"]: entry for entry in entries}
    first = by_name["[standby] first frame the standby sends to the primary"]
    state = snapshot.load(first["response"]["snapshot"], NOW)
    state.policy = Policy(is_standby=True)
    before = snapshot_of(state)
    source = Source("127.0.0.1", 40_000)
    differences: dict[str, dict[str, Any]] = {
        "[standby] lookup": {"tags": ["web"], "task_exec": True, "polo_score": 7},
        # Reading an endpoint under the rule of resolve changes nothing, so a copy may answer.
        "[standby] punch": {"type": "punch_ok", "node_a_addr": "127.0.0.1:4000"},
        "[standby] get_polo_score": {"polo_score": 7},
    }
    for entry in entries:
        request = entry["request"]
        if request is None or request["type"] not in READS:
            continue
        reply = apply(state, request, source, NOW).reply
        check(entry, reply, differences.get(entry["name"], entry["response"]))
    assert snapshot_of(state) == before
    refused = {entry["request"]["type"] for entry in entries if entry["request"]} - READS
    assert refused == {
        *("subscribe_replication", "heartbeat", "poll_handshakes", "register", "set_hostname"),
        *("request_handshake", "beacon_register"),
    }


#: What the attacks on the recorded registry come to here.
ATTACKS: dict[str, dict[str, Any]] = {
    "[attack] lookup alice afterwards": {"real_addr": "127.0.0.1:4000"},
    "[attack] mallory rotates her key to bob's public key (no proof of possession asked)": {
        "error": "public key already registered"
    },
    "[attack] bob re-registers with his own key": {"node_id": 2},
    "[encoding] register C, non-canonical trailing bits": {"node_id": 5},
    "[encoding] register C, newline inside base64": {"node_id": 5},
    "[encoding] register C, canonical base64": {"node_id": 5},
    "[types] node_id 1.9": {"node_id": 1, "real_addr": "127.0.0.1:4000"},
    "[listen_addr] port 0": {"node_id": 6},
    "[listen_addr] IPv6 text, non-numeric allowed?": ERROR,
    "[listen_addr] junk port is stored verbatim": ERROR,
}


def test_the_recorded_attacks_fail() -> None:
    state = State()
    home, attacker = Source("127.0.0.1", 40_000), Source("127.0.0.9", 40_000)
    attacks = [entry for entry in group("attacks") if entry["request"] is not None]
    keys = ["1b9KP8znF7A4i8wnSevBSK2ZabI/Re4bYF/Vh3hXasQ=", None]
    keys[1] = attacks[3]["request"]["new_public_key"]
    for number, key in enumerate(keys, 1):
        joining = {"type": "register", "public_key": key, "listen_addr": f":{3999 + number}"}
        assert apply(state, joining, home, NOW).reply["node_id"] == number
    request = {
        "type": "set_visibility",
        "node_id": 1,
        "public": True,
        "signature": next(
            entry["request"]["signature"]
            for entry in ENTRIES
            if entry["name"] == "set_visibility private"
        ),
    }
    assert "error" not in apply(state, request, home, NOW).reply
    # One more, so that ids are those of the recording, where another node was there.
    for entry in attacks:
        is_owner = "alice rotates" in entry["name"] or "bob " in entry["name"]
        reply = apply(state, entry["request"], home if is_owner else attacker, NOW).reply
        if reply.get("node_id") == 3 and entry["request"]["type"] == "register":
            apply(
                state,
                {"type": "register", "public_key": "eDK4UHT6QvRKbrx2OBoLFTvSfRV5pyzMIK9iZMEVQDw="},
                home,
                NOW,
            )
        check(entry, reply, ATTACKS.get(entry["name"], entry["response"]))
    assert set(ATTACKS) <= {entry["name"] for entry in attacks}


def test_every_recorded_entry_is_accounted_for() -> None:
    elsewhere = ("[corrupt store]", "[{} store]", "[TLS]", "[store file", "subscribe", "  same")
    for entry in ENTRIES:
        name = entry["name"]
        if "group" not in entry:
            continue
        is_replayed = name.startswith(
            ("[after restart]", "[standby]", "[attack]", "[encoding]", "[types]", "[listen_addr]")
        )
        is_stream = "replication" in entry["group"]
        assert is_replayed or is_stream or name.startswith(elsewhere), name
