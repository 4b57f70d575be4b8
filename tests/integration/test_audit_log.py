"""What real processes write to their audit logs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from tests.support.arrivals import until_asked, until_trusted

from pilotstack import sync
from pilotstack.errors import PilotError
from pilotstack.testing import Network

if TYPE_CHECKING:
    from pathlib import Path


def events(path: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["seq"] for line in found] == list(range(1, len(found) + 1))
    return found


def test_trust_networks_and_secrets_leave_a_trail(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "agent.jsonl", tmp_path / "registry.jsonl"
    secret = "the operator's own"
    with Network("--audit-log", str(theirs), "--admin-token", secret) as network:
        a = network.start("agent-a", "--audit-log", str(ours), "--log-level", "error", public=False)
        b = network.start("agent-b", public=False)
        with sync.Driver(a.socket) as first, sync.Driver(b.socket) as second:
            second.handshake("agent-a", "for the test")
            until_asked(first, b.node_id)
            first.approve(b.node_id)
            until_trusted(second, "agent-a")
            with pytest.raises(PilotError):
                first.create_network("lab", admin_token="a guess")
            first.create_network("lab", admin_token=secret)
            first.untrust(b.node_id)
            first.set_visibility(public=True)
        a.process.stop()
    names = [line["event"] for line in events(ours)]
    assert (names[0], names[-1]) == ("audit_started", "audit_ended")
    wanted = ["handshake.pending", "trust.established", "trust.revoked", "visibility_changed"]
    assert [name for name in names if name in wanted] == wanted
    told = events(theirs)
    added = [line for line in told if line["event"] == "node_added"]
    assert [line["node"] for line in added] == [a.node_id, b.node_id]
    assert {line["source"] for line in added} == {"127.0.0.1"}
    names = [line["event"] for line in told]
    assert {"wrong_secret", "respond_handshake", "revoke_trust", "create_network"} <= set(names)
    text = theirs.read_text()
    assert secret not in text
    assert "a guess" not in text
