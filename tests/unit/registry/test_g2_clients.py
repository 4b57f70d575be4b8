"""Recorded requests of second-generation daemons and commands get the answers that these expect."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.support.registry import apply

from pilotstack.registry.model.policy import Policy
from pilotstack.registry.model.source import Source
from pilotstack.registry.model.state import State

VECTORS = Path(__file__).parents[2] / "vectors" / "registry-g2-captures.json"
RUNS: dict[str, dict[str, Any]] = {
    run["name"]: run for run in json.loads(VECTORS.read_text())["data"]
}
NOW = 1_795_381_328.0

#: Requests of a run that got another kind of answer than here: (command, type) and why.
#: "background" stands for what daemons do by themselves.
DIFFERENCES: dict[str, dict[tuple[str, str], str]] = {
    "G2 clients <-> G1 registry": {
        ("", "get_network_policy"): "answered: no three tries at start-up",
        ("a: pilotctl network invites", "poll_invites"): "answered",
    },
    "G2 clients <-> mock registry answering in the G2 shapes": {
        ("a: pilotctl network invite 3 2", "invite_to_network"): "there is no network 3 yet",
        ("a: pilotctl network promote 3 2", "promote_member"): "there is no network 3 yet",
        ("a: pilotctl network demote 3 2", "demote_member"): "there is no network 3 yet",
        ("a: pilotctl network rename 3 club2", "rename_network"): "there is no network 3 yet",
        ("a: pilotctl network kick 3 2", "kick_member"): "there is no network 3 yet",
        ("a: pilotctl network delete 2", "delete_network"): "there is no network 2 yet",
        ("a: pilotctl handshake b-host hello from a", "get_member_tags"): "2 was kicked from 3",
        ("a: pilotctl audit --limit 5", "get_network_policy"): "network 2 was deleted",
        ("a: pilotctl audit --limit 5", "get_member_tags"): "network 2 was deleted",
    },
    "G1 clients <-> G1 registry": {},
    "experiment: one-sided report_trust against a private G2 daemon": {
        ("a: pilotctl ping b-host --count 1 --timeout 5s", "resolve"): "trust takes both sides",
    },
}


def conversation(run: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """All messages of a run in the order of time, with the command they belong to."""
    timed = [(message["t"], "", message) for message in run["startup"] + run["background"]]
    for command in run["commands"]:
        for message in command["messages"]:
            is_background = message.get("background")
            name = "" if is_background else command["command"]
            timed.append((command["at_s"] + message["t"], name, message))
    timed.sort(key=lambda entry: entry[0])
    return [(command, message) for _, command, message in timed]


@pytest.mark.parametrize("name", RUNS)
def test_a_recorded_daemon_is_served(name: str) -> None:
    state = State(Policy(admin_token="adm-secret"))
    sources: dict[tuple[str, int], Source] = {}
    differences = dict(DIFFERENCES[name])
    seen, asked = set(), set()
    for command, message in conversation(RUNS[name]):
        request, recorded = message["request"], message["response"]
        if command == "b: pilotctl rotate-key" and recorded["type"] == "error":
            # The recorded registry could not do it, so everything after is signed by the old key.
            continue
        key = (message["channel"], message["conn"])
        source = sources.setdefault(key, Source("127.0.0.1", 40_000))
        reply = apply(state, request, source, NOW + message["t"]).reply
        difference = (command, request["type"])
        closed = state.networks.get(request.get("network_id", 0))
        if request["type"] == "get_network_policy" and closed and closed.join_rule == "invite":
            # Only members may know of it, which a stays and b does not; the mock told everybody.
            is_outside = key[0] == "daemon-b" and 2 not in state.members.of(closed.network_id)
            assert reply["type"] == ("error" if is_outside else recorded["type"]), (command, reply)
            asked.add(is_outside)
            continue
        if reply["type"] != recorded["type"]:
            assert difference in differences, (command, request, recorded, reply)
            seen.add(difference)
        elif reply["type"] != "error":
            missing = {
                member
                for member, value in recorded.items()
                if value is not None and member not in reply
            }
            if request["type"] in {"lookup", "resolve_hostname"} and not reply["public"]:
                # Whether a private node is there is not for everybody.
                missing.discard("last_seen_unix")
            if request["type"] in {"rename_network", "delete_network", "kick_member"}:
                # The mock answered all of a family with one set of members.
                missing.discard("role")
            assert not missing, (request["type"], missing)
    assert seen == set(differences)
    # Members and others have asked for the policy of a closed network, where there is one.
    assert asked == ({True, False} if "mock" in name else set())


def test_daemons_register_anew_after_a_restart_without_a_store() -> None:
    run = RUNS["G2 clients <-> mock registry answering in the G2 shapes"]
    state = State()
    sources: dict[tuple[str, int], Source] = {}
    texts = []
    for message in run["registry_restart"] + run["after_sigterm_of_daemon_a"]:
        key = (message["channel"], message["conn"])
        source = sources.setdefault(key, Source("127.0.0.1", 40_000))
        reply = apply(state, message["request"], source, NOW + message["t"]).reply
        assert reply["type"] == message["response"]["type"], (message["request"], reply)
        if message["request"]["type"] == "heartbeat" and reply["type"] == "error":
            texts.append(reply["error"])
    # The text that makes them register again at once.
    assert texts
    assert all("node not found" in text for text in texts)
